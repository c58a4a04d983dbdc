"""Fast paths prove themselves: short rows through them and through stock attention, before anything depends on them.

What the layers of a model can do is read from its config (sft.models.capabilities), and a config can be wrong or new.
So three short rows, two with a common prefix, are computed one at a time by transformers' eager attention, padded into
one batch, concatenated, and with their prefix shared. What padding changes is rounding; a fast path may differ by a few
times as much, and no more. It takes about ten forward passes of some 90 tokens and changes nothing.

    layers = check_layers(model, read_layers(model), rows, autocast=None)

Generation is checked in the same way before its first answer (sft.generation.selfcheck).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from prompts import Encoded
from sft.batches import Batch, flatten_rows, pad_rows, tensor_of, to_device
from sft.console import say
from sft.errors import ModelError, one_line
from sft.kernels.arguments import UnknownArgument
from sft.kernels.attention import flat_attention
from sft.kernels.fp8 import in_16_bits
from sft.models.capabilities import EAGER, Layers, padded
from sft.models.output_layer import OutputLayer

IN_COMMON = "A reader asks which of the two answers is right, and why the other one is not. 读者问：哪个答案对？ "
ENDS = ("The first, for it names a source.", "第二个：它给出了日期，第一个没有。")
ALONE = "Nothing in this row stands in the others: 7, 13, 29, 53."
FEWEST_IN_COMMON, MOST_IN_COMMON, MOST_OWN = 12, 20, 16  # tokens of the rows that are tried
TIMES_ROUNDING = 4.0  # limit of a fast path's difference, as a multiple of what padding changes
# Differences below this share of the hidden states' norm always count as rounding: a few hundred
# units in the last place, as two orders of summation give after some dozen layers. A wrong layer changes 5 % or more.
FLOOR = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
# Beyond this, what padding changes is no rounding: rows are computed otherwise beside others, so padded ones are wrong.
MOST_BY_PADDING = {torch.float64: 1e-3, torch.float32: 1e-2}
MOST_BY_PADDING_IN_16_BITS = 0.25
STRANGE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)  # layers unlike any we know


class Difference(NamedTuple):
    """Distance of hidden states from those of stock attention, relative to their size."""

    mean: float  # root mean square over the tokens
    largest: float


def make_rows(tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Two rows with a shared prefix and one without, of some 30 to 60 tokens; the rest of each is supervised."""
    tokens = tokenizer.backend_tokenizer  # as prompts.ChatFormat encodes, without what a config adds
    read = [tokens.encode(text, add_special_tokens=False).ids for text in (IN_COMMON, *ENDS, ALONE)]
    common, *own = ([token for token in ids if token not in tokenizer.all_special_ids] or [0] for ids in read)
    common = (common * FEWEST_IN_COMMON)[: max(FEWEST_IN_COMMON, min(len(common), MOST_IN_COMMON))]
    rows = []
    for before, ids in ((common, own[0]), (common, own[1]), ([], own[2])):
        ids = (ids * 4)[: max(4, min(len(ids), MOST_OWN))]
        rows.append(Encoded([*before, *ids], [0] * max(1, len(before)) + [1] * (len(ids) - (not before))))
    return rows


def check_layers(
    model: PreTrainedModel, promised: Layers, rows: Sequence[Encoded], autocast: torch.dtype | None = None
) -> Layers:
    """The proven part of `promised`; one line reports what is not proven.

    autocast: the type that weights of several types are computed in. Raises ModelError if even padded rows are not
    computed as if they were alone: such a model looks at later tokens.
    """
    with undisturbed(model, autocast):
        stock = Stock.of(model, rows, autocast)
        few = slice(-2, None)  # an output layer is as wide as the vocabulary
        _check_logits(model, rows[few], stock.hidden[few], autocast or model.dtype)
        if not promised.flat:
            return promised
        found = promised
        for shares in (False, True) if promised.shares else (False,):
            name = "prefixes shared by rows" if shares else "rows laid end to end"
            problem = stock.problem_of(partial(_flat, model, rows, shares=shares, apart=promised.apart))
            if problem and not shares:
                say(f"WARNING self-check: {name}: {problem}; rows are padded instead")
                return padded(f"{name}: {problem}")
            if problem:
                say(f"WARNING self-check: {name}: {problem}; they are computed for each row")
                found = found._replace(shares=False, records=False, why=f"{name}: {problem}")
        if model.device.type == "cpu" and stock.problem_of(
            partial(_flat, model, rows, shares=False, apart=promised.apart, embeds=True)
        ):
            say("self-check: layers read the tokens themselves: rows are not shared out to the cores")
            found = found._replace(embeds=False)
    return found


