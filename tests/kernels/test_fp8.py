"""Frozen layers in FP8, beside the products they stand for; the GPU's kernels beside plain torch."""

import copy
import os
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3Config

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError
from sft.kernels import fp8
from sft.kernels.lora import Projection, frozen_weight, keep_unpacked, project, unpacked_bytes
from sft.models.capabilities import read_layers
from sft.models.loading import load_for_training, load_run, load_tokenizer
from sft.models.methods import add_lora, decoder_layers
from sft.models.selfcheck import check_layers, make_rows, undisturbed
from sft.runs.run import open_run
from tests.conftest import train_tiny

TOKENS, INPUTS, OUTPUTS, RANK = 48, 256, 320, 16
WHERE_KERNELS_RUN = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs a GPU with FP8 units, or Triton and TRITON_INTERPRET=1",
)


def draw(*shape: int, size: float = 1.0, outliers: bool = False) -> torch.Tensor:
    """Normal numbers in bf16; outliers: every 50th column is 30 times as large, as in activations of trained models."""
    values = torch.randn(*shape) * size
    if outliers:
        values[:, ::50] *= 30
    return values.bfloat16()


def build_layer(*, outliers: bool = False) -> tuple[torch.nn.Linear, fp8.Fp8Linear]:
    layer = torch.nn.Linear(INPUTS, OUTPUTS, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.copy_(draw(OUTPUTS, INPUTS, size=0.02, outliers=outliers))
    return layer, fp8.Fp8Linear.of(layer)


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm())


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.float().flatten(), right.float().flatten(), dim=0))


@pytest.mark.parametrize("outliers", [False, True])
def test_a_product_is_the_exact_one_up_to_the_rounding_of_8_bits(outliers):
    torch.manual_seed(0)
    plain, layer = build_layer(outliers=outliers)
    x = draw(TOKENS, INPUTS, outliers=outliers)
    assert distance(layer(x), plain.float()(x.float())) < 0.04
    assert distance(layer.dequantise(), plain.weight) < 0.03


@pytest.mark.parametrize("outliers", [False, True])
def test_the_gradient_of_an_input_points_where_the_exact_one_does(outliers):
    torch.manual_seed(0)
    plain, layer = build_layer(outliers=outliers)
    x, grad = draw(TOKENS, INPUTS).requires_grad_(), draw(TOKENS, OUTPUTS, size=1e-5)
    (found,) = torch.autograd.grad(layer(x), x, grad)
    assert cosine(found, grad.float() @ plain.weight.float()) > 0.999
    assert distance(found, grad.float() @ plain.weight.float()) < 0.04


def test_tokens_of_very_different_size_keep_their_precision():
    torch.manual_seed(0)
    plain, layer = build_layer()
    layer.bias = None
    x = draw(TOKENS, INPUTS) * torch.logspace(-6, 4, TOKENS)[:, None].bfloat16()
    exact = x.float() @ plain.weight.float().t()
    away = (layer(x).float() - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(away.max()) < 0.06


@pytest.mark.parametrize("size", [1e-2, 1e-5])
def test_what_a_young_adapter_adds_survives_the_sum(size):
    torch.manual_seed(0)
    _, layer = build_layer()
    x, a = draw(2048, INPUTS), torch.randn(RANK, INPUTS) * 0.05
    projection = Projection(frozen_weight(layer), layer.bias, 2.0)
    b = torch.randn(OUTPUTS, RANK) * size
    without, with_it = (project(x, None, [projection], [a], [part])[0].float() for part in (torch.zeros_like(b), b))
    expected = 2.0 * x.float() @ a.t() @ b.t()
    found = float(((with_it - without) * expected).sum() / expected.pow(2).sum())
    assert found == pytest.approx(1, abs=0.1)
    if size < 1e-4:  # a sum rounded to the nearest value loses it, which is why sums are not
        nearest = (without + expected).bfloat16().float() - without.bfloat16().float()
        assert float((nearest * expected).sum() / expected.pow(2).sum()) < 0.5


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(1, 4))
def test_a_sum_is_rounded_to_one_of_the_two_values_beside_it(value, rows):
    total = torch.full((rows, 64), value)
    rounded = fp8._round(total.clone(), 0)
    nearest = total.bfloat16().float()
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert bool(((rounded - total).abs() <= total.abs() * 2**-7 + 1e-38).all())  # below, bf16 has fewer bits
    assert torch.equal(fp8._round(nearest.clone(), 0), nearest)  # what bf16 holds stays


def test_a_sum_is_rounded_up_as_often_as_it_is_near_the_value_above():
    total = torch.full((400, 400), 1 + 2**-7 * 0.25)
    assert float(fp8._round(total, 0).mean()) == pytest.approx(1 + 2**-7 * 0.25, abs=1e-4)


