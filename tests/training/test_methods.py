"""A run of every method: what it leaves alone stays bit-identical, and every script loads what it made."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.evaluation.flow import evaluate_run
from sft.models.loading import load_base, load_run
from sft.runs.run import open_run

METHODS = {
    "lora": ["--method", "lora", "--lora_layers", "1"],
    "qlora": ["--method", "qlora"],
    "dora": ["--method", "lora", "--use_dora", "--lora_dropout", "0.1"],
    "rslora": ["--method", "lora", "--use_rslora", "--modules_to_save", "embed_tokens,lm_head"],
    "freeze": ["--method", "freeze", "--freeze_trainable_layers", "1", "--freeze_extra_modules", "norm"],
    "full": ["--method", "full"],
}
STEPS = ("--max_steps", "3", "--learning_rate", "1e-2", "--warmup_steps", "0", "--eval_steps", "2")


@pytest.mark.parametrize("name", METHODS)
def test_a_run_changes_what_its_method_trains_and_nothing_else_and_loads_again(
    name, train, tiny_model_folder, tmp_path, monkeypatch
):
    kept = keep_model(monkeypatch)
    result = train(*METHODS[name], *STEPS)
    trained = {key for key, weight in kept[0].model.named_parameters() if weight.requires_grad}
    for key, before in kept[1].items():
        now = dict(kept[0].model.named_parameters())[key]
        assert torch.equal(now, before) != (key in trained), key  # all that is trained moved, the rest to the last bit

    run = open_run(tmp_path / "run")
    has_adapter = name not in ("freeze", "full")
    assert run.weights_dir == (tmp_path / "run" / ("adapter" if has_adapter else "model")).resolve()
    assert not (tmp_path / "run" / ("model" if has_adapter else "adapter")).exists()
    assert run.quantisation == ("nf4" if name == "qlora" else None)  # a merge has to load the base in 16 bits

    loaded = load_run(run)
    in_memory, reloaded = dict(kept[0].model.named_parameters()), dict(loaded.model.named_parameters())
    assert [key for key in reloaded if not torch.equal(in_memory[key], reloaded[key])] == []  # to the last bit
    # MKL promises the same last bits of a loss only where tensors begin at the same place of a cache line.
    assert loss_of(loaded) == pytest.approx(loss_of(kept[0]), abs=1e-5)
    untuned = loss_of(load_base(str(tiny_model_folder), dtype="fp32", four_bit=name == "qlora"))
    with loaded.adapter_off() as base:
        assert loss_of(base) == pytest.approx(untuned, abs=1e-5)
        assert abs(untuned - loss_of(kept[0])) > 1e-3
    assert result.metrics["steps"] == 3


def test_a_model_tuned_whole_is_evaluated_beside_its_base(train, tmp_path, tiny_model_folder):
    train(*METHODS["freeze"], *STEPS)
    settings = load_settings(EvaluateSettings, ["--run", str(tmp_path / "run"), "--max_new_tokens", "4"])
    metrics = evaluate_run(open_run(tmp_path / "run"), settings).metrics
    losses = [metrics[key]["eval_loss"] for key in ("teacher_forcing",)]
    losses.append(metrics["base"]["teacher_forcing"]["eval_loss"])
    assert losses[0] == pytest.approx(open_run(tmp_path / "run").metrics["eval_loss"], abs=1e-5)
    assert losses[1] > losses[0]


@pytest.mark.slow
def test_the_model_of_a_run_is_stored_in_the_type_of_its_base(train, tmp_path, embedded_folder):
    flags = ["--model", "embedded", "--method", "freeze", "--freeze_trainable_layers", "1", "--max_steps", "1"]
    train(*flags, "--eval_steps", "1")
    stored = load_file(tmp_path / "run/model/model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert set(stored) == set(load_file(embedded_folder / "model.safetensors"))  # tied tensors are written once
    assert json.loads((tmp_path / "run/model/config.json").read_text())["dtype"] == "bfloat16"


def keep_model(monkeypatch: pytest.MonkeyPatch) -> list:
    """[the model that the next run trains, copies of its weights before the first step]."""
    from sft.training import fit

    kept: list = []
    load = fit.load_for_training

    def load_and_keep(*args, **kwargs):
        loaded = load(*args, **kwargs)
        kept.extend([loaded, {key: weight.detach().clone() for key, weight in loaded.model.named_parameters()}])
        return loaded

    monkeypatch.setattr(fit, "load_for_training", load_and_keep)
    return kept


def loss_of(loaded) -> float:
    from sft.scoring import score_rows, token_weighted_loss

    conversation = [{"role": "user", "content": "天气"}, {"role": "assistant", "content": "很好，谢谢"}]
    return token_weighted_loss(score_rows(loaded, [loaded.chat.encode(conversation)], shown=False))
