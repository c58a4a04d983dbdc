"""LoRA as one operation: PEFT's own numbers, and PEFT's own layers wherever there is more than one plain adapter."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model

from sft.kernels import lora
from sft.kernels.lora import (
    FusedLinear,
    cast_at_once,
    fused_linear_4bit,
    keep_unpacked,
    share_inputs,
    unpacked_bytes,
    with_fused_layers,
)
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


def assert_alike(ours: PeftModel, theirs: PeftModel, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    """The outputs of both models are the same, and so are the gradients of their inputs and adapters."""
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    expected = gradients(theirs)
    assert expected.keys() == gradients(ours).keys()
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, expected[name])


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_outputs_and_gradients_are_those_of_peft(shape, seed):
    ours, theirs = build(fused=True), build(fused=False)
    x = torch.randn(*shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(part) for model, part in zip((ours, theirs), inputs, strict=True)]
    assert_alike(ours, theirs, inputs, outputs)


# Layers that read the same input


class Attention(torch.nn.Module):
    """Three layers of different widths over one input, or (apart) over three."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(6, 8)
        self.k_proj = torch.nn.Linear(6, 4, bias=False)
        self.v_proj = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor, apart: bool = False) -> torch.Tensor:
        k, v = (x * 2, x * 3) if apart else (x, x)
        return torch.cat([self.q_proj(x), self.k_proj(k), self.v_proj(v)], dim=-1)


def build_attention(fused: bool, dtype: torch.dtype = torch.float64, **options: object) -> PeftModel:
    torch.manual_seed(0)
    names = ["q_proj", "k_proj", "v_proj"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=names, init_lora_weights=False, **options)
    model = get_peft_model(Attention(), with_fused_layers(config) if fused else config, autocast_adapter_dtype=False)
    if fused:
        share_inputs(model)
    return model.to(dtype)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("options", [{}, {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 1}}], ids=str)
