"""A file of the user's, in any form that the row reader knows, or with its columns named."""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from sft.console import say
from sft.data.chunks import Chunk, LinesChunk
from sft.data.places import find_file, sha256_of
from sft.data.recognised import Recognised, check_columns
from sft.data.records import read_line_blocks, read_records
from sft.data.rows import convert_records, draw_sample
from sft.data.sources.base import BadRow, FoundRow, MappedSource, Origin
from sft.errors import DataError

SAMPLE_SEED = 42  # LLaMA-Factory draws too, with the seed of the training


class LocalFile(MappedSource):
    """`kind: file`, `path: examples/my_dataset.json`; `task` where the columns do not tell (label 1 of what?)."""

    kind: Literal["file"]
    path: str
    encoding: str | None = None  # of a text file that is not UTF-8: gb18030, cp1252, ...
    num_samples: int | None = Field(default=None, ge=1)  # so many of its rows, drawn at random, always the same
    sha1: str | None = None  # what LLaMA-Factory's registry says the file's is; another one is told

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The file's rows; says afterwards which forms it recognised."""
        self._check_sha1()
        recognised = Recognised()
        records = self.mapping().map_records(
            read_records(find_file(self.path), self.encoding), recognised.ignored_columns
        )
        rows = convert_records(records, self.path, self.reading(), recognised)
        yield from rows if self.num_samples is None else self._sample(rows)
        check_columns(self.path, self.columns, recognised)
        say(recognised.describe(self.path))

    def chunks(self) -> Iterator[Chunk]:
        """JSONL as unparsed lines; any other form as rows."""
        blocks = read_line_blocks(find_file(self.path), self.encoding)
        if blocks is None or self.num_samples is not None:
            return super().chunks()
        mapping, reading = self.mapping(), self.reading()
        return (LinesChunk(self.path, reading, first_line, data, mapping) for first_line, data in blocks)

    def _sample(self, rows: Iterator[FoundRow | BadRow]) -> Iterator[FoundRow | BadRow]:
        assert self.num_samples is not None
        sample, count = draw_sample(rows, self.num_samples, random.Random(SAMPLE_SEED))
        say(f"{self.path}: num_samples {self.num_samples:,}: {len(sample):,} of {count:,} rows are taken")
        yield from sample

    def _check_sha1(self) -> None:
        if self.sha1 is None:
            return
        with find_file(self.path).open("rb") as file:
            found = hashlib.file_digest(file, "sha1").hexdigest()
        if found != self.sha1:
            say(f"warning: {self.path}: its SHA-1 is {found}, the registry says {self.sha1}; is it that file?")

    def check(self) -> None:
        """The file has to be there."""
        try:
            find_file(self.path)
        except DataError as error:
            raise DataError(f"{self.path}: no such file; it needs {self.needs}" if self.needs else str(error)) from None

    def origin(self) -> Origin:
        """The file as it was named; its own hash is the revision."""
        digest = sha256_of(find_file(self.path))
        return Origin(self.path, digest, {self.path: digest})
