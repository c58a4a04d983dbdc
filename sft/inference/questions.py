"""Turns a text, or the records of a file, into rows of a task.

    make_row(get_task("sentiment"), "房间很干净")        # {"task": "sentiment", "text": "房间很干净"}

No model is needed, so a file that is wrong is refused before one is loaded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from prompts import PromptError, Tool, conversation_of
from prompts.messages import ASKING, DOCUMENT
from prompts.tasks import Row, Task, get_task, task_names, text_of
from sft.data.files.reader import read_records
from sft.data.rows.canonical import BadRecord, Json, Record, read_list
from sft.data.rows.pairs import read_history
from sft.data.rows.tools import find_tools
from sft.data.rows.turns import ROLES, make_chat_row
from sft.errors import ConfigError, DataError

# What else a file may call an instruction; what else it may call other fields, the tasks say.
OTHER_NAMES = {"instruction": ("prompt", "question", "query", "text")}
TURNS = ("messages", "conversations", "conversation")
MEANT_FOR = {"input": "instruct", "category": "news", "tools": "chat"}


def choose_task(name: str | None, trained: Sequence[str], *, is_classifier: bool = False) -> Task:
    """The named task; without a name, the run's task if it has only one, else instruct.

    is_classifier: the run has a classification head, which knows its own tasks and no other (ConfigError).
    """
    if is_classifier:
        if name is not None and name not in trained:
            raise ConfigError(f"--task {name}: the run's classification head knows {', '.join(trained)}; leave it out")
        name = name or trained[0]
    if name is None:
        name = trained[0] if len(set(trained)) == 1 else "instruct"
    return get_task(name)


def make_row(
    task: Task,
    text: str,
    *,
    input: str | None = None,
    category: Sequence[str] = (),
    tools: Sequence[Tool] = (),
) -> Row:
    """The row for a text. Raises ConfigError for a field of another task, and for missing fields."""
    given: dict[str, object] = {"input": input} if input is not None else {}
    given |= {"category": list(category)} if category else {}
    given |= {"tools": list(tools)} if tools else {}
    for field, owner in MEANT_FOR.items():
        if field in given and task.name != owner:
            raise ConfigError(
                f"--{field} is for task {owner}, this is {task.name}; leave it out or pass --task {owner}"
            )
    asked = task.prompt_fields[0]
    row = {"task": task.name, asked: [{"role": "user", "content": text}] if asked == "messages" else text, **given}
    if missing := [name for name in task.prompt_fields if name not in row]:
        raise ConfigError(f"task {task.name} needs more than a text; give --{missing[0]} too, see inference.py --help")
    return row


def example_row(task: Task, *, input: str | None = None, category: Sequence[str] = ()) -> Row:
    """The task's own example, with the given fields."""
    given: dict[str, object] = {"input": input} if input is not None else {}
    return {**task.example, **given, **({"category": list(category)} if category else {}), "task": task.name}


def row_of_record(record: Mapping[str, object], task: Task) -> Row:
    """The row of a record in a file: of the task that it names, if known, otherwise of `task`.

    Its answers are kept and not shown to the model. Raises PromptError for a record without a usable question.
    """
    if isinstance(record.get("task"), str):
        task = get_task(text_of(record, "task"))
    asked = task.prompt_fields[0]
    turns = next((name for name in TURNS if isinstance(record.get(name), list | str)), None)
    if turns is not None and record.get(asked) is None:  # a conversation, whatever other rows ask
        task, asked, record = get_task("chat"), "messages", {**record, "messages": record[turns]}
    row: dict[str, object] = {**record, "task": task.name}
    if asked == "messages" and record.get(asked) is not None:
        row |= _read_turns(record)  # type: ignore[arg-type]  # of JSON
    if row.get(asked) is None:
        forms = [names for known in (task, *map(get_task, task_names())) for names in known.columns]
        others = [*OTHER_NAMES.get(asked, ()), *(names[asked] for names in forms if asked in names)]
        names = [name for name in others if record.get(name) is not None]
        if not names and record:
            shown = ", ".join(sorted(name for name in record if name != "task")[:8])
            raise PromptError(f"no {asked!r} among its columns ({shown}); --columns {asked}=... names the one to ask")
        row |= {asked: record[names[0]]} if names else {}
    if task.name == "instruct" and record.get("history"):  # earlier exchanges make a conversation, as in training
        question = "\n".join(filter(None, (text_of(row, asked), text_of(row, "input"))))
        turns_before = read_history(record)  # type: ignore[arg-type]  # of JSON
        asks = {"messages": [*turns_before, {"role": "user", "content": question}], "history": None, "task": "chat"}
        return row_of_record({**record, **asks}, get_task("chat"))
    messages = conversation_of(row, None, with_answer=False)  # raises for missing fields and wrong types
    last = messages[-1] if messages else None
    if (
        last is None
        or last["role"] not in (*ASKING, DOCUMENT)
        or (last["role"] != "tool" and not last["content"].strip())
    ):
        raise PromptError(f"there is nothing to answer in {asked!r}; fix the row")
    if asked != "messages" and not text_of(row, asked).strip():
        raise PromptError(f"{asked!r} is empty; fix the row")
    return row


def _read_turns(record: Record) -> dict[str, object]:
    """Turns and tools, read like training rows, up to the last question or tool result."""
    turns = read_list(record, "messages")
    while turns and isinstance(turns[-1], dict) and _speaker(turns[-1]) == "assistant":
        turns = turns[:-1]
    system = record.get("system") or record.get("system_prompt")
    row = make_chat_row(turns, system, Counter(), find_tools(record), asks=True)
    return {"messages": row["messages"], "tools": row.get("tools", [])}


def _speaker(turn: dict[str, Json]) -> str | None:
    return ROLES.get(str(turn.get("role", turn.get("from"))).strip().lower())


def show_question(row: Row) -> dict[str, object]:
    """The prompt fields of a row: {"text": "房间很干净"}."""
    task = get_task(text_of(row, "task"))
    return {field: row[field] for field in (*task.prompt_fields, "input") if row.get(field)}


@dataclass(frozen=True)
class FileRow:
    """One row of the input: its line, and either its question or why it cannot be answered."""

    line: int
    id: str | None
    row: Row | None
    problem: str | None = None


def read_rows(
    path: Path,
    task: Task,
    *,
    keep_bad: bool,
    columns: Mapping[str, str] = MappingProxyType({}),
    encoding: str | None = None,
) -> list[FileRow]:
    """The rows of a file; columns: the column names of the run's own file, {"text": "评论"}.

    Raises DataError for a file that cannot be read; unless keep_bad, for the first bad row.
    """
    rows = []
    for record in read_records(path, encoding):
        row, name, problem = None, None, record.message if isinstance(record, BadRecord) else None
        if not isinstance(record, BadRecord):
            given = record.fields.get("id")
            name = str(given) if isinstance(given, str | int) else None
            named = {field: record.fields[column] for field, column in columns.items() if column in record.fields}
            if record.fields.get("task") not in task_names():  # a column like others
                named["task"] = None
            try:
                row = row_of_record(record.fields | named, task)
            except PromptError as error:
                problem = str(error)
        if problem is not None and not keep_bad:
            raise DataError(f"{path}:{record.line}: {problem}; or pass --on_bad_row quarantine")
        rows.append(FileRow(record.line, name, row, problem))
    if not rows:
        raise DataError(f"{path}: no rows in this file; give one with one row per line")
    return rows
