"""The one place that recognises how a row is written and turns it into the canonical row.

instruction/input/output (Alpaca, R4)      messages (OpenAI, R0)             conversations (ShareGPT, SlimOrca)
prompt/completion (TRL)                    text/label (ChnSentiCorp, R2)     text_a/label (R0's test table)
text_cn/n_labels, extracted_label (R3)     text/entities (R1's NER)          text/category/output (R1's news)
and the canonical row itself (id/source/task/...), as a dataset folder holds it.

    dialect = recognise_dialect({"text": "很好", "label": 1})
    dialect.name                                         # "text/label"
    dialect.convert({"text": "很好", "label": 1}, None)    # {"task": "sentiment", "text": "很好", "label": "正面", ...}
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sft.data import fields
from sft.data.canonical import Json, Row, RowError
from sft.data.fields import Record

TEXT_COLUMNS = ("text", "text_a", "text_cn")
LABEL_COLUMNS = ("label", "extracted_label", "n_labels")  # n_labels may be a list; what was extracted of it is one


class Dialect(NamedTuple):
    """A way to write a row: the columns it must have, those it may have, and how it becomes a canonical row."""

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    convert: Callable[[Record, str | None], Row]  # the second argument: the task the user named, if any

    @property
    def columns(self) -> frozenset[str]:
        """Every column that is read; any other is ignored, and the reader says so."""
        return self.required | self.optional


def recognise_dialect(columns: Iterable[str]) -> Dialect:
    """The first dialect whose columns are all there; raises RowError('unknown_dialect') where none fits."""
    given = set(columns)
    for dialect in DIALECTS:
        if dialect.required <= given:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    shown = ", ".join(sorted(given)[:8]) or "none"
    raise RowError(
        "unknown_dialect",
        f"columns ({shown}) fit no known form; expected one of: {known}; or name them with `columns` in a preset",
    )


def _convert_canonical(record: Record, task: str | None) -> Row:
    found = fields.read_text(record, "task")
    if found not in READ_TASK:
        raise RowError("unknown_task", f"task {found!r} is unknown; expected one of: {', '.join(READ_TASK)}")
    row = READ_TASK[found](record)
    row["id"], row["source"] = fields.read_text(record, "id"), fields.read_text(record, "source")
    _keep_attribution(record, row)
    return row


def _keep_attribution(record: Record, row: Row) -> None:
    attribution = record.get("attribution")
    if isinstance(attribution, str) and attribution:
        row["attribution"] = attribution


def _convert_labelled(record: Record, task: str | None) -> Row:
    """A text and its class: the task is the one named, else what the label's own words say."""
    text = fields.read_text(record, next(name for name in TEXT_COLUMNS if name in record))
    label = record[next(name for name in LABEL_COLUMNS if name in record)]
    if task is None and "text_a" in record:
        task = "sentiment_json"  # R0's table: the answer it compares with is JSON with 0 or 1
    elif task is None:
        task = "moderation" if "text_cn" in record or fields.is_moderation_word(label) else "sentiment"
    return fields.make_labelled_row(task, text, label)


def _convert_entities(record: Record, task: str | None) -> Row:
    return fields.read_ner(record)


def _convert_news(record: Record, task: str | None) -> Row:
    return fields.read_news(record)


def _convert_instruct(record: Record, task: str | None) -> Row:
    """instruction/input/output; a `history` of earlier exchanges (LLaMA-Factory) makes it a conversation."""
    row = fields.read_instruct(record)
    _keep_attribution(record, row)
    history = record.get("history")
    if not history:
        return row
    question = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    turns: list[Json] = [{"role": "system", "content": row["system"]}] if "system" in row else []
    for exchange in fields.read_list(record, "history"):
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise RowError("wrong_type", "'history' must be a list of [question, answer] pairs")
        turns += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    return fields.make_chat_row(turns, None)


def _convert_prompt_completion(record: Record, task: str | None) -> Row:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return fields.make_chat_row(prompt + completion, None)
    names = {"instruction": prompt, "output": completion, "system": record.get("system")}
    return fields.read_instruct(names, {"instruction": "prompt", "output": "completion"})


def _convert_messages(record: Record, task: str | None) -> Row:
    return fields.make_chat_row(fields.read_list(record, "messages"), record.get("system"))


def _convert_conversations(record: Record, task: str | None) -> Row:
    return fields.make_chat_row(fields.read_list(record, "conversations"), record.get("system"))


READ_TASK: dict[str, Callable[[Record], Row]] = {
    "sentiment": lambda record: fields.read_labelled("sentiment", record),
    "sentiment_json": lambda record: fields.read_labelled("sentiment_json", record),
    "moderation": lambda record: fields.read_labelled("moderation", record),
    "ner": fields.read_ner,
    "news": fields.read_news,
    "instruct": fields.read_instruct,
    "chat": lambda record: fields.make_chat_row(fields.read_list(record, "messages"), None),
}

_CANONICAL_FIELDS = "text label entities category output instruction input system messages attribution"


def _dialect(name: str, optional: str, convert: Callable[[Record, str | None], Row]) -> Dialect:
    return Dialect(name, frozenset(name.split("/")), frozenset(optional.split()), convert)


# The order decides where a row would fit two: the more telling columns stand first.
DIALECTS: tuple[Dialect, ...] = (
    _dialect("id/source/task", _CANONICAL_FIELDS, _convert_canonical),
    _dialect("messages", "system", _convert_messages),
    _dialect("conversations", "system", _convert_conversations),
    _dialect("text/entities", "", _convert_entities),
    _dialect("text/category/output", "", _convert_news),
    _dialect("instruction/output", "input system history attribution", _convert_instruct)._replace(
        name="instruction/input/output"
    ),
    _dialect("prompt/completion", "system", _convert_prompt_completion),
    _dialect("text/label", "", _convert_labelled),
    _dialect("text_a/label", "", _convert_labelled),
    _dialect("text_cn/extracted_label", "n_labels", _convert_labelled),
    _dialect("text_cn/n_labels", "", _convert_labelled),
)
