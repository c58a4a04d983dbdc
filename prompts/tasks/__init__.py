"""Every task, one file each; a file added here is found without being named anywhere else.

get_task("sentiment").build_messages(row)
"""

import functools
import importlib
import pkgutil

from prompts.errors import PromptError
from prompts.task import Entity, Parsed, Row, Task, Unparseable, ask, read_label, text_of

__all__ = ["Entity", "Parsed", "Row", "Task", "Unparseable", "ask", "get_task", "read_label", "task_names", "text_of"]


@functools.cache
def task_names() -> tuple[str, ...]:
    """Names of all tasks: ("chat", "instruct", "moderation", ...)."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@functools.cache
def get_task(name: str) -> Task:
    """The task of a name. Raises PromptError listing the names there are."""
    if name not in task_names():
        raise PromptError(f"there is no task {name!r}; tasks are {', '.join(task_names())} (docs/tasks.md: add one)")
    task = importlib.import_module(f"{__name__}.{name}").TASK
    if not isinstance(task, Task) or task.name != name:
        raise PromptError(f"prompts/tasks/{name}.py holds no TASK = Task(name={name!r}, ...); see docs/tasks.md")
    return task
