"""Which layers get an adapter: every linear layer and expert of a decoder, whatever its family calls them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError, ModelError
from sft.kernels.lora import FusedLinear, computes_linearly, with_fused_layers
from sft.models.loading import load_for_training
from sft.models.methods import describe_trainable
from sft.models.targets import choose_targets, describe_targets, name_to_peft, own_names, warn_of_unadapted
from tests.tiny import make_tiny_model, make_tiny_moe

FAST = (
    "qwen2",
    "qwen3",
    "llama",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5",
    "lfm2",
    "phi3",
    "gpt_oss",
    "gemma3",
)
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LEFT_OUT = ("gate", "router", "shared_expert_gate", "modality_router", "lm_head")  # as parts of a path
NOT_TEXT = ("vision", "visual", "image", "audio", "speech", "multi_modal", "multimodal")


def build_on_meta(family: str) -> PreTrainedModel:
    """A model of the family's own default size that takes no memory; raises what transformers does."""
    config: PreTrainedConfig = CONFIG_MAPPING[family]()
    for part in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        if isinstance(getattr(part, "num_hidden_layers", None), int) and not getattr(part, "layers_block_type", None):
            part.num_hidden_layers = min(part.num_hidden_layers, len(getattr(part, "layer_types", None) or []) or 4)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def expected_paths(model: PreTrainedModel) -> Iterator[str]:
    """What should be adapted, found without the code that is tested."""
    for path, module in model.base_model.named_modules():
        if set(path.split(".")) & set(LEFT_OUT) or any(word in path for word in NOT_TEXT):
            continue
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            parent, _, name = path.rpartition(".")
            mixer = type(model.base_model.get_submodule(parent)).__name__
            if name == "in_proj" or not ("Mamba" in mixer or mixer in ("BambaMixer", "FalconH1Mixer")):
                yield prefix + path
        elif "expert" in path.lower() + type(module).__name__.lower():
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() == 3:
                    yield f"{prefix}{path}.{name}"


def adapt(model: PreTrainedModel, wanted: tuple[str, ...] = ("auto",)) -> PeftModel:
    config = LoraConfig(r=2, init_lora_weights=True)
    name_to_peft(model, config, choose_targets(model, wanted))
    with own_names():
        return get_peft_model(model, with_fused_layers(config, model), low_cpu_mem_usage=True)


def adapted_paths(model: PeftModel) -> list[str]:
    found = []
    for path, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            parameter = getattr(module, "parameter_name", None)
            found.append(path.replace(".base_layer", "") + (f".{parameter}" if parameter else ""))
    return found


def check_family(family: str) -> None:
    model = build_on_meta(family)
    expected = sorted(expected_paths(model))
    assert sorted(target.path for target in choose_targets(model, ("auto",))) == expected
    assert sorted(adapted_paths(adapt(model))) == expected


@pytest.mark.parametrize("family", FAST)
def test_every_linear_layer_and_expert_of_a_family_is_adapted(family: str):
    check_family(family)


@pytest.mark.slow
def test_every_family_of_transformers_is_adapted_whole(capsys: pytest.CaptureFixture[str]):
    failures, not_built = {}, {}
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            build_on_meta(family)
        except Exception as error:  # the defaults of some configs are no model; they are named below
            not_built[family] = type(error).__name__
            continue
        try:
            check_family(family)
        except (AssertionError, ModelError, ValueError) as error:
            failures[family] = str(error)[:300]
    with capsys.disabled():
        print(f"\n{len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - len(not_built)} families; not built: {not_built}")
    assert not failures
    assert len(not_built) < 25


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_a_dense_family_of_old_has_the_seven_projections(family: str):
    config = LoraConfig(layers_to_transform=[1])
    model = build_on_meta(family)
    name_to_peft(model, config, choose_targets(model, ("auto",), [1]))
    assert (set(config.target_modules), config.layers_to_transform, config.target_parameters) == (
        PROJECTIONS,
        [1],
        None,
    )


def test_kinds_of_layers_have_the_names_of_the_field():
    assert describe_targets(choose_targets(build_on_meta("qwen3_next"), ("all-linear",))) == (
        "linear attention (in_proj_qkvz, in_proj_ba, out_proj), experts (gate_up_proj, down_proj), "
        "shared expert (gate_proj, up_proj, down_proj), attention (q_proj, k_proj, v_proj, o_proj)"
    )
    with torch.device("meta"):
        short = CONFIG_MAPPING["lfm2"](num_hidden_layers=2, layer_types=["conv", "full_attention"])
        model = AutoModelForCausalLM.from_config(short)
    assert describe_targets(choose_targets(model, ("auto",))) == (
        "convolution (in_proj, out_proj), MLP (w1, w3, w2), attention (q_proj, k_proj, v_proj, out_proj)"
    )


# What is named


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_moe(tmp_path_factory.mktemp("moe"), mlp_only_layers=[0])


def load(folder: Path, *flags: str):
    settings = load_settings(TrainSettings, ["--model", str(folder), "--dtype", "fp32", "--method", "lora", *flags])
    return load_for_training(settings, "transformers").model


