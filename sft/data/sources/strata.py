"""Strata: parts of one source that get exact shares, so that one reading of it fills several quotas.

strata: {by: label, shares: {正面: 0.5, 负面: 0.5}}
strata: {by: label, rows: "正常:15000,暴恐:6000"}            # in this ratio
strata: {by: topic, shares: {ai: 0.5, ic: 0.5}, topics: {ai: recipes/keywords/ai.txt, ic: [fpga, 集成电路]}}
"""

from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from sft.data.canonical import Row, answer_of, question_of
from sft.data.keywords import KeywordSet, read_terms
from sft.data.places import find_file
from sft.data.quotas import parse_label_quota


class Strata(BaseModel):
    """Parts of one source with exact shares, told apart by the label, by having entities, by language or by topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["label", "entities", "language", "topic"]
    shares: dict[str, float] = {}  # which add up to 1
    rows: dict[str, int] = {}  # instead of shares: in the ratio of these numbers, "正常:15000,暴恐:6000"
    topics: dict[str, tuple[str, ...] | str] | None = None  # terms, or a file with one a line; the first that fits

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
        """The stratum of a row: its label (of news the right option); "some" or "none" for entities; "zh" or "en" by
        its characters; the first topic of which a term stands in question or answer, "" where none does.
        """
        if self._by == "label":
            return str(row.get("label", row.get("output", "") if "category" in row else ""))
        if self._by == "topic":
            text = f"{question_of(row)}\n{answer_of(row)}"
            return next((name for name, terms in self._topics if terms.find(text) is not None), "")
        if self._by == "entities":
            return "some" if row.get("entities") else "none"
        return "zh" if any("\u4e00" <= character <= "\u9fff" for character in question_of(row)) else "en"