def find_difference(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    changed: AbstractContextManager[None],
    autocast: torch.dtype | None = None,
) -> str:
    """The difference of concatenated rows inside `changed` from stock attention outside; "" if there is none."""
    with undisturbed(model, autocast):
        stock = Stock.of(model, rows, autocast)
        with changed:
            return stock.problem_of(partial(_flat, model, rows, shares=False, apart=False))


class Stock(NamedTuple):
    """Hidden states of rows by stock attention, one at a time, and the allowed difference from them."""

    hidden: list[torch.Tensor]  # (T, D) each, fp32
    rounding: float  # what padding changes
    allowed: float

    @classmethod
    def of(cls, model: PreTrainedModel, rows: Sequence[Encoded], autocast: torch.dtype | None = None) -> "Stock":
        """check_layers for a model in its current state, within `undisturbed`; raises ModelError."""
        dtype = autocast or model.dtype
        hidden = [_alone(model, row) for row in rows]
        rounding = _check_padded(model, rows, hidden, MOST_BY_PADDING.get(dtype, MOST_BY_PADDING_IN_16_BITS))
        return cls(hidden, rounding, max(TIMES_ROUNDING * rounding, FLOOR.get(dtype, FLOOR[torch.bfloat16])))

    def problem_of(self, compute: Callable[[], Sequence[torch.Tensor]]) -> str:
        """The difference of the rows' last hidden states from stock attention; "" if there is none."""
        try:
            found = _compare(compute(), self.hidden)
        except torch.OutOfMemoryError:
            raise
        except (ModelError, *STRANGE) as error:
            return f"{type(error).__name__}: {one_line(error, 160)}"
        if found.mean <= self.allowed:
            return ""
        return (
            f"hidden states are {found.mean:.2g} of their size away from stock attention (at most {found.largest:.2g}; "
            f"rounding is {self.rounding:.1g})"
        )


def _check_padded(model: PreTrainedModel, rows: Sequence[Encoded], stock: Sequence[torch.Tensor], most: float) -> float:
    """What padding changes: rounding. Where it is more with the attention at hand, the model gets eager attention."""
    try:
        found = _compare(_padded(model, rows), stock)
        problem = f"{found.mean:.2g} of the hidden states' size away from eager attention"
    except UnknownArgument as error:
        found, problem = None, str(error)
    if found is not None and found.mean <= most:
        return found.mean
    if model.config._attn_implementation != EAGER:
        say(f"WARNING self-check: padded rows: {problem}; transformers' eager attention computes them instead")
        model.config._attn_implementation = EAGER
        return _check_padded(model, rows, stock, most)
    raise ModelError(
        f"{type(model).__name__}: a row is computed otherwise beside a longer one ({problem}), as if its tokens saw "
        "later ones; take a causal language model"
    )


