"""A file of the user's, in any form that the row reader knows."""

from collections.abc import Iterator
from typing import Literal

from sft.console import say
from sft.data.chunks import Chunk, LinesChunk
from sft.data.places import find_file, sha256_of
from sft.data.records import read_line_blocks
from sft.data.rows import RowReader
from sft.data.sources.base import BadRow, FoundRow, Origin, Source


class LocalFile(Source):
    """`kind: file`, `path: examples/my_dataset.json`; `task` where the columns do not tell (label 1 of what?)."""

    kind: Literal["file"]
    path: str
    task: Literal["sentiment", "sentiment_json", "moderation"] | None = None

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The file's rows; says afterwards which forms it recognised."""
        reader = RowReader(find_file(self.path), shown_as=self.path, task=self.task)
        yield from reader
        say(reader.describe())

    def chunks(self) -> Iterator[Chunk]:
        """JSONL as unparsed lines; any other form as rows."""
        blocks = read_line_blocks(find_file(self.path))
        if blocks is None:
            return super().chunks()
        return (LinesChunk(self.path, self.task, first_line, data) for first_line, data in blocks)

    def origin(self) -> Origin:
        """The file as it was named; its own hash is the revision."""
        digest = sha256_of(find_file(self.path))
        return Origin(self.path, digest, {self.path: digest})
