"""One model's measurements, for some of the rows alone."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from sft.evaluation.outcomes import Measured


def take_rows(measured: Measured, places: Sequence[int]) -> Measured:
    """The same measurements for the rows at these places, in their order: every list in it is one value a row."""
    return _take(measured, places)


def _take(value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [value[place] for place in places]
    if isinstance(value, dict):
        return {name: _take(part, places) for name, part in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{part.name: _take(getattr(value, part.name), places) for part in fields(value)})
