"""Filters of a source: bounds that a row must keep to; each row left out is counted by the reason given here."""

import re

from pydantic import BaseModel, ConfigDict, field_validator

from sft.data.canonical import Row, answer_of, question_of


class Filters(BaseModel):
    """Bounds, all inclusive; None does not bound. Lengths are in characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_chars: int | None = None  # of the text or question
    max_chars: int | None = None
    max_answer_chars: int | None = None  # of the answer of rows that have one in words
    max_entities: int | None = None  # of NER rows
    reject_pattern: str | None = None  # a regular expression; a text in which it is found is left out

    @field_validator("reject_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return pattern

    def find_reason(self, row: Row) -> str | None:
        """Why this row is left out ("too_short", "too_long", "rejected_pattern", ...), or None where it stays."""
        question = question_of(row)
        length = len(question)
        if self.min_chars is not None and length < self.min_chars:
            return "too_short"
        if self.max_chars is not None and length > self.max_chars:
            return "too_long"
        if self.max_answer_chars is not None and len(answer_of(row)) > self.max_answer_chars:
            return "answer_too_long"
        if self.max_entities is not None and len(row.get("entities", [])) > self.max_entities:
            return "too_many_entities"
        if self.reject_pattern is not None and re.search(self.reject_pattern, question):
            return "rejected_pattern"
        return None
