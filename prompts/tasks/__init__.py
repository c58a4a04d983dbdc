"""Every task, one file each; a file added here is found without being named anywhere else.

get_task("sentiment").build_messages(row)

Tasks described in YAML (prompts.task) are added with add_task. conversation_of puts the turns of a row after the system
prompt and the tools.
"""

import functools
import importlib
import pkgutil

from prompts.errors import PromptError
from prompts.messages import Message, Tool
from prompts.task import Entity, Parsed, Row, Task, Unparseable, ask, read_label, text_of

__all__ = [
    "Entity", "Parsed", "Row", "Task", "Unparseable", "add_task", "ask", "get_task", "read_label", "task_names",
    "text_of",
]  # fmt: skip

_added: dict[str, Task] = {}


def task_names() -> tuple[str, ...]:
    """Names of all tasks: ("chat", "instruct", "moderation", ...)."""
    return tuple(sorted({*_file_names(), *_added}))


def get_task(name: str) -> Task:
    """The task of a name. Raises PromptError listing the names there are."""
    return _added.get(name) or _load_task(name)


def add_task(task: Task) -> Task:
    """Make a described task known by its name; raises PromptError where that is another task's name already."""
    if task.name in _file_names():
        raise PromptError(f"task {task.name!r} is there already (prompts/tasks/{task.name}.py); give it another name")
    known = _added.setdefault(task.name, task)
    if known.definition != task.definition:
        raise PromptError(
            f"task {task.name!r} was used with another description a moment ago (labels {', '.join(known.labels)}); "
            "give one of them another name"
        )
    return known


@functools.cache
def _file_names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def _load_task(name: str) -> Task:
    if name not in _file_names():
        raise PromptError(f"there is no task {name!r}; tasks are {', '.join(task_names())} (docs/tasks.md: add one)")
    task = importlib.import_module(f"{__name__}.{name}").TASK
    if not isinstance(task, Task) or task.name != name:
        raise PromptError(f"prompts/tasks/{name}.py holds no TASK = Task(name={name!r}, ...); see docs/tasks.md")
    return task


EXPERT_SYSTEM_PROMPT = (
    "你是一位跨领域专家，精通人工智能、集成电路与生物医学。"
    "请根据问题和补充信息，给出准确、专业、条理清晰的回答；不确定时请直接说明。"
)
"""The system prompt of instructions and chat, the same in training and wherever the model is asked."""


def conversation_of(row: Row, system_prompt: str | None, *, with_answer: bool = True) -> list[Message]:
    """[system?, tools?, user, assistant] of a row; without the answer it is the prompt that inference sends.

    The row's own system message (`system`, or the first of its `messages`) wins over its task's, and both over
    system_prompt. None: no system message, so the chat template's own default applies, if it has one. A document has
    no system message. Raises PromptError for an unusable row.
    """
    task = get_task(text_of(row, "task"))
    messages = task.build_messages(row, with_answer=with_answer)
    if task.kind == "document":
        return messages
    own = own_system_prompt(row)
    own = task.system_prompt if own is None else own
    system_prompt = system_prompt if own is None else own
    if tools := tools_of(row):
        messages = [{"role": "tools", "content": "", "tools": tools}, *messages]
    return messages if system_prompt is None else [{"role": "system", "content": system_prompt}, *messages]


def tools_of(row: Row) -> list[Tool]:
    """The functions that a row offers, [] if it offers none; its task must be one that has tools (chat).

    Raises PromptError if they are no list of functions.
    """
    tools = row.get("tools")
    if not tools or "tools" not in get_task(text_of(row, "task")).optional_fields:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PromptError("'tools' is no list of functions; fix the row")
    return tools


def own_system_prompt(row: Row) -> str | None:
    """The system prompt that a row brings, in its field `system` or as the first of its `messages`; None if none."""
    turns = row.get("messages")
    if isinstance(turns, list) and turns and turns[0].get("role") == "system":
        return text_of(turns[0], "content")
    return text_of(row, "system") if row.get("system") else None
