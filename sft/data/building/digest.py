"""What becomes of one chunk of a source: candidates with what choosing needs to know, or lines of the ledger.

This is the work that --num_proc spreads over processes. It knows nothing of other chunks: rows are numbered within
their chunk, and whoever merges chunks in order (spool.py) makes those the numbers of the source.
"""

from __future__ import annotations  # array[int] exists for type checkers only

import hashlib
import zlib
from array import array
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import orjson

from prompts.tasks import get_task
from sft.data.files.reader import BadRow, OnBadRow
from sft.data.ledger import Tally, make_line
from sft.data.likeness import EvaluationTexts, sign_texts
from sft.data.rows.canonical import Row, answer_of, asked_of, exact_key, group_key, question_of, thread_of
from sft.data.rows.recognised import Recognised
from sft.data.sources.base import Chunk, Strata, StratumFinder
from sft.data.sources.filters import Filters, Reason, RowFilter

ROW_START = b'{"id":"","source":"",'  # of every row as it is spooled; its id and source are put in when it is written
SHOWN_BAD_ROWS = 3

# What is kept of each candidate: 54 bytes, on disk until all sources are read.
COLUMNS: dict[str, Literal["B", "H", "I", "Q"]] = {
    "group": "Q",  # equal where two rows ask the same
    "thread": "Q",  # equal where two rows belong on one side of a split for another reason; else a key of its own
    "exact": "Q",  # equal where two rows are duplicates
    "task": "I",  # number of the task, 0 if a text of that task may have several right answers
    "label": "I",  # equal where two rows have the same label
    "stratum": "H",  # position among the source's strata
    "file": "I",  # position among the source's files
    "line": "I",
    "ordinal": "I",  # the row's number within its source, from 1, as in its id
    "named": "B",  # 1 where the row has an id of its own, which the ledger then names
    "size": "I",  # bytes of the row in the spool
}


@dataclass(frozen=True)
class Rules:
    """The processing of one source's rows; pickled once per process."""

    source: str
    filters: Filters
    strata: Strata | None
    stratum_numbers: dict[str, int]
    on_bad_row: OnBadRow
    seed: int
    evaluation: EvaluationTexts | None = None
    signed: bool = False  # whether near duplicates will be looked for among all candidates


@dataclass
class Digest:
    """One chunk, digested."""

    tally: Tally = field(default_factory=Tally)
    rows: bytes = b""  # the candidates as JSON lines, without id and source
    columns: dict[str, array[int]] = field(default_factory=dict)  # by the names of COLUMNS, one entry a candidate
    files: list[str] = field(default_factory=list)  # the column `file` has their indices
    ledger: bytes = b""
    bad_rows: list[BadRow] = field(default_factory=list)  # the first few
    failed: BadRow | None = None  # the bad row that ends the build (on_bad_row "error"); nothing was done after it
    recognised: dict[str, Recognised] = field(default_factory=dict)  # by file
    signatures: bytes = b""  # of the candidates, if requested: uint16, NUM_HASHES each


class Digester:
    """Makes digests of one source's chunks; patterns and keyword lists are compiled once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._filter = RowFilter(rules.filters)
        self._strata = StratumFinder(rules.strata) if rules.strata else None
        self._label_keys: dict[str, int] = {}
        self._task_numbers: dict[str, int] = {}

    def digest(self, chunk: Chunk) -> Digest:
        """Read a chunk to its end, or to the row that must not be."""
        rules, result = self._rules, Digest()
        columns = result.columns = {name: array(code) for name, code in COLUMNS.items()}
        add = [columns[name].append for name in COLUMNS]
        rows: list[bytes] = []
        ledger: list[bytes] = []
        texts: list[str] = []
        files: dict[str, int] = {}
        for found in chunk.read(result.recognised):
            result.tally.read += 1
            if isinstance(found, BadRow):
                if rules.on_bad_row == "error":
                    result.failed = found
                    break
                ledger.append(self._quarantine(found, result))
                continue
            row = found.row
            question = question_of(row)
            reason, stratum = self._judge(row)
            if reason is not None:
                where = f"{found.file}:{found.line}"
                result.tally.drop(reason.name, where, reason.detail, question)
                own_id = row.get("own_id", "")
                ledger.append(make_line(rules.source, where, "dropped", reason.name, reason.detail, own_id))
                continue
            data = serialise_row(row)
            rows.append(data)
            group, thread = group_key(asked_of(row), rules.seed), thread_of(row)
            values = (
                group,
                group if thread is None else group_key(thread, rules.seed),
                exact_key(row),
                self._task_number(row["task"]),
                self._label_key(row),
                stratum,
                files.setdefault(found.file, len(files)),
                found.line,
                result.tally.read,
                int("own_id" in row),
                len(data),
            )
            for append, value in zip(add, values, strict=True):
                append(value)
            if rules.signed:
                texts.append(f"{question}\n{answer_of(row)}")
        result.rows, result.ledger, result.files = b"".join(rows), b"".join(ledger), list(files)
        result.signatures = sign_texts(texts).tobytes()
        return result

    def _judge(self, row: Row) -> tuple[Reason | None, int]:
        """Why a row is left out, if it is, and the number of its stratum."""
        rules = self._rules
        reason = self._filter.find_reason(row)
        if reason is not None:
            return reason, 0
        stratum = rules.stratum_numbers.get(self._strata.find(row) if self._strata else "")
        if stratum is None:
            return Reason("no_quota"), 0
        if rules.evaluation is not None and (held := rules.evaluation.find(row)) is not None:
            return Reason("contaminated", held), 0
        return None, stratum

    def _quarantine(self, bad: BadRow, result: Digest) -> bytes:
        where = f"{bad.file}:{bad.line}"
        result.tally.quarantine(bad.reason, where, bad.message)
        if len(result.bad_rows) < SHOWN_BAD_ROWS:
            result.bad_rows.append(bad)
        return make_line(self._rules.source, where, "quarantined", bad.reason, bad.message)

    def _task_number(self, name: str) -> int:
        """The task's number, 0 if a text of it may have several right answers."""
        if name not in self._task_numbers:
            self._task_numbers[name] = zlib.crc32(name.encode()) or 1 if get_task(name).is_of_one_label else 0
        return self._task_numbers[name]

    def _label_key(self, row: Row) -> int:
        """32 bits of the label's hash; 0 for tasks without one right label."""
        if not self._task_number(row["task"]):
            return 0
        label = answer_of(row)
        if label not in self._label_keys:
            digest = hashlib.blake2b(label.encode(), digest_size=4).digest()
            self._label_keys[label] = int.from_bytes(digest, "little")
        return self._label_keys[label]


def serialise_row(row: Row) -> bytes:
    """A candidate as it is spooled: its JSON line without the opening that holds id and source."""
    row["id"] = row["source"] = ""
    data = orjson.dumps(row)
    if not data.startswith(ROW_START):  # a source that writes its keys in another order
        data = orjson.dumps({"id": "", "source": "", **row})
    return data[len(ROW_START) :] + b"\n"


def as_array(column: array[int]) -> np.ndarray:
    """A column as a numpy array of its own width, without copying."""
    return np.frombuffer(column, dtype=f"u{column.itemsize}")
