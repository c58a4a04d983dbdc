"""Rows of all sources that passed the filters: the fields needed for choosing in memory, the rest on disk.

In memory 38 bytes per row while rows are chosen; 5 million candidates are 190 MB.
"""

import bisect
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from sft.data.building.spool import Spool
from sft.data.rows.canonical import Row


@dataclass(frozen=True)
class CandidateIndex:
    """Data of every candidate for the selection; arrays of length N, in reading order."""

    group: np.ndarray  # (N,) uint64: equal where two rows ask the same
    exact: np.ndarray  # (N,) uint64: equal where two rows are duplicates
    task: np.ndarray  # (N,) uint32: number of the task, 0 if a text of that task may have several right answers
    label: np.ndarray  # (N,) uint32: equal where two rows have the same label
    cell: np.ndarray  # (N,) uint16: number of source and stratum
    side: np.ndarray | None = (
        None  # (N,) uint64: equal for rows that must stay in one split; None: those with the same question
    )

    def __len__(self) -> int:
        return len(self.group)


def join_sides(group: np.ndarray, thread: np.ndarray) -> np.ndarray:
    """Which rows belong together, by what they ask or by their thread, over any number of steps: (N,) (N,) -> (N,).

    A side is named by the lowest group key in it: [5, 5, 7, 9], [5, 8, 8, 9] -> [5, 5, 5, 9].
    """
    linked = np.flatnonzero(group != thread)
    if not len(linked):
        return group
    side = group.copy()
    _, of_thread = np.unique(thread[linked], return_inverse=True)
    _, of_group = np.unique(group, return_inverse=True)
    highest = np.iinfo(group.dtype).max
    while True:
        lowest = np.full(int(of_thread.max()) + 1, highest, dtype=group.dtype)
        np.minimum.at(lowest, of_thread, side[linked])
        joined = side.copy()
        joined[linked] = lowest[of_thread]
        lowest = np.full(int(of_group.max()) + 1, highest, dtype=group.dtype)
        np.minimum.at(lowest, of_group, joined)
        joined = lowest[of_group]
        if (joined == side).all():
            return side
        side = joined


class CandidateStore:
    """The candidates of all spools, numbered through; gives the index, and later the rows that were chosen.

    `names[i]` and `first_cells[i]` are the source of spool i and the number of its first cell.
    """

    def __init__(self, spools: Sequence[Spool], names: Sequence[str], first_cells: Sequence[int]) -> None:
        self._spools, self._names, self._first_cells = spools, names, first_cells
        sizes = [spool.read_column("size") for spool in spools]
        self._starts = [0, *itertools.accumulate(len(size) for size in sizes)]  # the number of each source's first row
        self._ends = [np.cumsum(size, dtype=np.uint64) for size in sizes]
        self._places: dict[int, dict[str, np.ndarray]] = {}
        self._files = [spool.rows.open("rb", buffering=0) for spool in spools]

    def __len__(self) -> int:
        return self._starts[-1]

    def index(self) -> CandidateIndex:
        """The arrays of all sources."""
        cells = [
            spool.read_column("stratum") + np.uint16(first)
            for spool, first in zip(self._spools, self._first_cells, strict=True)
        ]
        columns = {
            name: np.concatenate([spool.read_column(name) for spool in self._spools])
            for name in ("group", "thread", "exact", "task", "label")
        }
        side = join_sides(columns["group"], columns.pop("thread"))
        return CandidateIndex(**columns, side=side, cell=np.concatenate(cells))

    def source_numbers(self) -> np.ndarray:
        """The position of each row's source: (N,) uint16."""
        return np.repeat(np.arange(len(self._spools), dtype=np.uint16), np.diff(self._starts))

    def where(self, number: int) -> str:
        """File and line of a candidate: "reports.jsonl:17"."""
        source, row = self._locate(number)
        places = self._places_of(source)
        return f"{self._spools[source].file_names[places['file'][row]]}:{places['line'][row]}"

    def id_of(self, number: int) -> str:
        """A candidate's id: its source and its number there, "own-3"."""
        source, row = self._locate(number)
        return f"{self._names[source]}-{self._places_of(source)['ordinal'][row]}"

    def own_id_of(self, number: int) -> str:
        """The id that a candidate's file gave it, "" if it gave none."""
        source, row = self._locate(number)
        return self.read_row(number).get("own_id", "") if self._places_of(source)["named"][row] else ""

    def read_row(self, number: int) -> Row:
        """One candidate, complete."""
        row: Row = orjson.loads(next(self.read_lines([(number, 1)])))
        return row

    def read_lines(self, copies: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """The JSON lines of these candidates in this order; copy 2 of own-3 has the id own-3#2."""
        for number, copy in copies:
            source, row = self._locate(number)
            name = f"{self.id_of(number)}#{copy}" if copy > 1 else self.id_of(number)
            start = b'{"id":%b,"source":%b,' % (orjson.dumps(name), orjson.dumps(self._names[source]))
            ends = self._ends[source]
            first = int(ends[row - 1]) if row else 0
            yield start + os.pread(self._files[source].fileno(), int(ends[row]) - first, first)

    def count_bytes(self, numbers: np.ndarray) -> int:
        """How large these rows are in the spool: (M,) -> bytes."""
        sizes = np.concatenate([spool.read_column("size") for spool in self._spools])
        return int(sizes[numbers].sum(dtype=np.uint64))

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()

    def _locate(self, number: int) -> tuple[int, int]:
        source = bisect.bisect_right(self._starts, number) - 1
        return source, number - self._starts[source]

    def _places_of(self, source: int) -> dict[str, np.ndarray]:
        if source not in self._places:
            names = ("file", "line", "ordinal", "named")
            self._places[source] = {name: self._spools[source].read_column(name) for name in names}
        return self._places[source]