def _check_logits(
    model: PreTrainedModel, rows: Sequence[Encoded], hidden: Sequence[torch.Tensor], dtype: torch.dtype
) -> None:
    """Raise ModelError if logits do not come from the hidden states that were compared, or change by padding."""
    if model.get_output_embeddings() is None:
        return
    stock = [_logits(model, [row])[0] for row in rows]
    if not all(bool(one.isfinite().all()) for one in stock):
        return  # weights that are not finite are named with the rows whose losses they spoil
    try:
        output_layer = OutputLayer(model)
        ways = {
            "padded": [line[: len(row.input_ids)] for line, row in zip(_logits(model, rows), rows, strict=True)],
            "from its hidden states": [output_layer(one.to(model.dtype)).float() for one in hidden],
        }
    except STRANGE as error:
        raise ModelError(
            f"{type(model).__name__}: its logits cannot be had from its hidden states ({type(error).__name__}: "
            f"{one_line(error, 100)}); take another causal language model"
        ) from None
    for way, found in ways.items():
        away = _compare(found, stock).mean if found[0].shape == stock[0].shape else float("inf")
        if away > MOST_BY_PADDING.get(dtype, MOST_BY_PADDING_IN_16_BITS):
            raise ModelError(
                f"{type(model).__name__}: its logits {way} are {away:.2g} of their size away from those of a row by "
                "itself, so no loss here would be its own; take another causal language model"
            )


def _logits(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    ids = pad_rows(rows, rows[0].input_ids[0])["input_ids"]
    logits: torch.Tensor = model(input_ids=tensor_of(ids).to(model.device), use_cache=False).logits
    return logits.float()  # (B, T, V)


def _alone(model: PreTrainedModel, row: Encoded) -> torch.Tensor:
    """Hidden states (T, D) of one row by eager attention."""
    before = model.config._attn_implementation
    model.config._attn_implementation = EAGER
    try:
        return _hidden(model, {"input_ids": torch.tensor([row.input_ids])})[0]
    finally:
        model.config._attn_implementation = before


def _padded(model: PreTrainedModel, rows: Sequence[Encoded]) -> list[torch.Tensor]:
    hidden = _hidden(model, {"input_ids": pad_rows(rows, rows[0].input_ids[0])["input_ids"]})
    return [line[: len(row.input_ids)] for line, row in zip(hidden, rows, strict=True)]


def _flat(
    model: PreTrainedModel, rows: Sequence[Encoded], *, shares: bool, apart: bool, embeds: bool = False
) -> list[torch.Tensor]:
    """Hidden states of each row: all of it, or, with shared prefixes, the part after the prefix.

    embeds: from embeddings, without token ids (as in sft.training.on_cores).
    """
    batch = flatten_rows(rows, shares=shares, apart=apart)
    bounds = tensor_of(batch["cu_seq_lens_q"]).tolist()[-len(rows) - 1 :]
    given = {name: value for name, value in batch.items() if name not in ("labels", "row_lengths", "logits_to_keep")}
    if embeds:
        given["inputs_embeds"] = model.get_input_embeddings()(tensor_of(given.pop("input_ids")).to(model.device))
    with flat_attention(model):
        hidden = _hidden(model, given)[0]
    return [hidden[start:end] for start, end in pairwise(bounds)]


def _hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    output = model.base_model(**to_device(batch, model.device), use_cache=False)
    hidden: torch.Tensor | None = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ModelError(
            f"{type(model).__name__}: its layers cannot be called apart from its output layer; take another"
        )
    return hidden.float()


def _compare(found: Sequence[torch.Tensor], stock: Sequence[torch.Tensor]) -> Difference:
    """Hidden states of the last tokens of each row, as many as `found` has."""
    away = torch.cat([
        (ours - theirs[-len(ours) :]).norm(dim=-1) / theirs[-len(ours) :].norm(dim=-1).clamp(min=1e-12)
        for ours, theirs in zip(found, stock, strict=True)
    ])  # fmt: skip
    away = away.nan_to_num(nan=float("inf"))
    return Difference(float(away.square().mean().sqrt()), float(away.max()))


@contextmanager
def undisturbed(model: PreTrainedModel, autocast: torch.dtype | None = None) -> Iterator[None]:
    """In eval mode, without gradients, FP8 layers in 16 bits; random states and modes are as before afterwards.

    autocast: the type that weights of several types are computed in.
    """
    modes = {module: module.training for module in model.modules()}
    devices = [model.device] if model.device.type == "cuda" else []
    computing = torch.autocast(model.device.type, dtype=autocast, enabled=autocast is not None)
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), computing, in_16_bits(model):
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
