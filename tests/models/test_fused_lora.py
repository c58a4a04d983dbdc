"""LoRA as one operation: PEFT's own numbers, and PEFT's own layers wherever there is more than one plain adapter."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model

from sft.models.fused_lora import FusedLinear, FusedLinear4bit, keep_unpacked, unpacked_bytes, with_fused_layers
from sft.models.loading import load_weights
from sft.models.precision import decide_precision
from sft.models.source import find_source


class Two(torch.nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(6, 10)
        self.down = torch.nn.Linear(10, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


def build(fused: bool, dtype: torch.dtype = torch.float64, **options: object) -> PeftModel:
    torch.manual_seed(0)
    base = Two().to(dtype)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["up", "down"], init_lora_weights=False, **options)
    model = get_peft_model(base, with_fused_layers(config) if fused else config, autocast_adapter_dtype=False)
    return model.to(dtype)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_outputs_and_gradients_are_those_of_peft(shape, seed):
    ours, theirs = build(fused=True), build(fused=False)
    x = torch.randn(*shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(part) for model, part in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    expected = gradients(theirs)
    assert expected.keys() == gradients(ours).keys()
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, expected[name])


def test_dropout_drops_inputs_of_the_adapter_alone_and_as_peft_does():
    ours, theirs = (build(fused, lora_dropout=0.5).train() for fused in (True, False))
    x = torch.randn(7, 6, dtype=torch.float64)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        part = x.clone().requires_grad_()
        model(part).pow(2).sum().backward()
        found.append((part.grad, gradients(model)))
    torch.testing.assert_close(found[0], found[1])


def test_an_adapter_in_fp32_gets_gradients_in_fp32_beside_a_base_in_bf16():
    config = with_fused_layers(LoraConfig(r=3, target_modules=["up", "down"], init_lora_weights=False))
    model = get_peft_model(Two().bfloat16(), config)
    output = model(torch.randn(4, 6, dtype=torch.bfloat16))
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_what_is_more_than_an_adapter_is_left_to_peft(options):
    ours, theirs = build(fused=True, **options), build(fused=False, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 6, dtype=torch.float64)
    assert isinstance(ours.base_model.model.up, FusedLinear)
    assert torch.equal(ours(x), theirs(x))


def test_an_adapter_that_is_off_or_merged_is_so():
    model, plain = build(fused=True), Two().double()
    torch.manual_seed(0)
    plain = Two().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    tuned = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), plain(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), tuned)
    model.unmerge_adapter()
    torch.testing.assert_close(model(x), tuned)


def test_saved_files_know_nothing_of_the_layers(tmp_path: Path):
    model = build(fused=True)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    read = PeftModel.from_pretrained(Two().double(), tmp_path, autocast_adapter_dtype=False)
    assert type(read.base_model.model.up) is not FusedLinear
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(read(x), model(x))


def test_four_bit_weights_give_the_same_numbers_unpacked_once_or_each_time(tiny_model_folder: Path):
    source, precision = find_source(str(tiny_model_folder)), decide_precision("fp32")
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    ours = get_peft_model(load_weights(source, precision, four_bit=True), with_fused_layers(config))
    theirs = get_peft_model(load_weights(source, precision, four_bit=True), LoraConfig(**{**config.to_dict()}))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    assert isinstance(ours.base_model.model.model.layers[0].mlp.down_proj, FusedLinear4bit)
    ids = torch.arange(3, 40)[None]
    found = []
    for keep in (False, True, False):
        keep_unpacked(ours, keep=keep)
        ours.zero_grad()
        loss = ours(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append((loss.detach(), {name: value.clone() for name, value in gradients(ours).items()}))
        assert unpacked_bytes(ours) == (0 if keep else 2 * 4 * (32 * 32 + 32 * 64))  # 2 layers, 4 bytes a number
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0, atol=0)
    torch.testing.assert_close(found[0][0], theirs(input_ids=ids, labels=ids).loss.detach())
    assert all(gradient.abs().sum() > 0 for gradient in found[0][1].values())
