"""Sources that have been read, on disk: what --resume builds on, and what rows are chosen from.

<staging>/sources/<key>/
    rows         the candidates as JSON lines, without id and source
    ledger       lines of the ledger for rows already left out
    <column>     one binary file for each of COLUMNS, an entry a candidate
    signatures   where near duplicates are looked for
    finished.json   last: the books, the origin, SHA-256 of the others; a folder without it is read again

The key is a hash of everything that decides the folder's content, so a changed preset finds nothing stale.
"""

import hashlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import orjson

from sft.data.building.digest import COLUMNS, SHOWN_BAD_ROWS, Digest, as_array
from sft.data.files.reader import BadRow
from sft.data.ledger import Tally
from sft.data.sources import Origin
from sft.files import sha256_of

FINISHED = "finished.json"
FORMAT = 2  # of the folder; raise it when the same rows would be spooled differently


@dataclass(frozen=True)
class Spool:
    """A source that has been read to its end."""

    folder: Path
    tally: Tally
    bad_rows: list[BadRow]
    file_names: list[str]
    origin: Origin

    @property
    def rows(self) -> Path:
        """The candidates' file."""
        return self.folder / "rows"

    @property
    def ledger(self) -> Path:
        """The ledger's lines of rows left out while reading."""
        return self.folder / "ledger"

    @property
    def signatures(self) -> Path:
        """The candidates' signatures."""
        return self.folder / "signatures"

    def read_column(self, name: str) -> np.ndarray:
        """One column: (N,)."""
        return np.fromfile(self.folder / name, dtype=np.dtype(COLUMNS[name]))

    def is_of(self, origin: Origin) -> bool:
        """Whether the source is unchanged since it was read."""
        return self.origin == origin


class SpoolWriter:
    """Takes digests in order and becomes a Spool; a context manager."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.tally = Tally()
        self.bad_rows: list[BadRow] = []
        self._folder = folder
        self._file_numbers: dict[str, int] = {}
        self._files: dict[str, BinaryIO] = {
            name: (folder / name).open("wb") for name in ("rows", "ledger", "signatures", *COLUMNS)
        }

    def append(self, digest: Digest) -> None:
        """Add the next chunk: its rows are numbered on from those before."""
        offset = self.tally.read
        for name, column in digest.columns.items():
            values = as_array(column)
            if name == "ordinal":
                values = values + np.uint32(offset)
            elif name == "file":
                numbers = [self._file_numbers.setdefault(file, len(self._file_numbers)) for file in digest.files]
                values = np.array(numbers, dtype=np.uint32)[values] if len(values) else values
            self._files[name].write(values.tobytes())
        self._files["rows"].write(digest.rows)
        self._files["ledger"].write(digest.ledger)
        self._files["signatures"].write(digest.signatures)
        self.tally.add(digest.tally)
        self.bad_rows = (self.bad_rows + digest.bad_rows)[:SHOWN_BAD_ROWS]

    def finish(self, origin: Origin) -> Spool:
        """Flush everything to disk, then say that it is whole."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        entry = {
            "format": FORMAT,
            "tally": vars(self.tally),
            "bad_rows": [bad._asdict() for bad in self.bad_rows],
            "file_names": list(self._file_numbers),
            "origin": origin._asdict(),
            "files": {name: sha256_of(self._folder / name) for name in self._files},
        }
        unnamed = self._folder / f"{FINISHED}.new"
        with unnamed.open("wb") as file:
            file.write(orjson.dumps(entry))
            file.flush()
            os.fsync(file.fileno())
        unnamed.rename(self._folder / FINISHED)
        return Spool(self._folder, self.tally, self.bad_rows, list(self._file_numbers), origin)

    def __enter__(self) -> "SpoolWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()


def make_key(facts: dict[str, object]) -> str:
    """The name of a spool's folder: 32 hex digits of the SHA-256 of all that decides its content."""
    data = orjson.dumps({"format": FORMAT, **facts}, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:32]


def load_spool(folder: Path) -> Spool | None:
    """The spool in a folder; None if it is missing, unfinished or damaged."""
    try:
        entry = orjson.loads((folder / FINISHED).read_bytes())
        if entry["format"] != FORMAT or any(sha256_of(folder / name) != sha for name, sha in entry["files"].items()):
            return None
        tally = Tally(**entry["tally"])
        tally.quarantined, tally.dropped = Counter(tally.quarantined), Counter(tally.dropped)
        bad_rows = [BadRow(**bad) for bad in entry["bad_rows"]]
        return Spool(folder, tally, bad_rows, entry["file_names"], Origin(**entry["origin"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