def test_experts_in_4_bits_are_refused_where_weights_are_to_lie_in_pieces(mixture: Path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ModelError, match="experts in 4 bits cannot be sharded"):
        load(mixture, "--method", "qlora")


def test_names_mean_linear_layers_and_experts_alike(mixture: Path):
    experts = [f"model.layers.1.mlp.experts.{name}" for name in ("down_proj", "gate_up_proj")]
    dense = [f"model.layers.0.mlp.{name}_proj" for name in ("down", "gate", "up")]
    assert sorted(adapted_paths(load(mixture, "--target_modules", "gate_proj,up_proj,down_proj"))) == [
        *dense,
        experts[0],
    ]
    assert sorted(adapted_paths(load(mixture, "--target_modules", "experts"))) == experts
    assert adapted_paths(load(mixture, "--target_modules", "self_attn.q_proj", "--lora_layers", "1")) == [
        "model.layers.1.self_attn.q_proj"
    ]
    assert sorted(adapted_paths(load(mixture, "--target_modules", "experts,q_proj", "--lora_layers", "1"))) == [
        *experts,
        "model.layers.1.self_attn.q_proj",
    ]


def test_adapted_and_skipped_layers_are_listed_by_kind(mixture: Path, capsys: pytest.CaptureFixture[str]):
    model = load(mixture)
    assert describe_trainable(model).endswith(
        "LoRA on attention (q_proj, k_proj, v_proj, o_proj), MLP (gate_proj, up_proj, down_proj), "
        "experts (gate_up_proj, down_proj) in layers 0-1"
    )
    assert "WARNING" not in capsys.readouterr().err
    load(mixture, "--target_modules", "q_proj")
    assert (
        "WARNING no adapter on MLP (gate_proj, up_proj, down_proj), experts (gate_up_proj, down_proj): 67.7% of the "
        "weights stay as they are; --target_modules auto adapts them"
    ) in capsys.readouterr().err


def test_weights_that_no_adapter_fits_are_listed():
    from transformers import DbrxConfig

    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 64}
    config = DbrxConfig(**sizes, attn_config={"kv_n_heads": 2, "rope_theta": 1e4}, ffn_config={"ffn_hidden_size": 64})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    (line,) = warn_of_unadapted(model, choose_targets(model, ("auto",)), None)
    assert line.startswith("WARNING no adapter can be put on experts (w1, v1, w2): ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--target_modules query", "target_modules ['query'] are not in this model; it has ['down_proj', 'experts', "),
        ("--lora_dropout 0.1", "--lora_dropout: not supported for experts stored in one tensor (down_proj, gate_up_"),
        (
            "--use_dora",
            "--use_dora: not supported for experts stored in one tensor (down_proj, gate_up_proj); leave ",
        ),
        ("--lora_layers 1 --target_modules gate_proj", "target_modules gate_proj: no layer would be adapted; "),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_what_can(flags: str, message: str, mixture: Path):
    with pytest.raises(ModelError) as caught:
        load(mixture, *flags.split())
    assert str(caught.value).startswith(message)
    remedy = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    if "tensor" in message:
        assert str(caught.value).endswith(f"--target_modules {remedy}")
        load(mixture, *flags.split(), "--target_modules", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj")


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_vocabulary_as_a_target_is_refused_before_anything_is_read(name: str, dense: Path):
    with pytest.raises(ConfigError, match=f"train it in full: --modules_to_save {name}"):
        load_settings(TrainSettings, ["--target_modules", f"q_proj,{name}"])
    load(dense, "--target_modules", "q_proj", "--modules_to_save", name)  # the remedy


def test_an_output_layer_by_another_name_is_refused_too():
    model = build_on_meta("gpt_neox_japanese")
    with pytest.raises(ModelError, match="target_modules embed_out: adapters are for layers between"):
        choose_targets(model, ("embed_out",))


def test_auto_cannot_be_combined_with_names():
    with pytest.raises(ConfigError, match="auto and all-linear cannot be combined with names"):
        load_settings(TrainSettings, ["--target_modules", "auto,q_proj"])


# What fused layers take


class Grouped(torch.nn.Linear):
    """A kind of Linear that computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def test_a_linear_layer_with_a_forward_of_its_own_is_left_to_peft():
    torch.manual_seed(0)
    model = torch.nn.Sequential(Grouped(8, 8), torch.nn.Linear(8, 8))
    adapted = get_peft_model(
        model, with_fused_layers(LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False))
    )
    x, layer = torch.randn(3, 8), adapted.base_model.model[0]
    assert isinstance(layer, FusedLinear)
    assert not layer.is_plain(x)
    assert adapted.base_model.model[1].is_plain(x)
    thin = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    torch.testing.assert_close(layer(x), 2 * (x @ layer.weight.t() + layer.base_layer.bias) + thin)


def test_a_layer_with_hooks_is_left_to_peft():
    layer = torch.nn.Linear(8, 8)
    assert computes_linearly(layer)
    layer.register_forward_hook(lambda *_: None)
    assert not computes_linearly(layer)