def test_each_layer_rounds_by_a_pattern_of_its_own():
    layers = torch.nn.ModuleList([torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16) for _ in range(4)])
    parent = torch.nn.ModuleList([layers])
    fp8.use_fp8(parent)
    total = torch.full((400, 400), 1 + 2**-7 * 0.5)
    up = [(fp8._round(total.clone(), layer.salt) > 1).float() - 0.5 for layer in layers]
    for place, pattern in enumerate(
        up
    ):  # half of the sums are rounded up, which ones has nothing to do with the others
        assert float(pattern.mean()) == pytest.approx(0, abs=0.01)
        assert all(float((pattern * other).mean()) == pytest.approx(0, abs=0.01) for other in up[:place])


def test_layers_of_equal_weights_round_sums_and_gradients_apart_and_each_always_alike():
    torch.manual_seed(0)
    plain, _ = build_layer()
    x, a, b = draw(TOKENS, INPUTS).requires_grad_(), torch.randn(RANK, INPUTS) * 0.05, torch.randn(OUTPUTS, RANK) * 1e-2
    found = []
    for number in (1, 2, 1):
        projection = Projection(frozen_weight(fp8.Fp8Linear.of(plain, number)), None, 2.0)
        (y,) = project(x, None, [projection], [a], [b])
        found.append((y.detach(), *torch.autograd.grad(y, x, torch.ones_like(y))))
    for first, second, again in zip(*found, strict=True):
        assert torch.equal(first, again)
        assert 0 < distance(first, second) < 2**-7


def test_a_weight_is_free_before_the_next_one_is_quantised(monkeypatch):
    layers = torch.nn.ModuleList([torch.nn.ModuleDict({"a": torch.nn.Linear(32, 32), "b": torch.nn.Linear(32, 32)})])
    weights = [weakref.ref(layer.weight) for layer in layers[0].values()]
    usual, alive = fp8.Fp8Linear.of, []

    def quantise_and_count(*given):
        alive.append(sum(weight() is not None for weight in weights))
        return usual(*given)

    monkeypatch.setattr(fp8.Fp8Linear, "of", quantise_and_count)
    fp8.use_fp8(layers)
    assert (alive, [weight() for weight in weights]) == ([2, 1], [None, None])


def test_infinite_and_undefined_values_stay_what_they_are():
    total = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0]])
    assert fp8._round(total.clone(), 0).isnan().tolist() == [[True, False, False, False]]
    assert fp8._round(total.clone(), 0)[0, 1:].tolist() == [float("inf"), -float("inf"), 0.0]
    assert fp8.quantise(torch.tensor([[1.0, float("nan")] * 8]).bfloat16()).scale.isnan().all()


@pytest.fixture
def base() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "head_dim": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(Qwen3Config(vocab_size=300, **sizes, **heads), dtype=torch.bfloat16)


def adapt(model: torch.nn.Module) -> torch.nn.Module:
    """An adapter that adds something."""
    adapted = add_lora(model, load_settings(TrainSettings, ["--method", "lora"]))
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=1e-2)
    return adapted


def loss_and_gradients(model: torch.nn.Module) -> tuple[float, torch.Tensor]:
    ids = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = [
        weight.grad.float().flatten() for _, weight in sorted(model.named_parameters()) if weight.grad is not None
    ]
    return float(loss.detach()), torch.cat(trained)


def test_a_model_in_fp8_learns_in_the_direction_of_the_exact_one(base):
    exact, quantised = copy.deepcopy(base).float(), copy.deepcopy(base)
    fp8.use_fp8(decoder_layers(quantised))
    (loss, gradients), (found, found_gradients) = (loss_and_gradients(adapt(model)) for model in (exact, quantised))
    assert found == pytest.approx(loss, abs=0.02)
    assert cosine(gradients, found_gradients) > 0.97
    assert {weight.dtype for name, weight in quantised.named_parameters() if "base_layer" in name} == {fp8.FP8}


def test_a_weight_held_transposed_gives_the_same_bits(base):
    fp8.use_fp8(decoder_layers(base))
    model = adapt(base)
    before = loss_and_gradients(model)
    spare = unpacked_bytes(model)
    keep_unpacked(model)
    after = loss_and_gradients(model)
    assert (after[0], unpacked_bytes(model)) == (before[0], 0)
    assert torch.equal(after[1], before[1])
    keep_unpacked(model, keep=False)
    assert unpacked_bytes(model) == spare == sum(w.numel() for w in model.parameters() if w.dtype == fp8.FP8)


def test_dropout_drops_inputs_of_the_adapter_alone(base):
    fp8.use_fp8(decoder_layers(base))
    model = add_lora(base, load_settings(TrainSettings, ["--method", "lora", "--lora_dropout", "0.5"])).train()
    loss, gradients = loss_and_gradients(model)  # a fresh adapter adds nothing, whatever is dropped
    assert loss == pytest.approx(loss_and_gradients(model.eval())[0], abs=1e-4)
    assert float(gradients.norm()) > 0


