"""Sentiment answered as fenced JSON {"sentiment": 0 | 1}: {"text", "label": 0 | 1}."""

import json
import re

from prompts.errors import PromptError
from prompts.messages import Message
from prompts.task import Parsed, Row, Task, Unparseable, ask, text_of
from prompts.tasks import sentiment

ANSWERS = tuple(f'```json\n{{\n  "sentiment": {label}\n}}\n```' for label in (0, 1))
FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.DOTALL)


def build_prompt(row: Row) -> list[Message]:
    """Question, fenced text and the form of the answer."""
    question = "分析下面中文文本的整体情感倾向：正面为 1，负面为 0。\n\n文本：\n```sentence\n"
    layout = '\n```\n\n只输出 JSON，格式：\n```json\n{\n  "sentiment": 0 or 1\n}\n```'
    return ask(question, text_of(row, "text"), layout)


def write_answer(row: Row) -> str:
    """0 or 1 as fenced JSON. Raises PromptError for any other label."""
    label = row["label"]
    if isinstance(label, bool) or label not in (0, 1):
        raise PromptError(f"'label' is {label!r}, expected 0 (negative) or 1 (positive); fix the row")
    return ANSWERS[1] if label == 1 else ANSWERS[0]


def read_answer(text: str, row: Row) -> Parsed | Unparseable:
    """The class, 负面 or 正面, of a JSON object with or without its fence."""
    fenced = FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return Unparseable("the answer is no JSON", text)
    label = value.get("sentiment") if isinstance(value, dict) else None
    if isinstance(label, int) and not isinstance(label, bool) and label in (0, 1):
        return sentiment.LABELS[label]
    return Unparseable('the answer has no "sentiment" that is 0 or 1', text)


TASK = Task(
    name="sentiment_json",
    kind="label",
    prompt_fields=("text",),
    answer_fields=("label",),
    example={"text": "房间很干净，服务态度也好。", "label": 1},
    build_prompt=build_prompt,
    write_answer=write_answer,
    read_answer=read_answer,
    list_labels=lambda row: ANSWERS,
    spellings={label: number for number, label in enumerate(sentiment.LABELS)}
    | {word: sentiment.LABELS.index(label) for word, label in sentiment.SPELLINGS.items()},
    columns=({"text": "text_a", "label": "label"},),  # R0's test table
)
