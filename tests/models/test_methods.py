"""What each method trains: exactly the named weights, in fp32, and a line that says what they come to."""

from pathlib import Path

import pytest
import torch

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ModelError
from sft.models.loading import load_for_training
from sft.models.methods import describe_trainable
from tests.tiny import make_tiny_model

LAYER = [
    *(f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")),
    "self_attn.o_proj.weight",
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]


@pytest.fixture(scope="module")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("three"), layers=3)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tied"), layers=2, tied=True)


def load(folder: Path, *flags: str):
    settings = load_settings(TrainSettings, ["--model", str(folder), "--dtype", "fp32", *flags])
    return load_for_training(settings, "transformers")


def trained(folder: Path, *flags: str) -> set[str]:
    return {name for name, weight in load(folder, *flags).model.named_parameters() if weight.requires_grad}


def test_full_trains_every_weight(three_layers: Path):
    loaded = load(three_layers, "--method", "full")
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert len(list(loaded.model.parameters())) == 3 * len(LAYER) + 3


def test_freeze_trains_the_last_layers_and_nothing_else(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "2"]
    assert trained(three_layers, *flags) == {f"model.layers.{i}.{name}" for i in (1, 2) for name in LAYER}


def test_freeze_takes_parts_of_the_layers_by_their_exact_name(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "1", "--freeze_trainable_modules", "mlp,o_proj"]
    wanted = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"}
    assert trained(three_layers, *flags) == {f"model.layers.2.{name}.weight" for name in wanted}


def test_norm_means_the_final_norm_and_not_those_of_every_layer(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "0", "--freeze_extra_modules", "norm,embed_tokens"]
    assert trained(three_layers, *flags) == {"model.norm.weight", "model.embed_tokens.weight"}


def test_a_full_path_may_lead_into_a_layer(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "0"]
    flags += ["--freeze_extra_modules", "model.layers.0.input_layernorm"]
    assert trained(three_layers, *flags) == {"model.layers.0.input_layernorm.weight"}


def test_rslora_and_dora_train_their_adapter_alone(three_layers: Path):
    flags = ["--method", "lora", "--target_modules", "q_proj", "--lora_layers", "1"]
    adapter = "base_model.model.model.layers.2.self_attn.q_proj.lora_"
    plain = {f"{adapter}A.default.weight", f"{adapter}B.default.weight"}
    assert trained(three_layers, *flags, "--use_rslora") == plain
    assert trained(three_layers, *flags, "--use_dora") == plain | {f"{adapter}magnitude_vector.default.weight"}
    scaled = load(three_layers, *flags, "--use_rslora", "--lora_r", "16", "--lora_alpha", "32")
    assert scaled.causal_lm.model.layers[2].self_attn.q_proj.scaling == {"default": 32 / 4}  # alpha / sqrt(r)


def test_modules_to_save_are_trained_whole_by_their_exact_name(three_layers: Path):
    flags = ["--method", "lora", "--target_modules", "q_proj", "--lora_layers", "1", "--modules_to_save", "norm"]
    whole = {name for name in trained(three_layers, *flags) if "lora_" not in name}
    assert whole == {"base_model.model.model.norm.modules_to_save.default.weight"}


def test_a_tied_embedding_that_is_saved_whole_stays_the_output_layer(tied: Path):
    loaded = load(tied, "--method", "lora", "--target_modules", "q_proj", "--modules_to_save", "embed_tokens")
    base = loaded.causal_lm
    saved = base.get_input_embeddings().modules_to_save["default"].weight
    output = base.get_output_embeddings()
    assert saved.requires_grad
    assert getattr(output, "modules_to_save", {"default": output})["default"].weight is saved


def test_trained_weights_are_fp32_on_a_base_in_16_bits(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "1", "--dtype", "bf16"]
    weights = dict(load(three_layers, *flags).model.named_parameters())
    assert weights["model.layers.2.mlp.up_proj.weight"].dtype is torch.float32
    assert weights["model.layers.0.mlp.up_proj.weight"].dtype is torch.bfloat16


# What is said


def test_the_report_counts_what_is_really_trained(three_layers: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "1", "--freeze_extra_modules", "norm"]
    model = load(three_layers, *flags).model
    num_trained = sum(w.numel() for w in model.model.layers[2].parameters()) + 32
    total = sum(w.numel() for w in model.parameters())
    assert describe_trainable(model) == (
        f"trains {num_trained:,} of {total:,} weights ({num_trained / total:.2%}): layer 2, norm"
    )


def test_the_report_says_that_a_tied_embedding_is_the_output_layer_too(tied: Path):
    flags = ["--method", "freeze", "--freeze_trainable_layers", "1", "--freeze_extra_modules", "embed_tokens,norm"]
    model = load(tied, *flags).model
    share = model.get_input_embeddings().weight.numel() / sum(w.numel() for w in model.parameters())
    line = describe_trainable(model)
    assert line.endswith(
        f"layer 1, embed_tokens, norm; embed_tokens is also the output layer (tied), {share:.1%} of all weights"
    )
    assert "(tied)" not in describe_trainable(load(tied, "--method", "freeze").model)


def test_the_report_of_an_adapter_names_what_it_sits_on(three_layers: Path):
    model = load(three_layers, "--method", "lora", "--target_modules", "q_proj,v_proj").model
    assert describe_trainable(model).endswith(": LoRA on attention (q_proj, v_proj) in layers 0-2")


def test_weights_in_four_bits_count_as_their_unpacked_number(embedded_folder: Path):
    flags = ["--target_modules", "q_proj", "--lora_layers", "1"]
    settings = load_settings(TrainSettings, ["--model", str(embedded_folder), "--method", "qlora", *flags])
    line = describe_trainable(load_for_training(settings, "transformers").model)
    num_trained = 2 * 576 * 16
    assert line.startswith(f"trains {num_trained:,} of {134_515_008 + num_trained:,} weights")


# What is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--freeze_trainable_layers 4", "freeze_trainable_layers is 4, but the model has 3 layers; lower --freeze_"),
        ("--freeze_trainable_layers 0", "method freeze: nothing would be trained; raise --freeze_trainable_layers"),
        ("--freeze_extra_modules nor", "module 'nor': not in this model; outside its layers it has ['embed_tokens', "),
        ("--freeze_trainable_modules norm", "freeze_trainable_modules ['norm'] are in no layer; a layer has ['down_"),
    ],
)
def test_what_the_model_does_not_have_is_refused_with_what_it_has(flags: str, message: str, three_layers: Path):
    with pytest.raises(ModelError) as caught:
        load(three_layers, "--method", "freeze", *flags.split())
    assert str(caught.value).startswith(message)
