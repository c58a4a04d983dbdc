"""Rows -> the tensors of one forward pass, in the two layouts there are.

flat     rows concatenated, (1, T): no padding; attention keeps rows apart (sft.kernels.attention)
padded   one row per line, (B, T), padded on the right: for layers and backends that cannot keep flat rows apart
"""

from collections.abc import Sequence
from itertools import chain, groupby, pairwise
from typing import NamedTuple

import numpy
import torch
from torch.nn.functional import pad

from prompts import Encoded

# Find the prefixes shared by the rows of a batch (system prompt, instruction), so that they are computed once

FEWEST_TOKENS = 8  # of a segment in common: each is one more row for attention, which a few tokens do not pay for


class Segment(NamedTuple):
    """Tokens that are computed together: row.input_ids[start:end], for every row that has them."""

    row: int
    start: int
    end: int
    above: tuple[int, ...]  # the segments, by their places in the list, that make up the tokens before start


def whole_rows(rows: Sequence[Encoded]) -> list[Segment]:
    """A segment for each row, nothing in common."""
    return [Segment(place, 0, len(row.input_ids), ()) for place, row in enumerate(rows)]


def find_segments(rows: Sequence[Encoded]) -> list[Segment]:
    """Segments in common, and after them one of its own for each row, in the order of the rows.

    A row's own segment begins before the token that predicts its first supervised one: what has a loss, and what
    predicts it, is never in common and always side by side.
    """
    prompts = [row.input_ids[: max(0, _first_supervised(row) - 1)] for row in rows]
    shared: list[Segment] = []
    own: dict[int, Segment] = {}
    # Rows, sorted by their prompts, that agree up to a place; and the segments that reach to it.
    todo: list[tuple[list[int], int, tuple[int, ...]]] = [(sorted(range(len(rows)), key=prompts.__getitem__), 0, ())]
    while todo:
        members, start, above = todo.pop()
        common = count_in_common(prompts[members[0]], prompts[members[-1]])  # of all: they are sorted
        if len(members) > 1 and common - start >= FEWEST_TOKENS:
            shared.append(Segment(members[0], start, common, above))
            start, above = common, (*above, len(shared) - 1)
        for following, group in groupby(members, key=lambda row: prompts[row][common : common + 1]):
            branch = list(group)
            if following and len(branch) > 1:
                todo.append((branch, start, above))
            else:
                own.update((row, Segment(row, start, len(rows[row].input_ids), above)) for row in branch)
    return shared + [own[row] for row in range(len(rows))]


def count_tokens(segments: Sequence[Segment]) -> int:
    """Tokens that are computed."""
    return sum(part.end - part.start for part in segments)


def count_in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin: [1, 2, 3], [1, 2, 4, 5] -> 2."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _first_supervised(row: Encoded) -> int:
    return row.loss_mask.index(1) if 1 in row.loss_mask else len(row.input_ids)


Batch = dict[str, torch.Tensor | int]
IGNORED = -100  # label of a token that carries no loss, as everywhere in transformers
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
LOGITS_AT_ONCE = 1024  # supervised positions whose logits exist at the same time in training
GIBIBYTE = 2**30  # bytes; what settings, logs and figures call a GB of memory
FP32_BYTES = {"cpu": 2**21, "cuda": 2**28}  # of them in fp32: of more, a CPU waits for new memory each time


