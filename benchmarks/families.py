"""Compare every way of computing rows with stock attention, for tiny random models of every family in transformers.

The families are transformers' own list. Each gets its default config, shrunk, and random weights in fp32; the loss and
all gradients of rows laid end to end, with shared prefixes, padded and in micro-batches are compared with transformers'
eager attention, row by row.

    python benchmarks/families.py                    # the table of docs/architectures.md, about four minutes
    python benchmarks/families.py qwen3_5 gemma2
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.random_models import make_random_tokenizer
from prompts import ChatFormat, Encoded
from sft.models.capabilities import EAGER, padded, with_attention
from sft.models.loaded import LoadedModel
from sft.models.precision import Precision
from sft.models.source import ModelSource
from sft.training.objective import LanguageModelling

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 300
DTYPE = torch.float32
WINDOW = 12  # shorter than most rows, so that windows show
STATE = 16
# Config fields by their names' patterns, first match first: what a tiny model has. Fields that are None stay None.
SHRUNK: list[tuple[str, object]] = [
    (r"vocab_size(_per_layer_input)?|n_vocab|text_vocab_size", VOCABULARY),
    (r"(num_)?(hidden_|decoder_|encoder_)?layers|n_layers?|num_layers|max_window_layers", 4),
    (r"num_key_value_heads|num_kv_heads|n_head_kv|num_global_key_value_heads", 2),
    (r"(num_attention|attention|num|n|decoder_attention|encoder_attention)_heads?|n_heads?|index_n_heads", 4),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"(linear_(key|value)_|qk_nope_|qk_rope_|v_|index_|mamba_d_|mamba_|global_)?head_dim|mamba_d_head|head_size|d_kv"
     r"|kv_channels|head_width|swa_head_dim|swa_v_head_dim|rotary_dim|attention_head_dim", 16),
    (r"qk_head_dim", 32),
    (r"(q|kv|o)_lora_rank|q_rank|kv_rank", 16),
    (r"hidden_size|n_embd|d_model|embed_dim|dim|embedding_size|input_embedding_size|backbone_hidden_size", 64),
    (r"hidden_size_per_layer_input|attention_hidden_size", 64),
    (r"lru_width", 64),
    (r".*(intermediate|ffn|inner)_?(size|dim)?|n_inner|d_inner|.*_ffn_dim|mlp_dim|d_ff|moe_dim|ffn_hidden_size", 48),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|num_experts", 4),
    (r"num_experts_per_tok|moe_topk|moe_k|top_k|num_experts_per_token|moe_top_k|experts_top_k", 2),
    (r"n_group|topk_group|n_groups|mamba_n_groups|num_expert_group", 1),
    (r"(n|num|moe_num)_shared_experts?", 1),
    (r"(num_dense_layers|first_k_dense_replace|moe_layer_start_index)", 1),
    (r"state_size|mamba_d_state|ssm_state_size", STATE),
    (r"mamba_n_heads|n_mamba_heads|mamba_num_heads", 8),
    (r".*(dropout|drop|pdrop|layerdrop|jitter_noise)(_prob|_rate|_p)?", 0.0),
    (r".*sliding_window|attention_window_size|window_size|local_attention", WINDOW),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length", 128),
    (r"num_kv_shared_layers|num_nextn_predict_layers|num_mtp_layers", 0),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"use_cache|output_router_logits", False),
    (r"is_decoder", True),
]  # fmt: skip
# Families whose default config lacks a kind of layer that the family is known for.
KINDS = {
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "granite": {"logits_scaling": 8.0},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "zamba": {"attention_head_dim": 32},
    "zamba2": {"attention_head_dim": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
}
Loss = Callable[[Sequence[Encoded]], torch.Tensor]


@dataclass
class Measured:
    """One family: the largest difference of each path from stock, and why a fast path is not taken."""

    family: str
    paths: dict[str, float] = field(default_factory=dict)  # "flat": of the loss and all gradients, 2e-7
    why: str = ""  # why rows are padded; or why it cannot be built
    is_built: bool = True

    @property
    def worst(self) -> float:
        """The largest difference of all paths."""
        return max(self.paths.values(), default=0.0)


class CannotBuild(Exception):
    """No tiny text model can be made from the default config of a family."""


def shrink(config: PretrainedConfig) -> dict[str, object]:
    """Arguments that make a tiny config of the same kind: few layers, one of each kind at least."""
    given = config.to_dict()
    depth = next((given[n] for n in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if given.get(n)), None)
    small = {name: new for name, value in given.items() if (new := _shrink_value(name, value, depth)) is not ...}
    if given.get("kv_lora_rank"):  # latent attention has a key head for each query head
        small["num_key_value_heads"] = 4
    return small


def _shrink_value(name: str, value: object, depth: object) -> object:
    """The value for a tiny config; ... keeps the default."""
    if isinstance(value, dict) and name.endswith("_config") and "model_type" in value:
        inner = CONFIG_MAPPING[value["model_type"]](**value)
        return {**value, **shrink(inner)}
    if isinstance(value, list) and value and len(value) == depth:
        kinds = list(dict.fromkeys(value)) if all(isinstance(one, str) for one in value) else value
        return [kinds[number % len(kinds)] for number in range(4)]
    if re.fullmatch(r".*token_(id|index)", name) and isinstance(value, int):
        return value if value < VOCABULARY else VOCABULARY - 1
    if name == "head_dim" and value is None:
        return 16
    if value is None or isinstance(value, dict | list):
        return ...
    for pattern, small in SHRUNK:
        if re.fullmatch(pattern, name):
            return small if not isinstance(value, bool) or isinstance(small, bool) else ...
    return ...


def build(family: str) -> PreTrainedModel:
    """A tiny random model of a family in fp32. Raises CannotBuild, saying why."""
    torch.manual_seed(0)
    try:
        kind = CONFIG_MAPPING[family]
        config = kind(**shrink(kind()) | KINDS.get(family, {}))
        model = with_attention(
            lambda name: AutoModelForCausalLM.from_config(config, attn_implementation=name, trust_remote_code=False)
        )
    except Exception as error:  # whatever a family trips over: it is named in the table
        raise CannotBuild(_short(error)) from None
    model = model.to(DTYPE)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    return model.train()


def make_rows(seed: int = 1) -> list[Encoded]:
    """Six rows of 14 to 47 tokens in two groups with a shared prefix; the last six tokens of each are supervised."""
    generator = torch.Generator().manual_seed(seed)

    def draw(number: int) -> list[int]:
        return torch.randint(5, 250, (number,), generator=generator).tolist()

    one, two = draw(20), draw(9)
    rows = [(*one, *draw(12)), (*one, *draw(27)), (*two, *draw(14)), (*two, *draw(30)), tuple(draw(14)), (*one, *two)]
    return [Encoded(list(ids), [0] * (len(ids) - 6) + [1] * 6) for ids in rows]


def measure(family: str, tokenizer: PreTrainedTokenizerFast) -> Measured:
    """Build a family, run the self-check of its layers, and compare every path with stock."""
    try:
        model = build(family)
    except CannotBuild as error:
        return Measured(family, why=str(error), is_built=False)
    rows = make_rows()
    try:
        stock = _loss_and_gradients(model, lambda rows: _stock_loss(model, rows), rows)
    except Exception as error:
        return Measured(family, why=f"its stock forward: {_short(error)}", is_built=False)
    loaded = load(model, tokenizer)
    try:
        layers = loaded.layers
    except Exception as error:
        return Measured(family, why=f"refused: {_short(error)}", is_built=False)
    found = Measured(family, why=layers.why)
    ways = {"padded": (padded(""), False, 6), "micro-batches": (layers, layers.shares, 2)}
    if layers.flat:
        ways["flat"] = (layers, False, 6)
    if layers.shares:
        ways["shared"] = (layers, True, 6)
    for name, (taken, shares, at_once) in ways.items():
        loaded.__dict__["layers"] = taken
        got = _loss_and_gradients(model, lambda rows: _our_loss(loaded, rows, shares=shares, at_once=at_once), rows)  # noqa: B023
        found.paths[name] = _largest_difference(got, stock)
    return found


def load(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """A tiny model as sft.models.loading would hand it on."""
    chat = ChatFormat.from_tokenizer(tokenizer)
    return LoadedModel(model, tokenizer, chat, ModelSource("tiny", Path()), Precision("cpu", DTYPE, ""))


def _our_loss(loaded: LoadedModel, rows: Sequence[Encoded], *, shares: bool, at_once: int) -> torch.Tensor:
    """The loss of a step as training computes it, at_once rows in a micro-batch."""
    objective = LanguageModelling(loaded)
    total = torch.zeros((), dtype=DTYPE)
    count = sum(map(objective.count_terms, rows))
    for start in range(0, len(rows), at_once):
        batch = objective.collate(rows[start : start + at_once], shares=shares)
        batch.pop("row_lengths")
        with loaded.flat_rows():
            loss = objective.compute_loss(loaded.model, batch, count)
            loss.backward()
        total += loss.detach()
    return total


def _stock_loss(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Loss and gradients of a step row by row, by transformers' eager attention and its own forward."""
    total = torch.zeros((), dtype=DTYPE)
    count = sum(row.num_supervised for row in rows)
    with _eager(model):
        for row in rows:
            ids, kept = torch.tensor(row.input_ids), torch.tensor(row.loss_mask).nonzero()[:, 0]
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            loss = cross_entropy(logits[kept - 1], ids[kept], reduction="sum") / count
            loss.backward()
            total += loss.detach()
    return total


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    before, model.config._attn_implementation = model.config._attn_implementation, EAGER
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _loss_and_gradients(model: PreTrainedModel, loss: Loss, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    found = {"loss": loss(rows)}
    found |= {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return found


def _largest_difference(got: dict[str, torch.Tensor], stock: dict[str, torch.Tensor]) -> float:
    """Of the loss, relative; of each weight's gradient, as a share of the largest gradient of that weight or, where
    that is next to nothing, of a hundredth of the largest one of the model."""
    least = 1e-2 * max(float(value.abs().max()) for name, value in stock.items() if name != "loss")
    if got.keys() != stock.keys():
        return float("inf")
    away = [
        float((got[name] - value).abs().max()) / max(float(value.abs().max()), least) for name, value in stock.items()
    ]
    return max(away) if all(one == one for one in away) else float("nan")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"


def write_line(one: Measured) -> str:
    """A line of the table, in Markdown."""
    ways = ", ".join(name for name in one.paths if name != "micro-batches") if one.is_built else "not built"
    worst = f"{one.worst:.0e}" if one.is_built else ""
    return f"| {one.family} | {ways} | {worst} | {one.why.replace('|', '/')} |"


def main(families: Sequence[str]) -> None:
    """Measure and print, a line for each family."""
    tokenizer = make_random_tokenizer()
    print("| family | computed as | largest difference | why not faster |", "|---|---|---|---|", sep="\n")
    for family in families or FAMILIES:
        print(write_line(measure(family, tokenizer)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
