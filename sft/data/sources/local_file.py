"""A file of the user's, in any form that the row reader knows, or with its columns named."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from sft.console import say
from sft.data.files.reader import convert_records, draw_sample, read_line_blocks, read_records
from sft.data.named_files import by_split, find_files, hash_files, is_several
from sft.data.rows.recognised import Recognised, check_columns
from sft.data.sources.base import BadRow, Chunk, FoundRow, LinesChunk, MappedSource, Origin
from sft.errors import DataError
from sft.files import find_file, sha256_of
from sft.modelscope import is_modelscope

SAMPLE_SEED = 42  # LLaMA-Factory draws too, with the seed of the training


class LocalFile(MappedSource):
    """`kind: file`, `path: examples/my_dataset.json`; `task` where the columns do not tell (label 1 of what?).

    The path may also be a folder, a pattern or several with commas between (sft/data/named_files.py).
    """

    kind: Literal["file"]
    path: str
    encoding: str | None = None  # of a text file that is not UTF-8: gb18030, cp1252, ...
    num_samples: int | None = Field(default=None, ge=1)  # this many of its rows, drawn at random, always the same
    sha1: str | None = None  # what LLaMA-Factory's registry says the file's is; another one is reported

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The rows of the files; says afterwards which forms it recognised."""
        self._check_sha1()
        rows = self._read_files()
        yield from rows if self.num_samples is None else self._sample(rows)

    def _read_files(self) -> Iterator[FoundRow | BadRow]:
        for shown_as, path in self._files().items():
            recognised = Recognised()
            records = self.mapping().map_records(read_records(path, self.encoding), recognised.ignored_columns)
            yield from convert_records(records, shown_as, self.reading(), recognised)
            check_columns(shown_as, self.columns, recognised)
            say(recognised.describe(shown_as))

    def chunks(self) -> Iterator[Chunk]:
        """JSONL as unparsed lines; any other form as rows."""
        blocks = {
            shown_as: None if self.num_samples else read_line_blocks(path, self.encoding)
            for shown_as, path in self._files().items()
        }
        if None in blocks.values():
            return super().chunks()
        mapping, reading = self.mapping(), self.reading()
        return (
            LinesChunk(shown_as, reading, first_line, data, mapping)
            for shown_as, lines in blocks.items()
            for first_line, data in lines or ()
        )

    def _files(self) -> dict[str, Path]:
        """The files by their names in messages: the preset's name if it is a single file."""
        if not is_several(self.path):
            find_file(self.path)
        files = find_files(self.path, in_project=True)
        if is_modelscope(self.path):  # a whole data set: the rows it was made to train on
            files = by_split(files).get("train", files)
        return {self.path: files[0]} if len(files) == 1 else {str(path): path for path in files}

    def _sample(self, rows: Iterator[FoundRow | BadRow]) -> Iterator[FoundRow | BadRow]:
        assert self.num_samples is not None
        sample, count = draw_sample(rows, self.num_samples, random.Random(SAMPLE_SEED))
        say(f"{self.path}: num_samples {self.num_samples:,}: {len(sample):,} of {count:,} rows are taken")
        yield from sample

    def _check_sha1(self) -> None:
        if self.sha1 is None:
            return
        files = list(self._files().values())
        with files[0].open("rb") as file:
            found = hashlib.file_digest(file, "sha1").hexdigest() if len(files) == 1 else "that of several files"
        if found != self.sha1:
            say(f"warning: {self.path}: its SHA-1 is {found}, the registry says {self.sha1}; is it that file?")

    def check(self) -> None:
        """The file has to be there."""
        try:
            self._files()
        except DataError as error:
            raise DataError(f"{self.path}: no such file; it needs {self.needs}" if self.needs else str(error)) from None

    def origin(self) -> Origin:
        """The files as they were named; their own hashes are the revision."""
        files = self._files()
        hashes = {shown_as: sha256_of(path) for shown_as, path in files.items()}
        return Origin(self.path, hash_files({"train": list(files.values())}), hashes)
