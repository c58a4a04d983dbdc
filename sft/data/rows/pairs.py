"""A question and its answer, under the names that people give them -> an instruct row, or a conversation.

make_pair_row({"question": "6 x 7?", "answer": "42"}, Pair("question", "answer"), Counter())
"""

from collections import Counter
from itertools import product
from typing import NamedTuple

from prompts.task import BLANK, is_blank
from prompts.tools import CALL
from sft.data.rows.canonical import Json, Record, Row, RowError, name_kind, read_list, read_optional_text, read_text
from sft.data.rows.tools import TOOL_COLUMNS, find_tools
from sft.data.rows.turns import (
    SPELLED,
    UNREADABLE,
    Notes,
    count_media,
    is_chatml,
    make_chat_row,
    read_chatml,
    split_thought,
)

BY_COLUMNS = (
    "the file has one list or object per column, not one object per row (as pandas' to_json writes it without "
    "orient='records', lines=True)"
)


class Pair(NamedTuple):
    """Columns of a question and its answer, and those with the question's context."""

    question: str
    answer: str
    extras: tuple[str, ...] = ("context", "input")

    @property
    def name(self) -> str:
        """Name of the format: "instruction/input/output", "instruction/context/response", "question/answer"."""
        if self.question != "instruction":
            return f"{self.question}/{self.answer}"
        return f"instruction/{'context' if self.answer == 'response' else 'input'}/{self.answer}"


QUESTIONS = ("instruction", "query", "question", "prompt", "problem", "inputs", "input")
ANSWERS = ("output", "response", "answer", "completion", "solution", "targets", "target", "outputs", "generation")
USUAL = (
    ("instruction", "output"), ("instruction", "response"), ("query", "response"), ("question", "answer"),
    ("question", "response"), ("prompt", "completion"), ("prompt", "response"), ("problem", "solution"),
)  # fmt: skip
SPEAKERS = tuple((user, assistant) for user in ("user", "human") for assistant in ("assistant", "gpt", "bot"))
# Each question with each answer; the first is the canonical pair, and where rows fit several the earlier one counts.
PAIRS = tuple(
    Pair(question, answer, ("context",) if question == "input" else ("context", "input"))
    for question, answer in dict.fromkeys((*USUAL, *product(QUESTIONS, ANSWERS), *SPEAKERS))
)
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "rationale", "cot", "complex_cot")
BESIDE_PAIRS = frozenset(("system", "system_prompt", "history", *TOOL_COLUMNS, *THOUGHTS))


SPECIAL = BESIDE_PAIRS | {"label", "kto_tag"}  # a row without these, and without "<" in its texts, is a plain one


def make_pair_row(record: Record, pair: Pair, notes: Notes) -> Row:
    """A question and its answer; a `history` of earlier exchanges (LLaMA-Factory, ms-swift) makes it a conversation."""
    return read_plain_pair(record, pair) or _read_pair(record, pair, notes)


def read_plain_pair(record: Record, pair: Pair) -> Row | None:
    """The row of texts in which nothing is to be looked for, as _read_pair has it but three times as fast; or None."""
    asked, answer = record.get(pair.question), record.get(pair.answer)
    if type(asked) is not str or type(answer) is not str or not SPECIAL.isdisjoint(record):
        return None
    extra = ""
    for name in pair.extras:
        if value := record.get(name):
            if extra or type(value) is not str:
                return None
            extra = value
    if "<" in asked or "<" in answer or not asked.strip(BLANK) or not answer.strip(BLANK):
        return None
    if extra and not extra.strip(BLANK):
        extra = ""
    return {"id": "", "source": "", "task": "instruct", "instruction": asked, "input": extra, "output": answer}


