"""Named entities: strict span F1 (type and offsets both right) as seqeval counts it, and partial matches by nervaluate.

A generated answer names entities without offsets, so its mentions are first placed in the text. Which of several
occurrences a mention means cannot be known: it is given the gold one of its own type if there is a free one, for base
and tuned alike. So an answer equal to the reference always scores 1.0, each gold mention is found at most once, and a
mention repeated more often than the text holds it counts against the answer.

In a partial match a name found with a character too many counts half. Over all types together any overlap counts,
whatever the types are, as nervaluate's `partial` has it; the figures of one type look at that type's entities alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from nervaluate.entities import Entity
from nervaluate.strategies import PartialEvaluation

__all__ = ["EntityCounts", "Mention", "NerFigures", "Span", "count_entities", "place_mentions", "summarise_entities"]

Mention = tuple[str, str]
"""An entity as an answer names it, text and type: ("北京", "GPE")."""
NOWHERE = -1
ALL_TYPES = ""  # no type is called that: an answer that names none is unparseable


class Span(NamedTuple):
    """An entity with its offsets, end exclusive: Span(0, 2, "GPE"). start = end = -1 if the text does not contain
    it."""

    start: int
    end: int
    label: str


def place_mentions(text: str, mentions: Sequence[Mention], gold: Sequence[Span]) -> list[Span]:
    """Spans of the mentions, one each, in their order. Two have the same place only where gold gives it both labels.

    In this order: the first free gold span of the same text and type; the first free place that gold gives another type
    of the same text; the first free occurrence after the mention before; the first free occurrence at all; nowhere.

    place_mentions("北京人爱北京", [("北京", "GPE")], [Span(4, 6, "GPE")]) -> [Span(4, 6, "GPE")]
    """
    placed: dict[int, Span] = {}
    for index, (name, label) in enumerate(mentions):
        same = (span for span in gold if span.label == label and text[span.start : span.end] == name)
        if span := next((span for span in same if span not in placed.values()), None):
            placed[index] = span
    taken = {(span.start, span.end) for span in placed.values()}
    for index, (name, label) in enumerate(mentions):
        places = ((span.start, span.end) for span in gold if text[span.start : span.end] == name)
        if index not in placed and (place := next((place for place in places if place not in taken), None)):
            placed[index] = Span(*place, label)
            taken.add(place)
    cursor = 0
    for index, (name, label) in enumerate(mentions):
        if index not in placed:
            free = [place for place in _find_places(text, name) if place not in taken]
            place = next((place for place in free if place[0] >= cursor), next(iter(free), (NOWHERE, NOWHERE)))
            placed[index] = Span(*place, label)
            taken.add(place)
        cursor = max(placed[index].end, 0)
    return [placed[index] for index in range(len(mentions))]


def _find_places(text: str, part: str) -> list[tuple[int, int]]:
    """Every occurrence, overlapping ones too: ("哈哈哈", "哈哈") -> [(0, 2), (1, 3)]; none of an empty part."""
    starts = range(len(text) - len(part) + 1) if part else range(0)
    return [(start, start + len(part)) for start in starts if text.startswith(part, start)]


@dataclass(frozen=True)
class Overlaps:
    """Entities of one row or many: exact boundaries, overlapping ones, and how many there were on both sides."""

    exact: int = 0
    partial: int = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: "Overlaps") -> "Overlaps":
        return Overlaps(
            self.exact + other.exact,
            self.partial + other.partial,
            self.predicted + other.predicted,
            self.gold + other.gold,
        )


@dataclass(frozen=True)
class EntityCounts:
    """Entities of one row, per type: Counter({"GPE": 2}). found = right type and offsets; overlaps: partial matches,
    over all types under ALL_TYPES and of each type alone.
    """

    found: Counter[str]
    predicted: Counter[str]
    gold: Counter[str]
    nowhere: int = 0  # predicted, but not in the text: made up, or repeated too often
    unparseable: bool = False  # the answer could not be read, so all its gold entities are missed
    overlaps: dict[str, Overlaps] = field(default_factory=dict)

    @property
    def totals(self) -> tuple[int, int, int]:
        """(found, predicted, gold) over all types: what a resampled micro-F1 is recomputed from."""
        return self.found.total(), self.predicted.total(), self.gold.total()

    @property
    def row_f1(self) -> float:
        """The row's own score: its F1, 1.0 if there is nothing to find and nothing is named.

        An unreadable answer scores 0.0, the worst, even if there was nothing to find.
        """
        found, predicted, gold = self.totals
        if self.unparseable:
            return 0.0
        return 2 * found / (predicted + gold) if predicted or gold else 1.0


def count_entities(gold: Sequence[Span], predicted: Sequence[Span] | None) -> EntityCounts:
    """Strict counts of one row; a span predicted twice is found once. None is an unreadable answer."""
    if predicted is None:
        gold_types = Counter(span.label for span in set(gold))
        return EntityCounts(Counter(), Counter(), gold_types, unparseable=True, overlaps=_count_overlaps(gold, []))
    claimed = {span for span in predicted if span.start != NOWHERE}
    return EntityCounts(
        found=Counter(span.label for span in set(gold) & claimed),
        predicted=Counter(span.label for span in predicted),
        gold=Counter(span.label for span in set(gold)),
        nowhere=sum(span.start == NOWHERE for span in predicted),
        overlaps=_count_overlaps(gold, predicted),
    )


def _count_overlaps(gold: Sequence[Span], predicted: Sequence[Span]) -> dict[str, Overlaps]:
    """Partial matches over all types, and of each type that either side names."""
    overlaps = {ALL_TYPES: count_overlaps(gold, predicted)}
    for label in {span.label for span in (*gold, *predicted)}:
        sides = ([span for span in side if span.label == label] for side in (gold, predicted))
        overlaps[label] = count_overlaps(*sides)
    return overlaps


class EntityFigures(TypedDict):
    """One type, or all of them together (micro)."""

    precision: float
    recall: float
    f1: float
    found: int
    predicted: int
    support: int


class OverlapFigures(TypedDict):
    """precision = (exact + partial / 2) / predicted, recall the same over support, F1 of the two."""

    precision: float
    recall: float
    f1: float
    exact: int
    partial: int
    predicted: int
    support: int


class PartialFigures(OverlapFigures):
    """Partial matches over all types, whatever the types, and among the entities of each type."""

    by_type: dict[str, OverlapFigures]


class NerFigures(EntityFigures):
    """Strict micro figures, those of each type, and partial ones; rates are of rows (unparseable) and of mentions (not
    in the text).
    """

    unparseable_rate: float
    not_in_text_rate: float
    num_rows: int
    by_type: dict[str, EntityFigures]
    partial: PartialFigures


def summarise_entities(rows: Sequence[EntityCounts]) -> NerFigures:
    """Micro figures over rows and the same per type; types that the gold never names are listed last.

    summarise_entities([count_entities([Span(0, 2, "GPE")], [])]) -> precision 0.0, recall 0.0, f1 0.0, support 1

    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("no rows with entities to count")
    found, predicted, gold = (
        sum((getattr(row, side) for row in rows), Counter[str]()) for side in ("found", "predicted", "gold")
    )
    types = [*sorted(gold), *sorted(set(predicted) - set(gold))]
    num_predicted = predicted.total()
    return {
        **_figures(found.total(), num_predicted, gold.total()),
        "unparseable_rate": sum(row.unparseable for row in rows) / len(rows),
        "not_in_text_rate": sum(row.nowhere for row in rows) / num_predicted if num_predicted else 0.0,
        "num_rows": len(rows),
        "by_type": {label: _figures(found[label], predicted[label], gold[label]) for label in types},
        "partial": {
            **summarise_overlaps(_sum_overlaps(rows, ALL_TYPES)),
            "by_type": {label: summarise_overlaps(_sum_overlaps(rows, label)) for label in types},
        },
    }


