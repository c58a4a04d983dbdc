"""How the columns of a data set become fields that the reader knows: names, texts with gaps, and words for roles.

columns    {output: long_answer}                   a field and the column it is read from; a.b reaches into an object
templates  {input: "背景信息：\\n{context.contexts}"}   a field and a text whose gaps are columns; a list gives lines
tags       {role_tag: from, user_tag: human}       who speaks in a conversation, where the words are not the usual ones

Where columns or templates are given, nothing else of a record is read but its id.

Rows that need more have an adapter: a function here and a line in ADAPTERS, which turns a record as its data set has it
into one in a form that the reader knows. stack_exchange reads HuggingFaceH4/stack-exchange-preferences: the question
with its best answer, as text. Best is the highest pm_score (log2(1 + votes), rounded, and 1 more if the asker accepted
it), then the accepted one, then the first. The licence, cc-by-sa, requires that authors and sources stay named:
`attribution`.
"""

import string
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from pydantic import BaseModel, ConfigDict, field_validator

from sft.data.rows.canonical import BadRecord, GoodRecord, Json, Record, RowError
from sft.errors import nearest_name


def adapt_stack_exchange(record: Record) -> Record:
    """{"question": "<p>Why?</p>", "answers": [{"text", "pm_score", ...}], "metadata": [...]} -> instruction, output."""
    from sft.data.rows.html_text import read_html  # a third of a second, which other data sets need not wait for

    question, answers = record.get("question"), record.get("answers")
    if not isinstance(question, str) or not isinstance(answers, list):
        raise RowError("wrong_type", "expected 'question' as text and 'answers' as a list")
    given = [answer for answer in answers if isinstance(answer, dict) and isinstance(answer.get("text"), str)]
    if not given:
        raise RowError("empty_answer", "no answer")
    best = max(given, key=_rank)
    return {
        "instruction": read_html(question),
        "output": read_html(str(best["text"])),
        "attribution": _attribute(record.get("metadata"), best),
    }


ADAPTERS: dict[str, Callable[[Record], Record]] = {"stack_exchange": adapt_stack_exchange}
LICENCE = "CC BY-SA 4.0"


def _rank(answer: dict[str, Json]) -> tuple[float, bool]:
    score = answer.get("pm_score")
    return (float(score) if isinstance(score, int | float) else float("-inf"), answer.get("selected") is True)


def _attribute(metadata: Json, answer: dict[str, Json]) -> str:
    """`https://ai.stackexchange.com/questions/7; answer by Ada, https://ai.stackexchange.com/users/3; CC BY-SA 4.0`."""
    places = [place for place in metadata if isinstance(place, str)] if isinstance(metadata, list) else []
    question = next((place for place in places if "/questions/" in place), places[0] if places else "Stack Exchange")
    author = ", ".join(str(answer[key]) for key in ("author", "author_profile") if answer.get(key))
    return "; ".join(part for part in (question, f"answer by {author}" if author else "", LICENCE) if part)


MAY_BE_MISSING = ("system", "tools", "history", "attribution", "input", "group")  # a row of JSONL need not have them
CONVERSATION_FIELDS = ("messages", "conversations")


