"""The ledger: what happened to every row; kept + dropped + quarantined equals the rows read, or the build fails.

ledger.jsonl holds a line for each row not kept:
    {"source": "own", "where": "own.jsonl:17", "bucket": "dropped", "reason": "duplicate", "detail": "same as own-3"}
"""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypedDict

import orjson

EXCERPT_CHARACTERS = 80


class Example(TypedDict):
    """One row that was left out for a reason, for the manifest."""

    where: str  # "own.jsonl:17"
    detail: str  # as in the ledger
    text: str  # the start of the row's question; "" for an unreadable row


@dataclass
class Tally:
    """The books of one source."""

    read: int = 0
    kept: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)  # reason -> rows that could not be used
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> sound rows that were left out
    examples: dict[str, Example] = field(default_factory=dict)  # reason -> the first row left out for it

    def quarantine(self, reason: str, where: str, message: str) -> None:
        """Count a row that cannot be used."""
        self.quarantined[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = {"where": where, "detail": message, "text": ""}

    def drop(self, reason: str, where: str, detail: str, question: str) -> None:
        """Count a sound row that is left out."""
        self.dropped[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = {"where": where, "detail": detail, "text": question[:EXCERPT_CHARACTERS]}

    def add(self, other: "Tally") -> None:
        """Take in the books of the source's next part."""
        self.read += other.read
        self.kept += other.kept
        self.quarantined += other.quarantined
        self.dropped += other.dropped
        self.examples = {**other.examples, **self.examples}

    def check_balance(self, source: str) -> None:
        """Raise RuntimeError if a row was lost or counted twice: a bug of ours, never the user's."""
        counted = self.kept + self.dropped.total() + self.quarantined.total()
        if counted != self.read:
            raise RuntimeError(f"ledger of {source}: read {self.read} rows but counted {counted}: {self}")


class Ledger:
    """Writes ledger.jsonl and keeps the tally of every source; a context manager."""

    def __init__(self, path: Path) -> None:
        self.tallies: dict[str, Tally] = {}
        self._file = path.open("wb")

    def open_source(self, source: str, tally: Tally, lines: Path) -> None:
        """Take over the books of a source that has been read, and the ledger's lines so far."""
        self.tallies[source] = tally
        with lines.open("rb") as file:
            shutil.copyfileobj(file, self._file)

    def drop(self, source: str, where: str, reason: str, detail: str = "", own_id: str = "") -> None:
        """Note a sound row that is left out: where "reports.jsonl:17", reason "duplicate", detail "same as own-3"."""
        self.tallies[source].dropped[reason] += 1
        self._file.write(make_line(source, where, "dropped", reason, detail, own_id))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def make_line(source: str, where: str, bucket: str, reason: str, detail: str, own_id: str = "") -> bytes:
    """One line of ledger.jsonl; own_id: the id that the row's file gave it, "" if it gave none."""
    entry = {"source": source, "where": where, "bucket": bucket, "reason": reason, "detail": detail}
    if own_id:
        entry["id"] = own_id
    return orjson.dumps(entry) + b"\n"
