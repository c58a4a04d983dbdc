"""Do rows of the evaluation occur in the training data? Counted, named, and every score is also reported without them.

exact   the normalised text (NFKC, case, whitespace and punctuation made equal) is that of a training row, and so is
        its system prompt
near    the character 5-grams of both texts overlap by 60 % of their union (Jaccard), or 90 % of the row's own are in
        one training row, which is how a passage shows that was copied into a longer text; under one system prompt

    overlaps = find_overlaps(rows, training_rows)      # {"r17": Overlap("near", "t203", 0.74)}

Exact over all pairs, without a sample: what occurs nowhere in the training data is ruled out by one pass over it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict

from sft.data.rows.canonical import Row, asked_of, question_of, system_of
from sft.text import normalise_text

NGRAM = 5  # characters of normalised text
JACCARD = 0.6
CONTAINED = 0.9
MAX_NAMED = 20
SIGNATURE = f"exact:nfkc,casefold,no-space-punct|near:char-{NGRAM}-grams,jaccard>={JACCARD},contained>={CONTAINED}"
MIN_CONTAINED = 20  # 5-grams a text needs so that being contained says something: 24 characters


class Overlap(NamedTuple):
    """similarity: 1.0 if exact; else Jaccard or, where the text is long enough, the share contained if more."""

    kind: Literal["exact", "near"]
    training_id: str
    similarity: float


class LeakFigures(TypedDict):
    """exact and near count rows of the evaluation; checked is False with --no-leak_check alone.

    training_rows: how many rows they were compared with. ids: of the first ones; predictions.jsonl marks all.
    """

    checked: bool
    training_rows: int
    exact: int
    near: int
    share: float
    ids: list[str]
    signature: str


def describe_leaks(
    training: Sequence[Row], overlaps: Mapping[str, Overlap], num_rows: int, *, checked: bool
) -> LeakFigures:
    """The group of metrics.json."""
    kinds = Counter(overlap.kind for overlap in overlaps.values())
    return {
        "checked": checked,
        "training_rows": len(training),
        "exact": kinds["exact"],
        "near": kinds["near"],
        "share": len(overlaps) / num_rows,
        "ids": list(overlaps)[:MAX_NAMED],
        "signature": SIGNATURE,
    }


def find_overlaps(rows: Sequence[Row], training: Sequence[Row]) -> dict[str, Overlap]:
    """Rows (by id) whose question is in the training data, each with the training row that is most like it."""
    shared = _shared_instructions(training)
    exact: dict[str, str] = {}
    for row in training:
        exact.setdefault(normalise_text(asked_of(row)), row["id"])
    found: dict[str, Overlap] = {}
    grams: dict[str, frozenset[str]] = {}
    for row in rows:
        if training_id := exact.get(normalise_text(asked_of(row))):
            found[row["id"]] = Overlap("exact", training_id, 1.0)
        else:
            grams[row["id"]] = _grams(_own_text(row, shared))
    systems = {row["id"]: normalise_text(system_of(row)) for row in rows}
    nearest = _find_nearest(grams, systems, training, shared)
    return {row["id"]: overlap for row in rows if (overlap := found.get(row["id"]) or nearest.get(row["id"]))}


def _shared_instructions(training: Iterable[Row]) -> set[str]:
    """Instructions that several training rows with an input share: such a shared text is no sign of a leak."""
    counts = Counter(row["instruction"] for row in training if row.get("input"))
    return {instruction for instruction, count in counts.items() if count > 1}


def _own_text(row: Row, shared: set[str]) -> str:
    text = row["input"] if row.get("input") and row.get("instruction") in shared else question_of(row)
    return normalise_text(text)


def _grams(text: str) -> frozenset[str]:
    """Character 5-grams; of a shorter text itself."""
    return frozenset(text[start : start + NGRAM] for start in range(max(1, len(text) - NGRAM + 1)))


def _find_nearest(
    grams: Mapping[str, frozenset[str]],
    systems: Mapping[str, str],  # of the rows by id: under another system prompt a row asks something else
    training: Sequence[Row],
    shared: set[str],
) -> dict[str, Overlap]:
    wanted = frozenset().union(*grams.values())
    seen: set[str] = set()
    for row in training:
        seen |= wanted & _grams(_own_text(row, shared))
    # A row whose n-grams occur in all training rows together too rarely cannot overlap enough with one of them.
    candidates = {
        row_id: own for row_id, own in grams.items() if own and len(own & seen) >= min(JACCARD, CONTAINED) * len(own)
    }
    holders: dict[str, list[str]] = defaultdict(list)
    for row_id, own in candidates.items():
        for gram in own:
            holders[gram].append(row_id)
    best: dict[str, Overlap] = {}
    for row in training:
        theirs = _grams(_own_text(row, shared))
        common = Counter(row_id for gram in theirs if gram in holders for row_id in holders[gram])
        system = normalise_text(system_of(row))
        for row_id, count in common.items():
            if systems[row_id] != system:
                continue
            own = candidates[row_id]
            similarity = count / (len(own) + len(theirs) - count)
            if len(own) >= MIN_CONTAINED and count / len(own) >= CONTAINED:
                similarity = max(similarity, count / len(own))
            if similarity >= JACCARD and (row_id not in best or similarity > best[row_id].similarity):
                best[row_id] = Overlap("near", row["id"], similarity)
    return best
