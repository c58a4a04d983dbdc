"""A question and its answer, under the names that people give them -> an instruct row, or a conversation.

make_pair_row({"question": "6 x 7?", "answer": "42"}, Pair("question", "answer"), Counter())
"""

from collections import Counter
from typing import NamedTuple

from prompts.task import is_blank
from sft.data.rows.canonical import Json, Row, RowError
from sft.data.rows.fields import Record, name_kind, read_list, read_optional_text, read_text
from sft.data.rows.turns import Notes, is_chatml, make_chat_row, read_chatml, split_thought


class Pair(NamedTuple):
    """Columns of a question and its answer, and of what the question is about."""

    question: str
    answer: str
    extra: str = ""


# The first is the canonical one. Those that others contain stand behind them.
PAIRS = (
    Pair("instruction", "output", "input"),
    Pair("instruction", "response", "context"),
    Pair("query", "response"),
    Pair("question", "answer", "context"),
    Pair("question", "response", "context"),
    Pair("prompt", "completion"),
    Pair("prompt", "response"),
    Pair("prompt", "output", "input"),
    Pair("instruction", "answer", "input"),
    Pair("problem", "solution"),
    Pair("inputs", "targets"),
    Pair("input", "output"),
)
BESIDE_PAIRS = frozenset(("system", "system_prompt", "history", "reasoning_content"))


def make_pair_row(record: Record, pair: Pair, notes: Notes) -> Row:
    """A question and its answer; a `history` of earlier exchanges (LLaMA-Factory, ms-swift) makes it a conversation."""
    refuse_rejected(record)
    asked, answer = record.get(pair.question), record.get(pair.answer)
    system = record.get("system") or record.get("system_prompt")
    if isinstance(asked, list):  # TRL's conversational form
        said = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        return make_chat_row([*asked, *said], system, notes)
    if is_chatml(asked) and isinstance(asked, str) and isinstance(answer, str):
        header = "" if asked.rstrip().endswith("assistant") else "<|im_start|>assistant\n"
        return read_chatml(f"{asked}{header}{answer}", notes)
    extra = read_optional_text(record, pair.extra) if pair.extra else ""
    if extra and is_blank(extra):
        extra = ""
    if extra and (asked is None or (isinstance(asked, str) and is_blank(asked))):
        question, extra = extra, ""  # an empty instruction: the input is the question
    else:
        question = read_text(record, pair.question)
    output, thought = read_text(record, pair.answer), record.get("reasoning_content")
    if thought is not None and not isinstance(thought, str):
        raise RowError("wrong_type", f"'reasoning_content' is {name_kind(thought)}, expected text")
    if thought or "think>" in output:
        output, thought = split_thought(f"{pair.answer!r}", output, thought, notes)
        if is_blank(output):
            raise RowError("empty_answer", f"{pair.answer!r} is empty but for its thought")
    row: Row = {
        "id": "", "source": "", "task": "instruct", "instruction": question, "input": extra, "output": output
    }  # fmt: skip
    if system:
        row["system"] = read_optional_text({"system": system}, "system")
    if thought:
        row["reasoning_content"] = thought
    history = read_list(record, "history") if record.get("history") not in (None, "", "null") else None
    return _with_history(row, history) if history else row


def _with_history(row: Row, history: list[Json]) -> Row:
    turns: list[Json] = []
    for exchange in history:
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise RowError("wrong_type", "'history' must be a list of [question, answer] pairs")
        turns += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    question = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    answer: dict[str, Json] = {"role": "assistant", "content": row["output"]}
    if "reasoning_content" in row:
        answer["reasoning_content"] = row["reasoning_content"]
    turns += [{"role": "user", "content": question}, answer]
    counted_before: Counter[str] = Counter()  # the answer's own thought, when it was read
    return make_chat_row(turns, row.get("system"), counted_before)


def refuse_rejected(record: Record) -> None:
    """KTO's rows: an answer marked as bad is not to be learned."""
    for name in ("label", "kto_tag"):
        if record.get(name) is False:
            raise RowError(
                "rejected",
                f"its answer is marked as rejected ({name} false, as KTO's); --on_bad_row quarantine leaves "
                "such rows out",
            )
