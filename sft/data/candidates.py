"""Rows that passed the filters, waiting to be chosen: on disk as they will be written, in memory 39 bytes each.

Nothing but the index grows with the number of rows: 5 million candidates are 195 MB.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import orjson

from sft.data.canonical import question_of
from sft.data.content import exact_key, group_key
from sft.data.rows import FoundRow

LABEL_TASKS = ("sentiment", "sentiment_json", "moderation")  # one text, one right label (news: options differ per row)


@dataclass(frozen=True)
class CandidateIndex:
    """What choosing needs to know of every candidate; arrays of one length N, in the order they were read."""

    group: np.ndarray  # (N,) uint64: equal where two rows ask the same
    exact: np.ndarray  # (N,) uint64: equal where two rows are duplicates
    task: np.ndarray  # (N,) uint8: number of the task, 0 where a text of that task may have several right answers
    label: np.ndarray  # (N,) uint16: number of the label
    cell: np.ndarray  # (N,) uint16: number of source and stratum

    def __len__(self) -> int:
        return len(self.group)


class CandidateStore:
    """Takes rows one by one, gives back the index, and later the bytes of those chosen. A context manager."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._spool: BinaryIO = path.open("w+b")
        self._labels: dict[str, int] = {}
        self._file_numbers: dict[str, int] = {}
        self._file_names: list[str] = []
        self._group, self._exact = array("Q"), array("Q")
        self._task, self._label = array("B"), array("H")
        self._cell, self._file = array("H"), array("H")
        self._line, self._ordinal = array("I"), array("I")
        self._ends = array("Q")  # offset behind each row in the spool

    def add(self, found: FoundRow, cell: int, ordinal: int) -> None:
        """Keep a complete row, with id and source; `ordinal` is its number within the source."""
        row = found.row
        data = orjson.dumps(row) + b"\n"
        self._spool.write(data)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(data))
        self._group.append(group_key(question_of(row), self._seed))
        self._exact.append(exact_key(row))
        is_label = row["task"] in LABEL_TASKS
        self._task.append(LABEL_TASKS.index(row["task"]) + 1 if is_label else 0)
        self._label.append(self._labels.setdefault(str(row["label"]), len(self._labels)) if is_label else 0)
        self._cell.append(cell)
        self._file.append(self._number_file(found.file))
        self._line.append(found.line)
        self._ordinal.append(ordinal)

    def index(self) -> CandidateIndex:
        """The arrays, without copying; nothing may be added afterwards."""
        return CandidateIndex(
            group=np.frombuffer(self._group, dtype=np.uint64),
            exact=np.frombuffer(self._exact, dtype=np.uint64),
            task=np.frombuffer(self._task, dtype=np.uint8),
            label=np.frombuffer(self._label, dtype=np.uint16),
            cell=np.frombuffer(self._cell, dtype=np.uint16),
        )

    def where(self, number: int) -> str:
        """The place of a candidate: "reports.jsonl:17"."""
        return f"{self._file_names[self._file[number]]}:{self._line[number]}"

    def ordinal(self, number: int) -> int:
        """A candidate's number within its source, as it stands in the row's id."""
        return self._ordinal[number]

    def read_bytes(self, numbers: list[int]) -> Iterator[bytes]:
        """The lines of these candidates, in this order."""
        self._spool.flush()
        for number in numbers:
            start = self._ends[number - 1] if number else 0
            self._spool.seek(start)
            yield self._spool.read(self._ends[number] - start)

    def _number_file(self, name: str) -> int:
        if name not in self._file_numbers:
            self._file_numbers[name] = len(self._file_names)
            self._file_names.append(name)
        return self._file_numbers[name]

    def __enter__(self) -> "CandidateStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()
        self._path.unlink()
