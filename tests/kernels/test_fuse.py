"""Kernels of ours on a CPU: numbers and gradients of transformers' own modules, whose names and weights they keep."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from sft.errors import ModelError
from sft.kernels import fuse
from sft.kernels.cpu.norms import _Normalise, fuse_norms
from sft.kernels.fuse import fuse_kernels

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
KNOWN = pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])


def build(
    config: type[PretrainedConfig], dtype: torch.dtype, **more: object
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A random model with kernels, and the same as it comes. Norms are drawn, too: they begin as ones."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config(**SIZES, **more), dtype=dtype)
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    theirs.requires_grad_(False)
    ours = copy.deepcopy(theirs)
    fuse_kernels(ours)
    return ours, theirs


def run(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient of the embeddings that they came from."""
    embedded = model.get_input_embeddings()(torch.arange(3, 21).reshape(2, 9)).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return logits.detach(), torch.autograd.grad((logits.float() * weights).sum(), embedded)[0]


def count_fused(model: PreTrainedModel) -> int:
    return sum("forward" in module.__dict__ for module in model.modules())


@KNOWN
def test_logits_and_gradients_are_those_of_transformers_own_modules(config):
    ours, theirs = build(config, torch.float32)
    assert count_fused(ours) == 2 * (2 if config is not Qwen3Config else 4) + 1
    for found, expected in zip(run(ours), run(theirs), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        ids = torch.arange(3, 12)[None]
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-4)


@KNOWN
def test_in_bf16_they_are_no_farther_from_exact_ones_than_those_of_transformers(config):
    ours, theirs = build(config, torch.bfloat16)
    exact = run(copy.deepcopy(theirs).float())
    errors = [
        [
            float((found.float() - wanted).norm() / wanted.norm())
            for found, wanted in zip(run(model), exact, strict=True)
        ]
        for model in (ours, theirs)
    ]
    assert all(mine < 1.1 * stock < 0.05 for mine, stock in zip(*errors, strict=True))


def test_modules_and_weights_keep_their_names():
    ours, theirs = build(Qwen3Config, torch.float32)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [type(module) for module in ours.modules()] == [type(module) for module in theirs.modules()]


def test_a_copy_computes_with_its_own_weights():
    ours, _ = build(LlamaConfig, torch.float32)
    other = copy.deepcopy(ours)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.zero_()
    assert run(ours)[0].abs().max() == 0
    assert run(other)[0].abs().min() > 0


def test_other_families_stay_as_they_are():
    gemma, _ = build(Gemma2Config, torch.float32)  # its norm multiplies by 1 + weight
    assert count_fused(gemma) == 0


def test_where_weights_are_trained_or_of_another_type_the_modules_compute_as_ever():
    ours, theirs = build(Qwen2Config, torch.float32)
    for model in (ours, theirs):
        model.requires_grad_(True)
        logits = model(torch.arange(3, 12)[None]).logits
        logits.square().mean().backward()
    for mine, stock in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, stock.grad, atol=1e-7, rtol=1e-4)
    mixed, stock = build(Qwen2Config, torch.bfloat16)
    for model in (mixed, stock):
        model.model.layers[1].input_layernorm.float()
        norm = model.model.layers[1].input_layernorm(torch.arange(64.0).reshape(2, 32).bfloat16())
        assert norm.dtype == torch.float32


def test_gradients_agree_with_differences_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.rand(5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _Normalise.apply(x, weight, 1e-5), x)


def test_the_backward_pass_of_a_norm_keeps_its_inputs_alone():
    x = torch.randn(7, 5, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        weight = torch.ones(5)
        _Normalise.apply(x, weight, 1e-5)
    assert kept == [x.data_ptr(), weight.data_ptr()]


def test_a_family_without_a_rotary_embedding_of_liger_gets_its_other_kernels(monkeypatch, capsys):
    asked = []

    def apply(model, chosen):
        asked.append(chosen["rope"])
        if chosen["rope"]:
            raise NotImplementedError("liger_rotary_pos_emb is not available for Qwen3_5 models.")

    monkeypatch.setattr(fuse, "apply_liger_kernel", apply)
    fuse.apply_liger(None)
    assert asked == [True, False]
    assert "not available for Qwen3_5" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_kernels_that_compute_something_else_are_found_out_when_a_model_is_loaded(dtype):
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES), dtype=dtype)
    fuse.fuse_checked(model, fuse_norms)  # right ones change rounding at most

    def shift(model):  # as a norm of 1 + weight computed as one of weight
        for module in model.modules():
            if type(module).__name__ == "Qwen3RMSNorm":
                module.weight.data += 1 + torch.arange(module.weight.numel()) % 2

    with pytest.raises(ModelError, match="Liger's kernels compute its layers otherwise"):
        fuse.fuse_checked(model, shift)


def test_kernels_that_fail_are_reported_in_one_line_and_a_family_without_hidden_states_is_left_alone():
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))

    def fail(model):
        raise AttributeError("module 'transformers' has no attribute 'rotary'")

    with pytest.raises(ModelError, match=r"Liger's kernels fail \(AttributeError: .*; pip uninstall liger-kernel"):
        fuse.fuse_checked(model, fail)
    model.base_model_prefix = ""  # the whole model, which returns logits, as Llama 4's
    fuse.fuse_checked(model, fail)


def test_kernels_that_only_round_otherwise_are_taken_for_a_trained_model_in_16_bits(embedded_folder):
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.bfloat16)

    def multiply_in_fp32(model):  # as a fused gated MLP does, which keeps its product in fp32
        for layer in model.model.layers:
            layer.mlp.forward = lambda x, mlp=layer.mlp: mlp.down_proj(
                (mlp.act_fn(mlp.gate_proj(x).float()) * mlp.up_proj(x).float()).to(x.dtype)
            )

    fuse.fuse_checked(model, multiply_in_fp32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_ligers_kernels_are_taken_for_the_embedded_model(embedded_folder):
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.bfloat16, device_map={"": "cuda"})
    fuse_kernels(model)
    assert "liger" in type(model.model.layers[0].mlp).forward.__module__ + model.model.norm.forward.__module__
