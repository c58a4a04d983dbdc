"""The one form of a row that everything behind the reader works with; what each task's row must hold.

{"id": "reviews-17", "source": "reviews", "task": "sentiment", "text": "房间很干净", "label": "正面"}
{"id": "qa-3", "source": "qa", "task": "instruct", "instruction": "What is AI?", "input": "", "output": "A field ..."}
"""

from typing import NotRequired, TypedDict

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

SENTIMENT_LABELS = ("负面", "正面")  # the position is the class number of ChnSentiCorp and R0: 0 negative, 1 positive
MODERATION_LABELS = ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗")  # the position is R3's class number


class Entity(TypedDict):
    """One named entity; `text[start_idx:end_idx] == entity_text` (the end is exclusive)."""

    start_idx: int
    end_idx: int
    entity_text: str
    entity_label: str


class Turn(TypedDict):
    """One turn of a conversation; role is system (first only), user or assistant."""

    role: str
    content: str
    reasoning_content: NotRequired[str]  # assistant: the thought before the answer, read where `--think keep`


class Row(TypedDict):
    """A canonical row. `id`, `source` and `task` are always there; the task decides which other fields are."""

    id: str
    source: str
    task: str
    text: NotRequired[str]  # sentiment, sentiment_json, ner, news, moderation
    label: NotRequired[str | int]  # sentiment and moderation: a word; sentiment_json: 0 or 1
    entities: NotRequired[list[Entity]]  # ner
    category: NotRequired[list[str]]  # news: the options of this row
    instruction: NotRequired[str]  # instruct
    input: NotRequired[str]  # instruct; "" where there is none
    output: NotRequired[str]  # instruct, news
    system: NotRequired[str]  # instruct; only where the row brings its own
    messages: NotRequired[list[Turn]]  # chat
    attribution: NotRequired[str]  # any task; who wrote it and where it stands, where a licence asks for that


class RowError(Exception):
    """One row cannot be used. `reason` is a short word that is counted, the text says what is wrong with the row."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def question_of(row: Row) -> str:
    """What a row asks, without its answer: rows that ask the same must stand on the same side of a split.

    A conversation is asked by its user turns; a system prompt is no part of it, for the same question is often
    repeated under several.
    """
    if "text" in row:
        return row["text"]
    if "messages" in row:
        return "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user")
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def answer_of(row: Row) -> str:
    """What a row answers, as text that is equal exactly where two answers are: "正面", "1", "北京@3:GPE"."""
    if "output" in row:
        return row["output"]
    if "label" in row:
        return str(row["label"])
    if "messages" in row:
        return "\n".join(turn["content"] for turn in row["messages"] if turn["role"] != "user")
    return "\n".join(
        f"{found['entity_text']}@{found['start_idx']}:{found['entity_label']}" for found in row["entities"]
    )
