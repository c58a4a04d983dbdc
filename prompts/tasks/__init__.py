"""Every task, one file each; a file added here is found without being named anywhere else.

get_task("sentiment").build_messages(row)

Beside them stand tasks that are described in words (prompts.label_task), from where they are added: add_task.
"""

import functools
import importlib
import pkgutil

from prompts.errors import PromptError
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
