"""Loading: adapters on the right layers, QLoRA that keeps its gradients on a CPU, runs that refuse another base."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prompts import Fingerprint
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError, ModelError, RunError
from sft.models import identity
from sft.models.loading import load_base, load_for_training, load_run, load_weights, save_tuned
from sft.models.precision import Precision, decide_precision, precision_for_answers
from sft.models.source import describe_weights, find_source, hash_files
from sft.runs.run import RUN_FILE, open_run
from sft.scoring import score_rows
from tests.tiny import make_tiny_model

ONE_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def settings_for(folder: Path, *flags: str) -> TrainSettings:
    return load_settings(TrainSettings, ["--model", str(folder), "--dtype", "fp32", *flags])


def some_rows(loaded):
    conversation = [{"role": "user", "content": "天气"}, {"role": "assistant", "content": "很好，谢谢"}]
    return [loaded.chat.encode(conversation)]


def test_lora_trains_exactly_the_named_layers_and_nothing_else(tiny_model_folder: Path):
    loaded = load_for_training(
        settings_for(tiny_model_folder, "--method", "lora", "--target_modules", "q_proj,down_proj"), "transformers"
    )
    trainable = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    prefix = "base_model.model.model.layers"
    assert trainable == {
        f"{prefix}.{layer}.{module}.lora_{side}.default.weight"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for side in "AB"
    }


def test_lora_layers_adapts_the_last_layers_only(tiny_model_folder: Path):
    flags = ["--method", "lora", "--lora_layers", "1", "--target_modules", "q_proj"]
    loaded = load_for_training(settings_for(tiny_model_folder, *flags), "transformers")
    trainable = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    prefix = "base_model.model.model.layers.1.self_attn.q_proj"
    assert trainable == [f"{prefix}.lora_A.default.weight", f"{prefix}.lora_B.default.weight"]


def test_more_adapted_layers_than_there_are_is_refused(tiny_model_folder: Path):
    with pytest.raises(ModelError, match="lora_layers is 3, but the model has 2 layers"):
        load_for_training(settings_for(tiny_model_folder, "--method", "lora", "--lora_layers", "3"), "transformers")


def test_the_same_seed_gives_the_same_adapter(tiny_model_folder: Path):
    first, second = (
        load_for_training(settings_for(tiny_model_folder, "--method", "lora"), "transformers") for _ in range(2)
    )
    for (name, ours), (_, theirs) in zip(first.model.named_parameters(), second.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_layer_the_model_does_not_have_is_refused_with_those_it_has(tiny_model_folder: Path):
    with pytest.raises(ModelError, match=r"\['query'\] are not in this model; it has .*'q_proj'"):
        load_for_training(
            settings_for(tiny_model_folder, "--method", "lora", "--target_modules", "query"), "transformers"
        )


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_qlora_on_a_cpu_has_all_its_gradients_also_after_an_evaluation(embedded_folder: Path, dtype: str):
    """bitsandbytes 0.50.2 repacks 4-bit weights at the first evaluation on AVX512-BF16 processors; after that
    15 of 21 lora_B got no gradient."""
    flags = ["--model", "embedded", "--method", "qlora", "--dtype", dtype]
    loaded = load_for_training(load_settings(TrainSettings, flags), "transformers")
    rows = some_rows(loaded)
    score_rows(loaded, rows, shown=False)  # an evaluation, in inference mode

    loaded.model.train()
    ids = torch.tensor([rows[0].input_ids])
    loaded.model(input_ids=ids, labels=ids).loss.backward()
    norms = {
        name: float(parameter.grad.norm()) if parameter.grad is not None else 0.0
        for name, parameter in loaded.model.named_parameters()
        if "lora_B" in name
    }
    assert len(norms) == 30 * 7
    assert [name for name, norm in norms.items() if not norm > 0] == []


def test_four_bits_are_nf4_with_double_quantisation(embedded_folder: Path):
    loaded = load_base("embedded", dtype="fp32", four_bit=True)
    layer = loaded.causal_lm.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit"
    assert (layer.weight.quant_state.quant_type, layer.weight.quant_state.nested) == ("nf4", True)
    assert layer.compute_dtype is torch.float32


def test_a_run_loads_with_the_weights_it_was_saved_with(tiny_run: Path):
    loaded = load_run(open_run(tiny_run))
    saved = load_file(tiny_run / "adapter" / "adapter_model.safetensors")
    in_memory = {
        name.replace(".default", ""): value for name, value in loaded.model.state_dict().items() if "lora_" in name
    }
    assert set(saved) == set(in_memory)
    assert all(torch.equal(saved[name], in_memory[name]) for name in saved)
    assert any(saved[name].abs().sum() > 0 for name in saved if "lora_B" in name)


def copy_run(tiny_run: Path, folder: Path, **changes: object) -> Path:
    """The run again, with fields of its run.json replaced."""
    copy = shutil.copytree(tiny_run, folder / "run")
    content = json.loads((copy / RUN_FILE).read_text())
    (copy / RUN_FILE).write_text(json.dumps(content | changes))
    return copy


def test_a_base_of_the_same_shape_with_other_weights_is_refused_with_both_values(tiny_run: Path, tmp_path: Path):
    other = make_tiny_model(tmp_path / "other", seed=1)
    run = open_run(copy_run(tiny_run, tmp_path, base={"name": str(other)}))
    trained_with = run.fingerprint.parts["base weights"]
    with pytest.raises(RunError) as caught:
        load_run(run)
    assert f"base weights: trained with {trained_with}, now sha256 " in str(caught.value)
    assert "--allow_mismatch" in str(caught.value)


def test_allow_mismatch_loads_it_all_the_same_and_says_so(tiny_run: Path, tmp_path: Path, capsys):
    other = make_tiny_model(tmp_path / "other", seed=1)
    load_run(open_run(copy_run(tiny_run, tmp_path, base={"name": str(other)})), allow_mismatch=True)
    assert "WARNING --allow_mismatch: base weights: trained with" in capsys.readouterr().err


def test_another_system_prompt_in_the_run_file_is_refused(tiny_run: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"system prompt: trained with 'Be brief\.', now 'Be rude\.'"):
        load_run(open_run(copy_run(tiny_run, tmp_path, system_prompt="Be rude.")))


def test_an_edited_chat_template_beside_the_adapter_is_refused(tiny_run: Path, tmp_path: Path):
    copy = copy_run(tiny_run, tmp_path)
    template = copy / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# edited #}")
    with pytest.raises(RunError, match="chat template: trained with sha256"):
        load_run(open_run(copy))


def test_another_tokenizer_beside_the_adapter_is_refused(tiny_run: Path, tmp_path: Path):
    copy = copy_run(tiny_run, tmp_path)
    file = copy / "adapter" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="tokenizer: trained with"):
        load_run(open_run(copy))


def test_the_adapter_of_another_run_is_refused(tiny_run: Path, tmp_path: Path):
    copy = copy_run(tiny_run, tmp_path)
    weights = copy / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"adapter weights: trained to sha256 .*, now sha256"):
        load_run(open_run(copy))


def test_any_changed_byte_of_an_adapter_is_reported(tmp_path: Path, tiny_run: Path):
    """The hash that people compare looks at three samples of a tensor; in between nothing may change either."""
    wide = make_tiny_model(tmp_path / "wide", hidden_size=1024)
    flags = settings_for(wide, "--method", "lora", "--target_modules", "q_proj", "--lora_r", "64")
    run = open_run(copy_run(tiny_run, tmp_path))
    run.adapter = save_tuned(load_for_training(flags, "transformers"), run.weights_dir, run.fingerprint)
    run.files = hash_files(run.weights_dir)
    assert _differences(run) == []
    path = run.weights_dir / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    start, end = json.loads(content[8:header])[ONE_A]["data_offsets"]
    content[header + start + (end - start) // 3] ^= 1
    path.write_bytes(content)
    assert describe_weights(run.weights_dir) == run.adapter
    (line,) = _differences(run)
    assert re.fullmatch(r"adapter/adapter_model\.safetensors: written as xxh3 \w{32}, now xxh3 \w{32}", line)
    run.files = None  # a run of an earlier version
    assert _differences(run) == []


def _differences(run) -> list[str]:
    return [line for line in identity._differences_of_weights(run) if "lora_r" not in line and ": r was" not in line]


@pytest.mark.parametrize(("name", "value"), [("lora_alpha", 64), ("r", 8), ("use_rslora", True), ("use_dora", True)])
@pytest.mark.parametrize("is_old", [False, True], ids=["with checksums", "of an earlier version"])
def test_an_adapter_with_another_rank_or_scale_is_refused(
    name: str, value: object, is_old: bool, tiny_run: Path, tmp_path: Path
):
    copy = copy_run(tiny_run, tmp_path, **({"files": None} if is_old else {}))
    path = copy / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(RunError, match=rf"adapter/adapter_config\.json: {name} was .* in training, now {value}"):
        load_run(open_run(copy))


def test_a_run_of_an_earlier_version_opens(tiny_run: Path, tmp_path: Path):
    copy = copy_run(tiny_run, tmp_path)
    content = json.loads((copy / RUN_FILE).read_text())
    assert sorted(content.pop("files")) == ["adapter_config.json", "adapter_model.safetensors"]
    (copy / RUN_FILE).write_text(json.dumps(content))
    load_run(open_run(copy))


def test_a_damaged_fingerprint_beside_the_weights_is_one_line(tiny_run: Path, tmp_path: Path):
    copy = copy_run(tiny_run, tmp_path)
    (copy / "adapter" / "prompt_fingerprint.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"prompt_fingerprint\.json: nested too deeply"):
        load_run(open_run(copy))


def test_the_fingerprint_travels_with_the_adapter(tiny_run: Path):
    saved = Fingerprint.from_json(json.loads((tiny_run / "adapter" / "prompt_fingerprint.json").read_text()))
    assert saved == open_run(tiny_run).fingerprint


def test_an_adapter_folder_holds_safetensors_and_no_pickles(tiny_model_folder: Path, tiny_run: Path, tmp_path: Path):
    loaded = load_for_training(settings_for(tiny_model_folder, "--method", "lora"), "transformers")
    save_tuned(loaded, tmp_path, open_run(tiny_run).fingerprint)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "prompt_fingerprint.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]


def test_a_type_the_processor_cannot_train_in_is_refused():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        decide_precision("fp16")


def test_the_decision_names_device_and_reason():
    decision = decide_precision("fp32")
    assert str(decision) == "fp32 on cpu (as asked for)"


def test_what_answers_on_a_cpu_computes_in_fp32_where_it_fits(monkeypatch):
    assert precision_for_answers("bf16", 135_000_000).dtype is torch.float32
    assert precision_for_answers("fp16", 135_000_000).dtype is torch.float32  # trained on a GPU, read on a laptop
    monkeypatch.setattr("sft.models.precision.memory_of_machine", lambda: 16 * 10**9)
    reason = "fp32 would take 28.0 of 16.0 GB: figures vary a little with batches and threads"
    assert precision_for_answers("auto", 7_000_000_000) == Precision("cpu", torch.bfloat16, reason)


def test_a_requested_dtype_is_used(tiny_model_folder: Path):
    assert load_base(str(tiny_model_folder), dtype="bf16").causal_lm.dtype is torch.bfloat16
    assert load_base(str(tiny_model_folder)).causal_lm.dtype is torch.float32


# Weights that are stored in 4 bits


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    plain, folder = make_tiny_model(tmp_path_factory.mktemp("plain")), tmp_path_factory.mktemp("tiny-bnb-4bit")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=four_bit, device_map={"": "cpu"})
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_weights_stored_in_4_bits_are_refused_with_the_method_that_takes_them(packed_folder: Path, method: str):
    with pytest.raises(ModelError) as caught:
        load_for_training(settings_for(packed_folder, "--method", method), "transformers")
    assert str(caught.value) == (
        f"{packed_folder}: its weights are stored as bitsandbytes 4-bit, from which --method {method} cannot train; "
        "take --method qlora, or name the model in 16 bits"
    )


def test_weights_stored_in_4_bits_are_trained_by_qlora_as_they_are(packed_folder: Path):
    loaded = load_for_training(settings_for(packed_folder, "--method", "qlora", "--dtype", "fp32"), "transformers")
    layer = loaded.causal_lm.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "FusedLinear4bit"
    ids = torch.arange(3, 30)[None]
    loaded.model(input_ids=ids, labels=ids).loss.backward()
    assert layer.lora_B["default"].weight.grad.abs().max() > 0


def test_weights_stored_in_4_bits_can_be_had_unpacked_and_saved(packed_folder: Path, tmp_path: Path):
    source, precision = find_source(str(packed_folder)), Precision("cpu", torch.float32, "a test")
    packed = load_weights(source, precision, four_bit=True)
    plain = load_weights(source, precision, four_bit=False)
    assert type(plain.model.layers[0].mlp.up_proj) is torch.nn.Linear
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, packed(ids).logits, rtol=1e-4, atol=1e-4)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_weights_stored_in_another_way_are_refused(tiny_model_folder: Path, tmp_path: Path):
    config = json.loads((tiny_model_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(
        ModelError, match="its weights are stored as gptq, from which --method qlora cannot train; name"
    ):
        load_for_training(settings_for(tmp_path, "--method", "qlora"), "transformers")