def flatten_rows(rows: Sequence[Encoded], *, shares: bool = False, apart: bool = False) -> Batch:
    """Rows end to end, and where their supervised tokens are predicted.

    Two rows of 5 and 7 tokens with one supervised token each (the last) ->
    input_ids (1, 12), position_ids (1, 12) [0..4, 0..6], cu_seq_lens_q [0, 5, 12], max_length_q 7,
    logits_to_keep [3, 10] (the positions that predict them), labels (1, 12), row_lengths [5, 7].

    shares: prefixes of several rows (sft.batches) stand there once, before the rest of the rows. Were the
    first 3 tokens of both the same (and worth it): input_ids (1, 9), position_ids [0, 1, 2, 3, 4, 3, 4, 5, 6],
    cu_seq_lens_q [0, 3, 5, 9]; and the tokens that each sees, key_places [0..2, 0..4, 0..2, 5..8], cu_seq_lens_k
    [0, 3, 8, 15], of which a segment's own are the last. row_lengths stay [5, 7].

    apart: with seq_idx (1, T), the row of each token, for layers that carry a state from token to token.
    """
    segments = find_segments(rows) if shares else whole_rows(rows)
    lengths = torch.tensor([part.end - part.start for part in segments])
    ids, mask = (
        torch.from_numpy(numpy.fromiter(chain.from_iterable(tokens), kind))
        for tokens, kind in (
            ((rows[part.row].input_ids[part.start : part.end] for part in segments), numpy.int64),
            ((rows[part.row].loss_mask[part.start : part.end] for part in segments), numpy.bool_),
        )
    )
    bounds = _bounds(lengths)
    mask[bounds[:-1].long()] = False  # a row's first token has nothing before it that could predict it
    offsets = torch.tensor([part.start for part in segments]) - bounds[:-1]
    batch: Batch = {
        "input_ids": ids[None],
        "position_ids": (torch.arange(len(ids)) + offsets.repeat_interleave(lengths))[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
        "logits_to_keep": mask.nonzero()[:, 0] - 1,
        "labels": ids.masked_fill(~mask, IGNORED)[None],
        "row_lengths": torch.tensor([len(row.input_ids) for row in rows]),
    }
    if apart:
        batch["seq_idx"] = torch.arange(len(segments), dtype=torch.int32).repeat_interleave(lengths)[None]
    return batch | _keys_of(segments, bounds) if len(segments) > len(rows) else batch


def _keys_of(segments: Sequence[Segment], bounds: torch.Tensor) -> Batch:
    """Which tokens each segment sees: those above it, and its own."""
    own = [torch.arange(start, end) for start, end in pairwise(bounds.tolist())]
    seen = torch.tensor([part.end for part in segments])  # from its row's beginning on
    return {
        "key_places": torch.cat([own[place] for i, part in enumerate(segments) for place in (*part.above, i)]),
        "cu_seq_lens_k": _bounds(seen),
        "max_length_k": int(seen.max()),
    }


def fill_up(
    batch: Batch, num_tokens: int, num_rows: int, pad_id: int, num_keys: int | None = None
) -> dict[str, torch.Tensor]:
    """What a flat batch's forward pass reads, in shapes that do not depend on its rows: num_tokens and num_rows + 1.

    One more row of padding takes the tokens that are left, rows without tokens the places that are left. The batch of
    flatten_rows' example in 16, 3: input_ids (1, 16), position_ids [0..4, 0..6, 0..3], cu_seq_lens_q
    [0, 5, 12, 16, 16], row_lengths [5, 7, 4, 0].

    num_keys: of a batch whose segments see each other, key_places, -1 where nobody looks, and cu_seq_lens_k in place of
    row_lengths. num_rows counts segments then.
    """
    lengths, ids = tensor_of(batch["cu_seq_lens_q"]).diff(), tensor_of(batch["input_ids"])
    used = ids.shape[1]
    left = num_tokens - used
    if left < 0 or len(lengths) > num_rows:
        raise ValueError(f"{len(lengths)} rows of {used} tokens do not fit {num_rows} of {num_tokens}")
    filler = torch.tensor([left] + [0] * (num_rows - len(lengths)), dtype=lengths.dtype)
    row_lengths = torch.cat([lengths, filler])
    filled = {
        "input_ids": pad(ids, (0, left), value=pad_id),
        "position_ids": torch.cat([tensor_of(batch["position_ids"]), torch.arange(left)[None]], dim=1),
        "cu_seq_lens_q": _bounds(row_lengths),
    }
    if num_keys is None:
        return filled | {"row_lengths": row_lengths}
    places = torch.cat([tensor_of(batch["key_places"]), torch.arange(used, num_tokens)])
    if len(places) > num_keys:
        raise ValueError(f"{len(places)} keys do not fit {num_keys}")
    seen = torch.cat([tensor_of(batch["cu_seq_lens_k"]).diff(), filler])
    return filled | {"key_places": pad(places, (0, num_keys - len(places)), value=-1), "cu_seq_lens_k": _bounds(seen)}


def _bounds(lengths: torch.Tensor) -> torch.Tensor:
    """Start of each row and end of the last one: [5, 7] -> [0, 5, 12]."""
    return pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def pad_rows(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Rows as lines of equal length: input_ids and labels, each (B, T), padding on the right, and row_lengths (B,).

    No attention mask: neither causal attention nor a state that goes from token to token looks at padding after it.
    """
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full_like(ids, IGNORED)
    for line, row in enumerate(rows):
        num_tokens = len(row.input_ids)
        ids[line, :num_tokens] = torch.tensor(row.input_ids)
        supervised = torch.tensor(row.loss_mask, dtype=torch.bool)
        supervised[0] = False
        labels[line, :num_tokens] = ids[line, :num_tokens].masked_fill(~supervised, IGNORED)
    return {"input_ids": ids, "labels": labels, "row_lengths": torch.tensor([len(row.input_ids) for row in rows])}


class Predictors(NamedTuple):
    """Positions at which a batch's supervised tokens are predicted: (N,) each, except columns."""

    columns: torch.Tensor  # (K,), the positions whose logits are wanted, of every line
    lines: torch.Tensor
    places: torch.Tensor  # among the columns
    targets: torch.Tensor  # the tokens

    @classmethod
    def of(cls, batch: Batch) -> "Predictors":
        """Of a batch in either layout: pad_rows' of two rows that predict at 3 and at 5 -> columns [3, 5], lines
        [0, 1], places [0, 1]."""
        labels = tensor_of(batch["labels"])
        if "logits_to_keep" in batch:
            kept = tensor_of(batch["logits_to_keep"])
            return cls(kept, torch.zeros_like(kept), torch.arange(len(kept), device=kept.device), labels[0, kept + 1])
        lines, kept = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        columns, places = kept.unique(return_inverse=True)
        return cls(columns, lines, places, labels[lines, kept + 1])

    def pick(self, outputs: torch.Tensor) -> torch.Tensor:
        """What the model says at its columns, (B, K, D) -> (N, D); some older ones say it of all positions, (B, T, D).

        Where that is as many, all are asked for.
        """
        if outputs.shape[1] != len(self.columns):
            outputs = outputs[:, self.columns]
        return outputs.squeeze(0) if len(outputs) == 1 else outputs[self.lines, self.places]


def plan_batches(
    lengths: Sequence[int],
    max_tokens: int,
    max_rows: int | None = None,
    *,
    padded: bool = False,
    growing_by: Sequence[int] | None = None,
) -> list[list[int]]:
    """Indices of rows in batches of at most max_tokens tokens, longest rows first: [3, 9, 2], 10 -> [[1], [0, 2]].

    A row longer than max_tokens is a batch of its own. padded: a row counts as long as the longest beside it.
    growing_by: tokens that each row will have more (answers to be written), the same number in all rows of a batch.
    """
    batches: list[list[int]] = []
    used, growth = 0, growing_by or [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = batches[-1][0] if batches else index
        cost = lengths[longest if padded else index] + growth[index]
        is_full = used + cost > max_tokens or (max_rows and len(batches[-1]) >= max_rows) if batches else True
        if is_full or growth[index] != growth[longest]:
            batches.append([])
            used, cost = 0, lengths[index] + growth[index]
        batches[-1].append(index)
        used += cost
    return batches


def num_tokens_at_once(lengths: Sequence[int], padded: bool) -> int:
    """Tokens a batch of such rows takes on the device, padding among them: [5, 7] -> 12, or 14 padded; [] -> 0."""
    return len(lengths) * max(lengths, default=0) if padded else sum(lengths)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def tensor_of(value: torch.Tensor | int) -> torch.Tensor:
    """An entry of a batch that is known to be a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"a tensor was expected in the batch, not {value!r}")
    return value
