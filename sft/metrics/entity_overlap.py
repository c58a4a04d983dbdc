"""Partial entity matches, by nervaluate: a name found with a character too many counts half.

Over all types together an overlap counts whatever the types are, as nervaluate's `partial` has it; the figures of one
type look at that type's entities alone. Strict matches (type and offsets both right) are counted in
sft.metrics.entities.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from nervaluate.entities import Entity
from nervaluate.strategies import PartialEvaluation


class Span(NamedTuple):
    """An entity with its place, end exclusive: Span(0, 2, "GPE"). start = end = -1 where the text does not hold it."""

    start: int
    end: int
    label: str


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


class OverlapFigures(TypedDict):
    """precision = (exact + partial / 2) / predicted, recall the same over support, F1 of the two."""

    precision: float
    recall: float
    f1: float
    exact: int
    partial: int
    predicted: int
    support: int


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
    """Figures of counts; 0.0 where there is nothing to divide by, as nervaluate has it."""
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
