"""Experts that lie in one tensor: computed as transformers and PEFT compute them, packed into 4 bits or not."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.export.merge import merge_adapter
from sft.kernels.experts import compute_experts, is_packed, unpack
from sft.kernels.lora import with_fused_layers
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training, load_weights
from sft.models.precision import Precision
from sft.models.source import find_source
from sft.models.targets import own_names
from tests.tiny import make_tiny_moe

FP32 = Precision("cpu", torch.float32, "a test")
ROWS = torch.randint(3, 250, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_moe(tmp_path_factory.mktemp("moe"))


def load(folder: Path, *flags: str):
    common = ["--model", str(folder), "--dtype", "fp32", "--lora_r", "3", "--lora_alpha", "6"]
    model = load_for_training(load_settings(TrainSettings, [*common, *flags]), "transformers").model
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    return model


def with_peft(base: PreTrainedModel, like):
    """PEFT's own layers over the same base, with the same adapter."""
    config = like.peft_config["default"]
    stock = get_peft_model(
        base,
        LoraConfig(
            r=config.r,
            lora_alpha=config.lora_alpha,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            target_parameters=list(config.target_parameters),
        ),
    )
    mine = dict(like.named_parameters())
    for name, weight in stock.named_parameters():
        if "lora_" in name:
            weight.data.copy_(mine[name].data)
    return stock


def unpacked_base(folder: Path, like) -> PreTrainedModel:
    """A model of plain weights with the values that the packed one stands for."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    packed = like.get_base_model()
    for path, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            layer = packed.get_submodule(path)
            module.weight.data.copy_(unpack(getattr(layer, "base_layer", layer).weight))
        if path.endswith("experts"):
            experts = packed.get_submodule(path).get_base_layer()
            for name in ("gate_up_proj", "down_proj"):
                getattr(module, name).data.copy_(unpack(getattr(experts, name)))
    return plain


def losses_and_gradients(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    loss = model(input_ids=ROWS, labels=ROWS).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def check_alike(model, stock) -> None:
    mine, theirs = losses_and_gradients(model), losses_and_gradients(stock)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-6, atol=1e-6)
    assert mine[1].keys() == theirs[1].keys()
    assert sum("experts" in name for name in mine[1]) == 8  # two parameters, A and B, in two layers
    for name, grad in mine[1].items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(grad, theirs[1][name], rtol=1e-4, atol=1e-7, msg=name)


def test_loss_and_every_gradient_are_those_of_peft(mixture: Path):
    model = load(mixture, "--method", "lora")
    check_alike(model, with_peft(AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32), model))


def test_experts_in_4_bits_have_the_gradients_of_the_same_values_unpacked(mixture: Path):
    model = load(mixture, "--method", "qlora")
    experts = model.get_base_model().model.layers[0].mlp.experts.get_base_layer()
    assert is_packed(experts.gate_up_proj)
    assert is_packed(experts.down_proj)
    assert experts.gate_up_proj.numel() * 2 == 8 * 128 * 64
    check_alike(model, with_peft(unpacked_base(mixture, model), model))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_with_the_adapter_off_the_base_computes_alone(mixture: Path, method: str):
    model = load(mixture, "--method", method)
    base = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    base = unpacked_base(mixture, model) if method == "qlora" else base
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(ROWS).logits, base(ROWS).logits, rtol=1e-5, atol=1e-5)


def test_experts_without_an_adapter_keep_nothing_unpacked_for_the_backward_pass(mixture: Path):
    model = load(mixture, "--method", "qlora", "--target_modules", "q_proj")
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ROWS, labels=ROWS).loss
    loss.backward()
    assert max(kept) < 8 * 64 * 64  # the smaller of the two tensors of experts
    assert model.get_base_model().model.layers[0].self_attn.q_proj.lora_B["default"].weight.grad.abs().max() > 0


def test_tokens_that_ask_no_expert_add_nothing(mixture: Path):
    experts = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32).model.layers[0].mlp.experts
    hidden, weights = torch.randn(5, 64), torch.rand(5, 2)
    index = torch.tensor([[0, 8], [8, 8], [3, 2], [7, 0], [8, 1]])  # 8: none of them
    asked = compute_experts(experts, hidden, index, weights)
    torch.testing.assert_close(
        asked, compute_experts(experts, hidden, index % 8, weights * (index < 8)), rtol=1e-5, atol=1e-6
    )
    assert not asked[1].any()


def test_biases_transposed_weights_and_a_gate_of_its_own_are_those_of_the_family():
    from transformers import GptOssConfig

    config = GptOssConfig(hidden_size=32, intermediate_size=48, num_local_experts=4, num_hidden_layers=1, vocab_size=64)
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    experts = model.model.layers[0].mlp.experts
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, 0, 0.3)
    hidden, index, weights = torch.randn(7, 32), torch.randint(0, 4, (7, 2)), torch.rand(7, 2)
    index[:, 1] = (index[:, 0] + 1) % 4
    torch.testing.assert_close(
        compute_experts(experts, hidden, index, weights), experts(hidden, index, weights), rtol=1e-4, atol=1e-5
    )


# Saved, loaded, merged


@pytest.mark.parametrize("four_bit", [False, True])
def test_an_adapter_of_experts_and_of_dense_layers_is_the_same_when_loaded_again(tmp_path: Path, four_bit: bool):
    folder = make_tiny_moe(tmp_path / "mixed", mlp_only_layers=[0])
    model = load(folder, "--method", "qlora" if four_bit else "lora").eval()
    model.save_pretrained(tmp_path / "adapter")
    base = load_weights(find_source(str(folder)), FP32, four_bit=four_bit)
    config = with_fused_layers(PeftConfig.from_pretrained(tmp_path / "adapter"), base)
    with own_names():
        again = PeftModel.from_pretrained(base, tmp_path / "adapter", config=config).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ROWS).logits, model(ROWS).logits, rtol=1e-5, atol=1e-6)


def test_merged_experts_say_what_base_and_adapter_say(tmp_path: Path):
    folder = make_tiny_moe(tmp_path / "mixed", mlp_only_layers=[0])
    model = load(folder, "--method", "lora").eval()
    with torch.no_grad():
        expected = model(ROWS).logits
        merged = merge_adapter(LoadedModel(model, None, None, find_source(str(folder)), FP32)).model
        torch.testing.assert_close(merged(ROWS).logits, expected, rtol=1e-5, atol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(again(ROWS).logits, expected, rtol=1e-5, atol=1e-5)
