"""What a task is: how its rows become messages, and how an answer becomes a value again.

A task may be described in words instead of Python (recipes/tasks/urgency.yaml; `--labels 好评,差评` is the shortest
description): make_label_task(make_definition("urgency", {"labels": ["low", "high"], "question": "How urgent is it?"})).
A run keeps the descriptions of its tasks in run.json.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, TypedDict

from prompts.errors import PromptError
from prompts.messages import Message

Row = Mapping[str, object]
"""A row of a dataset: {"id": "reviews-17", "task": "sentiment", "text": "房间很干净", "label": "正面"}."""


class Entity(NamedTuple):
    """An entity as an answer names it: Entity("北京", "GPE")."""

    text: str
    label: str


@dataclass(frozen=True)
class Unparseable:
    """An answer that is not valid for the task: Unparseable("is no label", "maybe"). Counted as wrong."""

    reason: str
    text: str


Parsed = str | list[Entity]

# Characters without ink: zero-width spaces and joiners, marks of direction and byte order, fillers. A text of nothing
# else is empty, and two texts that differ in them alone are the same.
INVISIBLE = "".join(
    chr(code)
    for first, last in (
        (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
        (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
    )
    for code in range(first, last + 1)
)  # fmt: skip
BLANK = INVISIBLE + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
WHOLE = re.compile(r"([+-]?\d+)\.0+")  # pandas writes a class number in a column with empty cells as "1.0"


def no_labels(row: Row) -> tuple[str, ...]:
    """The answer of a free-text task is the text itself."""
    return ()


@dataclass(frozen=True)
class Task:
    """One task; prompts/tasks/<name>.py holds it as TASK. See docs/tasks.md for one in 30 lines.

    A prompt needs prompt_fields; training needs answer_fields as well. The example is a row of the task: tests,
    documentation and the fingerprint use it.

    Other forms in files: spellings map other words to a label, {"1": "正面"} (a label itself needs none, and case does
    not matter); each mapping of columns maps this task's fields to the column names of one form.
    """

    name: str
    kind: Literal["text", "label", "entities", "document"]  # document: learned whole, without a prompt
    prompt_fields: tuple[str, ...]
    answer_fields: tuple[str, ...]
    example: Row
    build_prompt: Callable[[Row], list[Message]]  # without the system message, up to the user turn to be answered
    write_answer: Callable[[Row], str]  # the reference answer, as the model shall write it
    read_answer: Callable[[str, Row], Parsed | Unparseable]
    list_labels: Callable[[Row], tuple[str, ...]] = no_labels  # the answers a row allows, in the order of the classes
    optional_fields: tuple[str, ...] = ()  # optional fields of a row that the prompt uses
    spellings: Mapping[str, str | int] = field(default_factory=dict)
    columns: tuple[Mapping[str, str], ...] = ()  # ({"text": "text_cn", "label": "n_labels"},)
    system_prompt: str | None = None  # replaces the run's for rows of this task
    definition: Mapping[str, object] | None = None  # for a task described in YAML; see make_label_task

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The answers that all rows allow: ("负面", "正面"); () if a row brings its own options, or none."""
        try:
            return self.list_labels({})
        except (PromptError, LookupError, TypeError, AttributeError):  # they are looked for in the row
            return ()

    @property
    def has_form(self) -> bool:
        """Whether its answers have a form that one may miss, and are right or wrong: labels and entities."""
        return self.kind in ("label", "entities")

    @property
    def is_of_one_label(self) -> bool:
        """Whether a text has one right answer among labels that all rows share: two answers contradict each other."""
        return self.kind == "label" and bool(self.labels) and len(self.answer_fields) == 1

    @property
    def takes_text_and_label(self) -> bool:
        """Whether a row with the columns text and label can belong to the task."""
        return self.is_of_one_label and self.prompt_fields == ("text",) and self.answer_fields == ("label",)

    def find_label(self, written: object) -> str | int | None:
        """What a row holds for a label as a file writes it: 1 -> "正面", "Positive " -> "正面"; None for no label."""
        return self._spelled.get(label_key(written))

    def describe_labels(self) -> str:
        """The labels with their other spellings, for messages: `负面 (0, negative), 正面 (1, positive)`."""
        words: dict[str | int, list[str]] = {}
        for word, value in self._spelled.items():
            words.setdefault(value, []).append(word)
        shown = []
        for value, spelled in words.items():
            others = [word for word in spelled if word != label_key(value)]
            shown.append(f"{value} ({', '.join(others)})" if others else str(value))
        return ", ".join(shown)

    @cached_property
    def _spelled(self) -> dict[str, str | int]:
        values = self.spellings.values()
        own = self.labels if all(value in self.labels for value in values) else ()  # else rows do not hold the answer
        return {label_key(label): label for label in own} | {
            label_key(word): value for word, value in self.spellings.items()
        }

    @property
    def required(self) -> tuple[str, ...]:
        """Fields of a training row: ("text", "label")."""
        return self.prompt_fields + self.answer_fields

    def build_messages(self, row: Row, *, with_answer: bool = True) -> list[Message]:
        """[user, assistant] of a row, without the system message. Raises PromptError naming a missing field.

        For a document: [document], with_answer or without.
        """
        self._check(row, self.required if with_answer else self.prompt_fields)
        messages = self.build_prompt(row)
        if labels := self.allowed_labels(row):
            messages = [*messages[:-1], {**messages[-1], "answers": labels}]
        if with_answer and self.kind != "document":
            answer: Message = {"role": "assistant", "content": self.answer_of(row)}
            if reasoning := _reasoning_of(row):
                answer["reasoning_content"] = reasoning
            if calls := _last_of(row).get("tool_calls"):  # apart from the content, so that they are rendered as calls
                answer |= {"content": text_of(_last_of(row), "content"), "tool_calls": calls}  # type: ignore[typeddict-item]
            messages = [*messages, answer]
        return messages

    def answer_of(self, row: Row) -> str:
        """The reference answer: "正面". Raises PromptError naming a missing or impossible value."""
        self._check(row, self.required)
        answer = self.write_answer(row)
        labels = self.allowed_labels(row)
        if labels and answer not in labels:
            raise PromptError(f"{name_row(row)}: the answer {answer!r} is none of {', '.join(labels)}; fix the row")
        return answer

    def allowed_labels(self, row: Row) -> tuple[str, ...]:
        """The answers a row allows, each once, to be scored: ("正面", "负面"); () if the answer is free text."""
        return tuple(dict.fromkeys(self.list_labels(row)))

    def class_of(self, answer: str, row: Row) -> str:
        """The class of an allowed answer: '{"sentiment": 1}' -> "正面".

        Raises PromptError if the task's read_answer does not read what its list_labels allows.
        """
        parsed = self.parse_answer(answer, row)
        if not isinstance(parsed, str):
            raise PromptError(
                f"{name_row(row)}: task {self.name} cannot read its own label {answer!r}; fix its read_answer"
            )
        return parsed

    def classes_of(self, answers: Sequence[str], row: Row) -> tuple[str, ...]:
        """The classes of allowed answers, in their order: ("正面", "负面")."""
        return tuple(self.class_of(answer, row) for answer in answers)

    def parse_answer(self, text: str, row: Row) -> Parsed | Unparseable:
        """The value of an answer: a class ("正面"), entities, or the text itself; else Unparseable."""
        return self.read_answer(text, row)

    def _check(self, row: Row, fields: tuple[str, ...]) -> None:
        missing = [field for field in fields if row.get(field) is None]
        if missing:
            needed = ", ".join(fields)
            raise PromptError(f"{name_row(row)}: no {missing[0]!r}; task {self.name} needs {needed}; fix the row")


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: " \\n", "\\u200b"."""
    return not text.strip(BLANK)


def label_key(written: object) -> str:
    """How a label is looked up: 1, 1.0 and "1.0 " -> "1", True -> "true", "Very  Good" -> "very good"; "" for none."""
    if isinstance(written, bool):
        return str(written).lower()
    if isinstance(written, float) and written.is_integer():
        return str(int(written))
    if not isinstance(written, str | int | float):
        return ""
    bare = " ".join(str(written).strip(BLANK).casefold().split())
    return whole.group(1) if (whole := WHOLE.fullmatch(bare)) else bare


def text_of(row: Row, field: str) -> str:
    """A row's field that has to be a string; "" if it is missing or null. Raises PromptError for any other type."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PromptError(f"{name_row(row)}: {field!r} is {type(value).__name__}, expected a string; fix the row")
    return value


