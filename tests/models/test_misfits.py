"""Weights that are not those of the model they are loaded into end the load with their names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ModelError, RunError
from sft.models import loading
from sft.models.loading import check_fit, load_base, load_for_training, load_run
from sft.models.misfits import refuse_misfits
from sft.models.source import find_source
from sft.runs.run import open_run
from tests.tiny import make_tiny_model

Tensors = dict[str, torch.Tensor]
UP = "model.layers.0.mlp.up_proj.weight"


def edit(folder: Path, change: Callable[[Tensors], Tensors], name: str = "model.safetensors") -> Path:
    """The folder with its tensors changed."""
    tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
    save_file(change(tensors), folder / name, metadata={"format": "pt"})
    return folder


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def configure(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "torch.compile's names": (
        lambda folder: edit(folder, prefixed("_orig_mod.")),
        r"missing: lm_head\.weight, .* and 24 more; unexpected: _orig_mod\.lm_head\.weight, .*"
        r"names begin with '_orig_mod\.', as torch\.compile saves them: save the weights again without it",
    ),
    "DataParallel's names": (lambda folder: edit(folder, prefixed("module.")), "as DataParallel saves them"),
    "a tensor missing": (lambda folder: edit(folder, without(UP)), f"missing: {UP}; restore the folder"),
    "an output layer missing": (lambda folder: edit(folder, without("lm_head.weight")), r"missing: lm_head\.weight"),
    "a tensor too many": (
        lambda folder: edit(folder, lambda tensors: tensors | {"foo.bar": torch.ones(2)}),
        r"unexpected: foo\.bar;",
    ),
    "a layer more": (
        lambda folder: configure(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3),
        r"missing: model\.layers\.2\.input_layernorm\.weight",
    ),
    "a layer less": (
        lambda folder: configure(folder, num_hidden_layers=1, layer_types=["full_attention"]),
        r"unexpected: model\.layers\.1\.input_layernorm\.weight, .*; num_hidden_layers in config\.json is lower",
    ),
    "another width": (
        lambda folder: configure(folder, intermediate_size=48),
        r"of another shape: model\.layers\.0\.mlp\.down_proj\.weight \(32x64, expected 32x48\), .* and 3 more",
    ),
}


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder to be spoilt."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


@pytest.mark.parametrize("four_bit", [False, True], ids=["16 bits", "4 bits"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_do_not_fit_are_refused_with_their_names(kind: str, four_bit: bool, folder: Path):
    spoil, words = KINDS[kind]
    with pytest.raises(ModelError, match=words) as caught:
        load_base(str(spoil(folder)), four_bit=four_bit)
    assert "its weights do not fit its config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_refused_before_unsloth_sees_them(kind: str, folder: Path, monkeypatch):
    monkeypatch.setattr(loading, "load_with_unsloth", lambda *_: pytest.fail("loaded"))
    spoil, words = KINDS[kind]
    settings = load_settings(TrainSettings, ["--model", str(spoil(folder)), "--method", "lora"])
    with pytest.raises(ModelError, match=words):
        load_for_training(settings, "unsloth")


@pytest.mark.parametrize("head", ["lm", "classification"])
def test_training_refuses_misfit_weights_too(head: str, folder: Path, tiny_run: Path):
    edit(folder, without(UP))
    flags = ["--model", str(folder), "--method", "lora", "--head", head]
    from prompts import Head

    chosen = Head(("负面", "正面"), "last") if head == "classification" else None
    with pytest.raises(ModelError, match=f"missing: {UP}"):
        load_for_training(load_settings(TrainSettings, flags), "transformers", chosen)


def test_tied_weights_and_buffers_that_are_computed_are_no_misfits(tmp_path: Path):
    tied = make_tiny_model(tmp_path / "tied", tied=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_base(str(tied))
    edit(tied, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_base(str(tied))
    check_fit(find_source(str(tied)), trust_remote_code=False)
    edit(tied, without("model.embed_tokens.weight"))
    with pytest.raises(ModelError, match=r"missing: lm_head\.weight, model\.embed_tokens\.weight"):
        load_base(str(tied))


def test_towers_of_a_multimodal_checkpoint_are_reported_and_not_used(folder: Path, capsys):
    edit(folder, lambda tensors: tensors | {"model.visual.blocks.0.norm.weight": torch.ones(2)})
    load_base(str(folder))
    told = "1 tensors are not for text and are not used: model.visual.blocks.0.norm.weight"
    assert told in capsys.readouterr().err


def test_experts_that_transformers_stacks_as_it_loads_are_checked_one_by_one(folder: Path):
    config = Qwen3MoeConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, head_dim=8,
    )  # fmt: skip
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    load_base(str(folder))
    edit(folder, without("model.layers.0.mlp.experts.0.down_proj.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp\.experts\.down_proj \(3x32x16, expected 4x32x16\)"):
        load_base(str(folder))


def test_what_a_new_head_lacks_is_expected_and_nothing_else():
    info = {"missing_keys": {"score.weight"}, "unexpected_keys": {"lm_head.weight"}, "mismatched_keys": set()}
    refuse_misfits("base", info, new=["score.weight"], unused=["lm_head.weight"])
    with pytest.raises(ModelError, match=r"base: .*missing: score\.weight; unexpected: lm_head\.weight"):
        refuse_misfits("base", info)


def test_a_classifier_whose_head_is_gone_is_not_given_a_random_one(tied_model_folder, reviews_file, tmp_path: Path):
    from tests.conftest import train_tiny

    more = ["--head", "classification", "--freeze_trainable_layers", "1"]
    run = train_tiny(tmp_path / "run", "freeze", tied_model_folder, reviews_file, *more)
    load_run(open_run(run))
    edit(run / "model", without("score.weight"))
    with pytest.raises(ModelError, match=r"missing: score\.weight"):
        load_run(open_run(run), allow_mismatch=True)


ADAPTER = "adapter_model.safetensors"
LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ADAPTERS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a tensor missing": (without(LORA_A), r"missing: .*layers\.0\.self_attn\.q_proj\.lora_A\.default\.weight;"),
    "a tensor too many": (
        lambda tensors: tensors | {LORA_A.replace("layers.0", "layers.7"): torch.ones(16, 32)},
        r"unexpected: .*layers\.7\.self_attn\.q_proj",
    ),
    "other names": (prefixed("_orig_mod."), r"missing: .* and \d+ more; unexpected: .*_orig_mod"),
    "another rank": (lambda tensors: tensors | {LORA_A: torch.ones(4, 32)}, r"size mismatch for .*q_proj\.lora_A"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_that_does_not_fit_is_refused_whatever_mismatch_is_allowed(kind: str, tiny_run: Path, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    change, words = ADAPTERS[kind]
    edit(run / "adapter", change, ADAPTER)
    with pytest.raises(RunError, match="adapter weights: trained to"):
        load_run(open_run(run))
    with pytest.raises(ModelError, match=rf"the adapter does not fit its base.*{words}") as caught:
        load_run(open_run(run), allow_mismatch=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds a JSON list"),
        ("{}", "an adapter of kind None, and only LoRA is known here"),
        ('{"peft_type": "IA3"}', "an adapter of kind .*IA3, and only LoRA is known here"),
        ('{"peft_type": "LORA", "r": "many"}', "fit its base|cannot be used"),
    ],
)
def test_a_config_that_is_no_adapters_is_one_line(content: str, words: str, tiny_run: Path, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "adapter" / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=words) as caught:
        load_run(open_run(run), allow_mismatch=True)
    assert "\n" not in str(caught.value)