def test_layers_that_read_one_input_are_computed_at_once_with_the_numbers_of_peft(apart, casts, options, monkeypatch):
    ours, theirs = build_attention(fused=True, **options), build_attention(fused=False, **options)
    asked = []
    project = lora.project
    monkeypatch.setattr(lora, "project", lambda *args: asked.append(len(args[2])) or project(*args))
    inputs = [torch.randn(2, 7, 6, dtype=torch.float64).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    with cast_at_once(ours) if casts else contextlib.nullcontext():
        outputs = [ours(inputs[0], apart=apart), theirs(inputs[1], apart=apart)]
    assert asked == ([3, 1, 1] if apart else [3])
    assert_alike(ours, theirs, inputs, outputs)


def _train_base(model: PeftModel, name: str) -> None:
    getattr(model.base_model.model, name).get_base_layer().weight.requires_grad_()


def _take_another_adapter(model: PeftModel, name: str) -> None:
    torch.manual_seed(1)
    model.add_adapter("other", model.peft_config["default"])
    model.double()
    getattr(model.base_model.model, name).set_adapter("other")


def _drop_inputs(model: PeftModel, name: str) -> None:
    getattr(model.base_model.model, name).lora_dropout["default"] = torch.nn.Dropout(1e-9)  # drops none of so few


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize("change", [_train_base, _take_another_adapter, _drop_inputs])
def test_one_of_those_that_differs_is_left_to_itself_with_the_numbers_of_peft(name, change, monkeypatch):
    ours, theirs = build_attention(fused=True), build_attention(fused=False)
    asked = []
    project = lora.project
    monkeypatch.setattr(lora, "project", lambda *args: asked.append(len(args[2])) or project(*args))
    for model in (ours, theirs):
        change(model, name)
    inputs = [torch.randn(2, 7, 6, dtype=torch.float64).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    assert not [number for number in asked if number > 1]
    assert_alike(ours, theirs, inputs, outputs)


def test_an_active_adapter_that_a_layer_does_not_have_is_not_counted():
    layer = build_attention(fused=True).base_model.model.q_proj
    layer._active_adapter = ["default", "of_another_layer"]
    assert layer.adapter == "default"


def test_a_layer_with_a_forward_of_its_own_or_a_hook_computes_something_else():
    class Doubling(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    plain, hooked, patched = (torch.nn.Linear(2, 2) for _ in range(3))
    hooked.register_forward_hook(lambda module, given, y: 2 * y)
    patched.forward = lambda x: x
    found = [lora.computes_linearly(layer) for layer in (plain, Doubling(2, 2), hooked, patched)]
    assert found == [True, False, False, False]


def test_threads_that_use_one_model_get_each_its_own_outputs():
    model = build_attention(fused=True)
    inputs = [torch.randn(3, 6, dtype=torch.float64) for _ in range(200)]
    expected = [model(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        torch.testing.assert_close(list(pool.map(model, inputs)), expected)
    assert not model.base_model.model.q_proj.siblings._waiting


def test_adapters_cast_together_count_for_the_current_adapter_and_are_gone_afterwards():
    model = build_attention(fused=True, dtype=torch.bfloat16)
    q_proj, x = model.base_model.model.q_proj, torch.randn(3, 6, dtype=torch.bfloat16)
    plain = Attention().to(torch.bfloat16)
    plain.load_state_dict({name: model.base_model.model.state_dict()[f"{name.replace('.', '.base_layer.')}"]
                           for name in plain.state_dict()})  # fmt: skip
    before = model(x)
    with cast_at_once(model):
        outer = q_proj.siblings.cast
        with cast_at_once(model):
            assert q_proj.siblings.cast is not outer
        assert q_proj.siblings.cast is outer
        assert torch.equal(model(x), before)
        with model.disable_adapter():
            assert torch.equal(model(x), plain(x))
    assert q_proj.siblings.cast is None
    with model.disable_adapter(), cast_at_once(model):
        assert q_proj.siblings.cast is None
        assert torch.equal(model(x), plain(x))


def test_adapters_that_are_being_cast_are_nobodys_yet(monkeypatch):
    model, x = build_attention(fused=True), torch.randn(3, 6, dtype=torch.float64)
    expected, copy, seen = model(x), torch._foreach_copy_, []

    def copy_while_another_thread_computes(copies, sources):
        for tensor in copies:
            tensor.fill_(float("nan"))  # what lies in new memory
        seen.append(model(x))
        copy(copies, sources)

    monkeypatch.setattr(torch, "_foreach_copy_", copy_while_another_thread_computes)
    with cast_at_once(model):
        seen.append(model(x))
    torch.testing.assert_close(seen, [expected, expected])


def test_threads_that_cast_adapters_leave_in_any_order():
    model = build_attention(fused=True)
    siblings = model.base_model.model.q_proj.siblings
    one, other = cast_at_once(model), cast_at_once(model)
    one.__enter__()
    other.__enter__()
    last = siblings.cast
    one.__exit__(None, None, None)
    assert siblings.cast is last
    other.__exit__(None, None, None)
    assert siblings.cast is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the order of products on a GPU, and their types")
def test_on_a_gpu_the_numbers_are_those_of_a_cpu_up_to_bf16():
    x = torch.randn(200, 6)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        model = build_attention(fused=True, dtype=dtype).to(device)
        for weight in model.parameters():
            weight.data = weight.data.float() if weight.requires_grad else weight.data
        given = x.detach().clone().to(device, dtype).requires_grad_()
        with cast_at_once(model):
            model(given).float().pow(2).sum().backward()
        found.append([given.grad.float().cpu(), *(grad.cpu() for grad in gradients(model).values())])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert (on_gpu - on_cpu).norm() < 0.02 * on_cpu.norm()


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


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="how the GPU's kernels round")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, ON_A_GPU])])
def test_what_a_young_adapter_adds_is_not_lost_in_the_rounding_of_the_base_in_bf16(device: str):
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(256, 256)).to(torch.bfloat16)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["0"])
    model = get_peft_model(base, with_fused_layers(config)).to(device)
    layer, (x, grad) = model.base_model.model[0], torch.randn(2, 500, 256).to(device, torch.bfloat16)
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=2e-4)  # after a step or two at the usual learning rate
    change = layer.get_delta_weight("default").detach()  # (256, 256)

    def compute() -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        y = model(given)
        y.backward(grad)
        return y.detach().float(), given.grad.float()

    tuned = compute()
    with model.disable_adapter():
        untuned = compute()
    for ours, base_alone, added in zip(tuned, untuned, (x.float() @ change.t(), grad.float() @ change), strict=True):
        share = ((ours - base_alone) * added).sum() / added.square().sum()
        assert 0.95 < share < 1.05  # added onto the rounded product of the base, six tenths of it survive


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
    assert isinstance(ours.base_model.model.model.layers[0].mlp.down_proj, fused_linear_4bit())
    ids = torch.arange(3, 40)[None]
    found = []
    for keep in (False, True, False):
        keep_unpacked(ours, keep=keep)
        ours.zero_grad()
        loss = ours(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append((loss.detach(), {name: value.clone() for name, value in gradients(ours).items()}))
        assert unpacked_bytes(ours) == (0 if keep else 2 * 4 * (32 * 32 + 32 * 64))  # 2 layers, 4 bytes a number
        frozen = ours.base_model.model.model.layers[0].mlp.down_proj.frozen
        assert (frozen.unpack() is frozen.unpack()) is keep
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0, atol=0)
    torch.testing.assert_close(found[0][0], theirs(input_ids=ids, labels=ids).loss.detach())
    assert all(gradient.abs().sum() > 0 for gradient in found[0][1].values())
