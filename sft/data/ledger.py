"""The ledger: where every row that was read ended; kept + dropped + quarantined is what was read, or the build fails.

ledger.jsonl holds a line for each row not kept:
    {"source": "own", "where": "own.jsonl:17", "bucket": "dropped", "reason": "duplicate", "detail": "same as own-3"}
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import orjson

from sft.data.rows import BadRow


@dataclass
class Tally:
    """The books of one source."""

    read: int = 0
    kept: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)  # reason -> rows that could not be used
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> sound rows that were left out

    def check_balance(self, source: str) -> None:
        """Raise RuntimeError where a row was lost or counted twice: a bug of ours, never the user's."""
        counted = self.kept + self.dropped.total() + self.quarantined.total()
        if counted != self.read:
            raise RuntimeError(f"ledger of {source}: read {self.read} rows but counted {counted}: {self}")


class Ledger:
    """Writes ledger.jsonl and keeps the tally of every source; a context manager."""

    def __init__(self, path: Path) -> None:
        self.tallies: dict[str, Tally] = {}
        self.bad_rows: list[BadRow] = []  # the first few, for a message
        self._file = path.open("wb")

    @property
    def num_quarantined(self) -> int:
        """Rows of all sources that could not be used."""
        return sum(tally.quarantined.total() for tally in self.tallies.values())

    def open_source(self, source: str) -> Tally:
        """Begin a source's books."""
        self.tallies[source] = Tally()
        return self.tallies[source]

    def quarantine(self, source: str, bad: BadRow) -> None:
        """Note a row that cannot be used."""
        self.tallies[source].quarantined[bad.reason] += 1
        if len(self.bad_rows) < 3:
            self.bad_rows.append(bad)
        self._write(source, f"{bad.file}:{bad.line}", "quarantined", bad.reason, bad.message)

    def drop(self, source: str, where: str, reason: str, detail: str = "") -> None:
        """Note a sound row that is left out: where "reports.jsonl:17", reason "duplicate", detail "same as own-3"."""
        self.tallies[source].dropped[reason] += 1
        self._write(source, where, "dropped", reason, detail)

    def _write(self, source: str, where: str, bucket: str, reason: str, detail: str) -> None:
        entry = {"source": source, "where": where, "bucket": bucket, "reason": reason, "detail": detail}
        self._file.write(orjson.dumps(entry) + b"\n")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
