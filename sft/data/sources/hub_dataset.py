"""A data set of the Hugging Face hub, streamed: configurations and splits one after the other, or the files named.

    kind: hub
    id: qiaojin/PubMedQA
    revision: main     # a commit of 40 digits pins it; a branch is resolved once and recorded
    config: [pqa_labeled, pqa_artificial]
    hub_split: train
    columns: {output: long_answer}

A row's place is the data set, configuration and split as far as they are named, and its number from 1:
`qiaojin/PubMedQA/pqa_labeled/train:17`.
"""

import itertools
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from sft.console import say
from sft.data.chunks import Chunk, RecordsChunk, cut
from sft.data.hub.stream import HubPart, find_commit, stream_records
from sft.data.recognised import Recognised
from sft.data.records import GoodRecord
from sft.data.sources.base import BadRow, FoundRow, MappedSource, Origin


class HubDataset(MappedSource):
    """`kind: hub`, `id: Open-Orca/SlimOrca`, and what of it is read. The token is HF_TOKEN, never a key here."""

    is_remote: ClassVar[bool] = True

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = None  # a commit, branch or tag; default main
    config: tuple[str, ...] = ()  # read one after the other
    hub_split: tuple[str, ...] = ()  # likewise; default train, or the only one there is
    files: tuple[str, ...] = ()  # instead of config and split: names in the repository, * allowed
    limit: int | None = Field(default=None, ge=1)  # of each of them only the first so many rows

    @field_validator("config", "hub_split", "files", mode="before")
    @classmethod
    def _accept_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The rows in the order of the data set; says afterwards which forms were recognised."""
        recognised: dict[str, Recognised] = {}
        for chunk in self.chunks():
            yield from chunk.read(recognised)
        for shown_as, found in recognised.items():
            say(found.describe(shown_as))

    def chunks(self) -> Iterator[Chunk]:
        """Records a batch at a time: their columns are mapped by the process that filters them."""
        commit = find_commit(self.id, self.revision)
        if commit.sha != self.revision:
            say(f"{self.id}: {self.revision or 'main'} is revision {commit.sha} now; name it in the preset to keep it")
        mapping, reading = self.mapping(), self.reading()
        for config, split in itertools.product(self.config or (None,), self.hub_split or (None,)):
            part = HubPart(self.id, commit, config, split, self.files)
            shown_as = "/".join([self.id, *(name for name in (config, split) if name)])
            found = itertools.starmap(GoodRecord, itertools.islice(stream_records(part), self.limit))
            for records in cut(found):
                yield RecordsChunk(shown_as, reading, records, mapping)

    def check(self) -> None:
        """The repository has to be there and open to this user."""
        find_commit(self.id, self.revision)

    def origin(self) -> Origin:
        """The repository and the commit that was read, which fixes every file."""
        return Origin(self.id, find_commit(self.id, self.revision).sha, {})
