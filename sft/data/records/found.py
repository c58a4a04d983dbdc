"""What a file reader yields: a record with its line, or what is wrong at that line."""

from typing import NamedTuple

from sft.data.fields import Record


class GoodRecord(NamedTuple):
    """One record as the file gives it; `line` counts from 1 (in Parquet, which has no lines: the row)."""

    line: int
    fields: Record


class BadRecord(NamedTuple):
    """A record that cannot be used: a short reason that is counted, and a message for the user."""

    line: int
    reason: str
    message: str