def read_label(text: str, labels: Sequence[str]) -> str | Unparseable:
    """The label that an answer consists of, ignoring what surrounds it: `**“正面”**。` and `Answer: 正面` -> "正面".

    Ignored around a label: spaces, quotes, brackets, Markdown, a final stop or comma, and a heading such as `答案：`.
    A label with such marks of its own is matched with them first, so "C." and "C" are two labels. Full-width forms and
    case are ignored unless that makes the label ambiguous: with the labels "IT" and "it", "It" is neither. A sentence
    that only mentions a label is not that label: "不是正面" would otherwise count as 正面.
    """
    if text in labels:
        return text
    heading = HEADING.match(text)
    candidates = [*_peel(text), *(_peel(text[heading.end() :]) if heading else ())]
    for same in (_as_written, _in_one_width, _in_one_case, _without_wrapping):
        names: dict[str, set[str]] = {}
        for label in labels:
            names.setdefault(same(label), set()).add(label)
        for candidate in candidates:
            found = names.get(same(candidate), set()) if candidate else set()
            if len(found) == 1:
                return next(iter(found))
    empty = not _without_wrapping(text)
    return Unparseable("the answer is empty" if empty else f"the answer is none of {', '.join(labels)}", text)


OPENING = "\"'`´“”‘’„«‹「『《〈【〔［[（({*_"
CLOSING = "\"'`´“”‘’„»›」』》〉】〕］]）)}*_"
STOPS = "。．.！!，,、；;：:…·~～"
MARKER = re.compile(r"[-•·>#]+\s+(?=\D)")  # of a list, a quotation or a heading; "- 1" may be a number
HEADING = re.compile(
    rf"\s*[{re.escape(OPENING)}#\s]*(?:(?:the\s+)?(?:final\s+)?(?:answer|label|class|category|sentiment|topic|output)"
    rf"|(?:最终)?(?:答案|回答|标签|类别|分类|情感倾向|情感|结果|输出))[{re.escape(CLOSING)}\s]*[:：]",
    re.IGNORECASE,
)
MAX_PEELED = 24  # characters on each side; an answer with more of them around it is no label