def _read_pair(record: Record, pair: Pair, notes: Notes) -> Row:
    refuse_rejected(record)
    asked, answer = record.get(pair.question), record.get(pair.answer)
    system = record.get("system") or record.get("system_prompt")
    tools = find_tools(record)
    if (isinstance(asked, dict) and isinstance(answer, dict)) or (_is_column(asked) and _is_column(answer)):
        raise RowError("by_columns", BY_COLUMNS)
    if isinstance(asked, list):  # TRL's conversational form
        said = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        return make_chat_row([*asked, *said], system, notes, tools)
    if is_chatml(asked) and isinstance(asked, str) and isinstance(answer, str):
        header = "" if asked.rstrip().endswith("assistant") else "<|im_start|>assistant\n"
        return read_chatml(f"{asked}{header}{answer}", notes)
    extra = _read_extra(record, pair)
    if extra and (asked is None or (isinstance(asked, str) and is_blank(asked))):
        question, extra = extra, ""  # an empty instruction: the input is the question
    else:
        question = read_text(record, pair.question)
    count_media(question, notes)
    output, thought = read_text(record, pair.answer), _read_thought(record)
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
    history = read_history(record)
    if not history and not tools and CALL not in output:
        return row
    again: Counter[str] = Counter()  # the answer's own thought was counted above
    conversation = _make_conversation(row, history, tools, again)
    notes.update({note: again[note] for note in (SPELLED, UNREADABLE)})
    return conversation


def _is_column(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _read_extra(record: Record, pair: Pair) -> str:
    """What the question is about: a text, or passages in a list, of one column or of both."""
    texts = []
    for name in pair.extras:
        value = record.get(name)
        if not value:
            continue
        if isinstance(value, list) and all(isinstance(passage, str) for passage in value):
            value = "\n".join(value)  # type: ignore[arg-type]
        if not isinstance(value, str):
            raise RowError("wrong_type", f"{name!r} is {name_kind(value)}, expected text")
        if not is_blank(value):
            texts.append(value)
    return "\n".join(texts)


def _read_thought(record: Record) -> str | None:
    """The first non-empty column of a thought."""
    name = next((name for name in THOUGHTS if record.get(name)), None)
    return read_optional_text(record, name) if name else None


def _make_conversation(row: Row, history: list[Json], tools: Json, notes: Notes) -> Row:
    """An instruct row with its earlier turns and the tools that it may call."""
    turns = list(history)
    question = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    answer: dict[str, Json] = {"role": "assistant", "content": row["output"]}
    if "reasoning_content" in row:
        answer["reasoning_content"] = row["reasoning_content"]
    turns += [{"role": "user", "content": question}, answer]
    return make_chat_row(turns, row.get("system"), notes, tools)


def read_history(record: Record) -> list[Json]:
    """The turns of what was said before, in the column `history`; [] if there is none."""
    history = read_list(record, "history") if record.get("history") not in (None, "", "null") else []
    return [turn for exchange in history for turn in _read_exchange(exchange)]


def _read_exchange(exchange: Json) -> list[Json]:
    """The turns of an earlier exchange: ["Hi", "Hello"], {"query": "Hi", "response": "Hello"}, or a turn itself."""
    if isinstance(exchange, dict) and exchange.keys() & {"role", "from"}:
        return [exchange]
    said = list(exchange.values()) if isinstance(exchange, dict) else exchange
    if not isinstance(said, list) or len(said) != 2:
        raise RowError("wrong_type", "'history' must be a list of [question, answer] pairs, or of turns")
    return [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]


def refuse_rejected(record: Record) -> None:
    """KTO's rows: an answer marked as bad is not to be learned."""
    for name in ("label", "kto_tag"):
        value = record.get(name)
        is_kto = "completion" in record  # as TRL has it; elsewhere 0 may be any class
        if value is False or (isinstance(value, str) and value.lower() == "false") or (is_kto and value in (0, "0")):
            raise RowError(
                "rejected",
                f"its answer is marked as rejected ({name} {str(value).lower()}, as KTO's); --on_bad_row quarantine "
                "leaves such rows out",
            )