def _sum_overlaps(rows: Sequence[EntityCounts], label: str) -> Overlaps:
    return sum((row.overlaps.get(label, Overlaps()) for row in rows), Overlaps())


def _figures(found: int, predicted: int, gold: int) -> EntityFigures:
    """Precision, recall and F1 from counts; 0.0 if there is nothing to divide by, as nervaluate has it."""
    precision = found / predicted if predicted else 0.0
    recall = found / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if found else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "found": found, "predicted": predicted, "support": gold}


def count_overlaps(gold: Iterable[Span], predicted: Sequence[Span]) -> Overlaps:
    """Overlaps of one row. Exact matches are settled first, so that no overlapping claim takes their place.

    count_overlaps([Span(0, 4, "ORG")], [Span(0, 2, "GPE")]) -> Overlaps(exact=0, partial=1, predicted=1, gold=1)
    """
    wanted = sorted(set(gold))
    places = {(span.start, span.end) for span in wanted}
    ordered = sorted(predicted, key=lambda span: ((span.start, span.end) not in places, span))
    result, _ = PartialEvaluation().evaluate(_as_nervaluate(wanted), _as_nervaluate(ordered), [])
    return Overlaps(result.correct, result.partial, len(predicted), len(wanted))


def summarise_overlaps(counts: Overlaps) -> OverlapFigures:
    """Figures of counts; 0.0 if there is nothing to divide by, as nervaluate has it."""
    credit = counts.exact + counts.partial / 2
    precision = credit / counts.predicted if counts.predicted else 0.0
    recall = credit / counts.gold if counts.gold else 0.0
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if credit else 0.0,
        "exact": counts.exact,
        "partial": counts.partial,
        "predicted": counts.predicted,
        "support": counts.gold,
    }


def _as_nervaluate(spans: Iterable[Span]) -> list[Entity]:
    """Its ends are inclusive; an entity that is nowhere ends before it starts there and so overlaps nothing."""
    return [Entity(span.label, span.start, span.end - 1) for span in spans]