def _peel(text: str) -> list[str]:
    """The text with ever more of what may be wrapped around it taken away: `"a".` -> `"a".`, `"a"`, `a".`, ..., `a`.

    The least first, so that a label which ends in a stop keeps its own stop.
    """
    bare = text.strip()
    if marker := MARKER.match(bare):
        bare = bare[marker.end() :]
    starts = _count_while(bare, OPENING)
    ends = _count_while(bare[::-1], CLOSING + STOPS)
    pairs = sorted(((i, j) for i in range(starts + 1) for j in range(ends + 1)), key=lambda pair: (sum(pair), pair))
    return list(dict.fromkeys(bare[i : len(bare) - j].strip() for i, j in pairs if i + j <= len(bare)))


def _count_while(text: str, characters: str) -> int:
    """Number of leading characters that are among these or blank, at most MAX_PEELED."""
    others = (
        number for number, character in enumerate(text) if character not in characters and not character.isspace()
    )
    return min(next(others, len(text)), MAX_PEELED)


def _as_written(text: str) -> str:
    return " ".join(text.split())


def _in_one_width(text: str) -> str:
    return unicodedata.normalize("NFKC", _as_written(text))


def _in_one_case(text: str) -> str:
    return _in_one_width(text).casefold()


def _without_wrapping(text: str) -> str:
    """The innermost text, for a label whose own marks an answer leaves out: "Good!" of "good"."""
    peeled = _peel(text)
    return _in_one_case(peeled[-1]) if peeled else ""


def ask(before: str, document: str, after: str = "") -> list[Message]:
    """A user turn of which only the document may be shortened: ask("判断情感：\\n", "房间很干净")."""
    content = before + document + after
    return [{"role": "user", "content": content, "document": (len(before), len(before) + len(document))}]


def _reasoning_of(row: Row) -> str:
    """The thought before the row's last answer: a field of the row, or of the last of its messages."""
    return text_of(_last_of(row), "reasoning_content")


def _last_of(row: Row) -> Row:
    """The last of a row's messages; a row that has none itself."""
    turns = row.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else row
    return last if isinstance(last, Mapping) else {}


def name_row(row: Row) -> str:
    """`row reviews-17`, for messages; `the row` if it has no id."""
    return f"row {row['id']}" if "id" in row else "the row"


KEYS = ("labels", "question", "system", "columns")
FIELDS = ("text", "label")
LONGEST_NAME = 40  # characters of a task that is named by its labels
GAP = "{text}"