class Tags(BaseModel):
    """The names LLaMA-Factory gives to the parts of a conversation (`tags` in dataset_info.json), and its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    system_tag: str = "system"
    observation_tag: str = "observation"  # what a function returned
    function_tag: str = "function_call"

    def rename(self, turn: Json) -> Json:
        """One turn in role and content; who is unknown stays, and the reader names him."""
        if not isinstance(turn, dict):
            return turn
        roles = {self.user_tag: "user", self.assistant_tag: "assistant", self.system_tag: "system"}
        roles |= {self.observation_tag: "tool", self.function_tag: "function_call"}
        said_by = turn.get(self.role_tag)
        role = roles.get(said_by, said_by) if isinstance(said_by, str) else said_by
        others = {key: value for key, value in turn.items() if key not in (self.role_tag, self.content_tag)}
        return {**others, "role": role, "content": turn.get(self.content_tag)}


class Mapping(BaseModel):
    """A source's mapping of its records; if all is empty, records are read unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, str] = {}
    templates: dict[str, str] = {}
    tags: Tags | None = None
    adapter: str | None = None

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: dict[str, str]) -> dict[str, str]:
        for text in templates.values():
            try:
                list(string.Formatter().parse(text))
            except ValueError as error:
                raise ValueError(f"{error} in {text!r}; write {{{{ and }}}} for braces that are text") from None
        return templates

    @field_validator("adapter")
    @classmethod
    def _check_adapter(cls, adapter: str | None) -> str | None:
        if adapter is not None and adapter not in ADAPTERS:
            raise ValueError(
                f"no adapter {adapter!r}{nearest_name(adapter, ADAPTERS)} (there are: {', '.join(ADAPTERS)})"
            )
        return adapter

    def map_record(self, record: Record) -> Record:
        """The record with the requested fields; raises RowError if a column is missing."""
        if self.adapter is not None:
            record = ADAPTERS[self.adapter](record)
        if self.columns or self.templates:
            mapped = {
                field: find_value(record, path)
                for field, path in self.columns.items()
                if path in record or field not in MAY_BE_MISSING
            }
            own_id = {"id": record["id"]} if "id" in record else {}
            record = own_id | mapped | {field: self._fill(field, record) for field in self.templates}
        if self.tags is not None:
            for field in CONVERSATION_FIELDS:
                turns = record.get(field)
                if isinstance(turns, list):
                    record = record | {field: [self.tags.rename(turn) for turn in turns]}
        return record

    def map_records(
        self, records: Iterable[GoodRecord | BadRecord], unread: set[str] | None = None
    ) -> Iterable[GoodRecord | BadRecord]:
        """Records with the fields that the reader knows; one that lacks a column becomes a BadRecord.

        Columns in which something stands and that nothing reads are added to `unread`.
        """
        return records if self == NOTHING else self._map_records(records, set() if unread is None else unread)

    def _map_records(
        self, records: Iterable[GoodRecord | BadRecord], unread: set[str]
    ) -> Iterator[GoodRecord | BadRecord]:
        paths = self.paths()
        read = {"id", *paths, *(path.partition(".")[0] for path in paths)}
        for record in records:
            if isinstance(record, GoodRecord):
                if paths:
                    unread.update([name for name, value in record.fields.items() if value and name not in read])
                try:
                    record = GoodRecord(record.line, self.map_record(record.fields))
                except RowError as error:
                    record = BadRecord(record.line, error.reason, str(error))
            yield record

    def paths(self) -> list[str]:
        """The columns that are read, each once; none if that is not known, and all may be."""
        gaps = [path for parts in self._parsed.values() for _, path in parts if path is not None]
        return [] if self.adapter is not None else list(dict.fromkeys([*self.columns.values(), *gaps]))

    @cached_property
    def _parsed(self) -> dict[str, list[tuple[str, str | None]]]:
        """Each template as texts and the paths that follow them."""
        return {
            field: [(text, path) for text, path, _, _ in string.Formatter().parse(template)]
            for field, template in self.templates.items()
        }

    def _fill(self, field: str, record: Record) -> str:
        parts = []
        for text, path in self._parsed[field]:
            parts += [text, "" if path is None else _write(path, find_value(record, path))]
        return "".join(parts)


NOTHING = Mapping()


def find_value(record: Record, path: str) -> Json:
    """The value at a path: "context.contexts". Raises RowError('missing_column') with the existing names.

    A column that is there and empty (null) is no error here: whether a field may be empty is the reader's to say.
    """
    if path in record:
        return record[path]
    value: Json = record
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            there = list(value) if isinstance(value, dict) else list(record)
            raise RowError(
                "missing_column",
                f"no column {path!r}{nearest_name(step, there)} (there are: {', '.join(there) or 'none'})",
            )
        value = value[step]
    return value


def _write(path: str, value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str | int | float) for part in value):
        return "\n".join(str(part) for part in value)
    raise RowError(
        "wrong_type", f"column {path!r} contains objects, which cannot be inserted into text; name a part: {path}.x"
    )
