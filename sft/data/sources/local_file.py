"""A file of the user's, in any form that the row reader knows, or with its columns named."""

from collections.abc import Iterator
from typing import Literal

from sft.console import say
from sft.data.chunks import Chunk, LinesChunk
from sft.data.places import find_file, sha256_of
from sft.data.records import read_line_blocks, read_records
from sft.data.rows import Recognised, convert_records
from sft.data.sources.base import BadRow, FoundRow, MappedSource, Origin
from sft.errors import DataError


class LocalFile(MappedSource):
    """`kind: file`, `path: examples/my_dataset.json`; `task` where the columns do not tell (label 1 of what?)."""

    kind: Literal["file"]
    path: str

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The file's rows; says afterwards which forms it recognised."""
        recognised = Recognised()
        records = self.mapping().map_records(read_records(find_file(self.path)))
        yield from convert_records(records, self.path, self.task, recognised)
        say(recognised.describe(self.path))

    def chunks(self) -> Iterator[Chunk]:
        """JSONL as unparsed lines; any other form as rows."""
        blocks = read_line_blocks(find_file(self.path))
        if blocks is None:
            return super().chunks()
        mapping = self.mapping()
        return (LinesChunk(self.path, self.task, first_line, data, mapping) for first_line, data in blocks)

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