class Definition(TypedDict):
    """A described task, complete and as JSON."""

    name: str
    labels: list[str]  # in the order of the class numbers
    spellings: dict[str, str]  # {"1": "好评"}
    question: str  # "How urgent is this ticket?", or with {text}: "Ticket: {text}\nHow urgent is it?"
    system: str | None
    columns: dict[str, str]  # {"text": "评论", "label": "标签"}


def make_definition(name: str, content: Mapping[str, object]) -> Definition:
    """The description of a task, checked. Raises PromptError naming the key that is wrong.

    labels: a list, or for each label its other spellings: {"high": ["urgent", 1], "low": ["normal", 0]}.
    """
    if unknown := [key for key in content if key not in KEYS]:
        raise PromptError(f"{unknown[0]!r} is no key of a task; it has {', '.join(KEYS)}")
    labels, spellings = _read_labels(content.get("labels"))
    question, system = content.get("question"), content.get("system")
    columns = content.get("columns") or {}
    for key, value in (("question", question), ("system", system)):
        if value is not None and (not isinstance(value, str) or is_blank(value)):
            raise PromptError(f"{key} is {value!r}, expected text")
    if not isinstance(columns, Mapping) or not set(columns) <= set(FIELDS):
        raise PromptError(f"columns is {columns!r}, expected a column for text, label or both: {{text: 评论}}")
    return {
        "name": name,
        "labels": labels,
        "spellings": spellings,
        "question": str(question) if question is not None else _ask_for(labels),
        "system": str(system) if system is not None else None,
        "columns": {str(field): str(column) for field, column in columns.items()},
    }


def make_label_task(definition: Definition) -> Task:
    """The task of a description."""
    labels = tuple(definition["labels"])
    before, gap, after = definition["question"].partition(GAP)
    if not gap:
        before += "\n"
    columns = definition["columns"]
    return Task(
        name=definition["name"],
        kind="label",
        prompt_fields=("text",),
        answer_fields=("label",),
        example={"text": "…", "label": labels[0]},
        build_prompt=lambda row: ask(before, text_of(row, "text"), after),
        write_answer=lambda row: text_of(row, "label"),
        read_answer=lambda text, row: read_label(text, labels),
        list_labels=lambda row: labels,
        spellings=definition["spellings"],
        columns=({field: columns.get(field, field) for field in FIELDS},) if columns else (),
        system_prompt=definition["system"],
        definition=definition,
    )


def name_by_labels(labels: Sequence[str]) -> str:
    """The name of a task that is nothing but its labels: "好评/差评". Other labels, or another order: another name."""
    name = "/".join(labels)
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(labels).encode()).hexdigest()[:6]
    return f"{labels[0][:LONGEST_NAME]}/and {len(labels) - 1} more ({digest})"


def _read_labels(given: object) -> tuple[list[str], dict[str, str]]:
    spellings: dict[str, str] = {}
    if isinstance(given, Mapping):
        for label, words in given.items():
            listed = [] if words is None else words if isinstance(words, list) else [words]
            for word in listed:
                key = label_key(word)
                if not key:
                    raise PromptError(f"labels.{label}: {word!r} is no spelling of a label; give a text or a number")
                if spellings.setdefault(key, str(label)) != str(label):
                    raise PromptError(f"labels: {word!r} is a spelling of both {spellings[key]} and {label}")
    labels = list(given) if isinstance(given, Mapping | list | tuple) else []
    for label in labels:
        if not isinstance(label, str):  # YAML reads yes, no, on, off and digits as something else
            raise PromptError(f'labels: {label!r} is no text; write it in quotes: "{label}"')
    keys = [label_key(label) for label in labels]
    if len(labels) < 2 or "" in keys or len(set(keys)) < len(keys):
        raise PromptError(f"labels is {given!r}, expected at least two different ones: [low, high]")
    if crossed := [word for word, label in spellings.items() if word in keys and label_key(label) != word]:
        raise PromptError(f"labels: {crossed[0]!r} is a label, and cannot be another spelling of one")
    return labels, spellings


def _ask_for(labels: Sequence[str]) -> str:
    """The question of a task that brings none, in the language of its labels."""
    if any("\u4e00" <= character <= "\u9fff" for label in labels for character in label):
        return f"判断文本属于哪一类（{'、'.join(labels)}），只回答类别："
    return f"Which label fits this text: {', '.join(labels)}? Answer with the label alone."