def test_layers_prove_themselves_in_16_bits(base, tiny_model_folder):
    fp8.use_fp8(decoder_layers(base))
    model = adapt(base).get_base_model()
    adapted = model.model.layers[0].mlp.down_proj
    layer = adapted.get_base_layer()
    x = draw(4, 256)
    exact = x.float() @ (layer.dequantise().float() + adapted.get_delta_weight("default").float()).t()
    with undisturbed(model):
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.dequantise()))
        assert distance(adapted(x), exact) < 0.005
    assert distance(adapted(x), exact) > 0.01
    assert not torch.equal(layer(x), torch.nn.functional.linear(x, layer.dequantise()))
    promised = read_layers(model)
    assert promised.flat
    assert check_layers(model, promised, make_rows(load_tokenizer(tiny_model_folder))) == promised


def test_layers_whose_sizes_the_units_do_not_take_stay_and_are_named(capsys):
    layers = torch.nn.ModuleList(
        [torch.nn.ModuleDict({"odd": torch.nn.Linear(20, 32), "even": torch.nn.Linear(32, 16)})]
    )
    fp8.use_fp8(layers)
    assert [type(layer).__name__ for layer in layers[0].values()] == ["Linear", "Fp8Linear"]
    assert "1 layers odd stay in 16 bits" in capsys.readouterr().err


def wrap_in_one_of_two_processes(rank: int, meeting: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    layer = fp8.Fp8Linear.of(torch.nn.Linear(32, 32, dtype=torch.bfloat16))
    model = torch.nn.ModuleDict({"frozen": layer, "trained": torch.nn.Linear(32, 32)})
    fp8.keep_from_broadcast(model)
    torch.nn.parallel.DistributedDataParallel(model)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_send_each_other_no_fp8_weights(tmp_path):
    torch.multiprocessing.spawn(wrap_in_one_of_two_processes, (str(tmp_path / "meeting"),), nprocs=2)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--method", "qlora"], "method"),
        (["--method", "full"], "method"),
        (["--method", "lora", "--use_dora"], "use_dora"),
        (["--method", "lora", "--backend", "unsloth"], "backend"),
        (["--method", "lora", "--dtype", "fp16"], "dtype"),
    ],
)
def test_what_fp8_is_not_made_for_is_named(flags, named):
    with pytest.raises(ConfigError, match=f"change {named}"):
        load_settings(TrainSettings, ["--base_dtype", "fp8", *flags])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_machine_without_fp8_units_is_refused_before_the_model_is_loaded(tiny_model_folder, capsys):
    flags = ["--model", str(tiny_model_folder), "--method", "lora", "--base_dtype", "fp8"]
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU with FP8 units"):
        load_for_training(load_settings(TrainSettings, flags), "transformers")
    assert "model" not in capsys.readouterr().err


def test_a_run_is_trained_in_fp8_and_its_adapter_goes_onto_the_base_in_16_bits(
    tiny_model_folder, rows_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sft.models.loading.check_card", lambda: None)  # plain torch stands in for the units
    more = ("--dtype", "bf16", "--base_dtype", "fp8", "--learning_rate", "1e-2")
    run = open_run(train_tiny(tmp_path / "run", "lora", tiny_model_folder, rows_file, *more))
    assert "frozen layers are multiplied in FP8" in capsys.readouterr().err
    assert run.settings["base_dtype"] == "fp8"
    loaded = load_run(run)
    assert not any(isinstance(module, fp8.Fp8Linear) for module in loaded.model.modules())


@pytest.mark.gpu
@WHERE_KERNELS_RUN
def test_the_kernels_of_a_gpu_compute_what_plain_torch_does():
    from sft.kernels import fp8_triton

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, factor = draw(300, 3584).to(device), torch.rand(3584, device=device)
    x[7] = float("nan")
    for by in (None, factor):
        values, scale = fp8_triton.quantise(x, by, largest=fp8.LARGEST, smallest=fp8.SMALLEST)
        wanted = fp8._quantise(x, by)
        assert torch.equal(scale[8:], wanted.scale[8:])
        assert scale[7].isnan()
        differs = values[8:].float() != wanted.values[8:].float()
        # The interpreter of Triton 3.6 rounds to e4m3 otherwise than a GPU: ties up, and what reaches a power of two.
        assert float(differs.float().mean()) < (1e-5 if device == "cuda" else 0.04)
    weight = draw(512, 272).to(fp8.FP8).to(device)
    assert torch.equal(fp8_triton.transpose(weight).view(torch.uint8), weight.view(torch.uint8).t())
    for count, rank, salt in ((1, 16, 0), (3, 48, 5), (1, 8, 2**31 - 1)):
        products = [draw(300, 272) for _ in range(count)]
        narrow, small = draw(300, rank + 8)[:, 4 : 4 + rank], draw(272, rank, size=1e-3).t()
        found = fp8_triton.add_shares([part.to(device) for part in products], narrow.to(device), small.to(device), salt)
        assert torch.equal(found.cpu(), fp8.add_shares(products, narrow, small, salt=salt))
