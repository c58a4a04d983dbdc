"""A user's information about rows beyond their columns: their task, the meaning of labels, ...

reading = make_reading(labels=("好评", "差评"), columns={"text": "评论", "label": "标签"})
reading.task          # "好评/差评", a task that is known from here on
"""

import re
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from prompts import PromptError
from prompts.task import Definition, Task, label_key, make_definition, make_label_task, name_by_labels
from prompts.tasks import add_task, get_task, task_names
from sft.config.yaml_files import read_yaml
from sft.errors import ConfigError, nearest_name
from sft.files import PROJECT_ROOT

TASKS_FOLDER = PROJECT_ROOT / "recipes" / "tasks"
NO_GROUPS = "none"  # --group_by none: a column `group` is a column like others
TASK_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Reading:
    """How rows are to be read; empty: as their columns say. It pickles, for rows are also read in other processes."""

    task: str | None = None  # of rows that do not name one themselves
    definition: Definition | None = None  # of that task, if it is described in YAML
    label_map: tuple[tuple[str, str], ...] = ()  # value of the label column -> label: ("1", "好评")
    columns: tuple[tuple[str, str], ...] = ()  # a field and the column it is read from: ("text", "评论")
    group_by: str | None = None  # the column whose equal values keep rows on one side of a split
    form: str | None = None  # the form to read where a row fits several
    encoding: str | None = None  # of text files that are not UTF-8: "gb18030"
    is_told_by_labels: bool = False  # the task is a shipped one with these labels; a form's own takes precedence

    def flags(self) -> list[str]:
        """The flags that say more than a built dataset leaves open."""
        is_said = self.task is not None and not self.is_told_by_labels
        named = {"--task or --labels": is_said, "--label_map": self.label_map, "--columns": self.columns,
                 "--group_by": self.group_by, "--form": self.form, "--encoding": self.encoding}  # fmt: skip
        return [flag for flag, value in named.items() if value]

    def open_task(self) -> Task | None:
        """The task, made known in this process."""
        if self.definition is not None:
            return add_task(make_label_task(self.definition))
        return get_task(self.task) if self.task else None


def make_reading(
    *,
    task: str | None = None,
    labels: Sequence[str] = (),
    label_map: Table[str, str] | None = None,
    columns: Table[str, str] | None = None,
    group_by: str | None = None,
    form: str | None = None,
    encoding: str | None = None,
) -> Reading:
    """The reading that the settings describe. Raises ConfigError if they contradict each other.

    labels without a task: those of the shipped task that has them, else a task that is nothing but these labels.
    """
    label_map = {label_key(word): label for word, label in (label_map or {}).items()}
    labels = tuple(labels) or (tuple(dict.fromkeys(label_map.values())) if task is None else ())
    found = find_task(task) if task else _task_of_labels(labels) if labels else None
    if found is not None:
        for flag, named in (("labels", labels), ("label_map", tuple(label_map.values()))):
            if wrong := [label for label in named if found.find_label(label) is None]:
                near = nearest_name(wrong[0], found.labels) or f"; there are {', '.join(found.labels) or 'none'}"
                raise ConfigError(f"{flag}: {wrong[0]!r} is no label of task {found.name}{near}")
    definition: Definition | None = found.definition if found else None  # type: ignore[assignment]
    return Reading(
        task=found.name if found else None,
        definition=definition,
        label_map=tuple(label_map.items()),
        columns=tuple((columns or {}).items()),
        group_by=group_by,
        form=form,
        encoding=encoding,
        is_told_by_labels=task is None and found is not None and definition is None,
    )


def with_declared_labels(reading: Reading, names: Sequence[str]) -> Reading:
    """The reading of a file that declares its class names, used unless the user specifies labels."""
    if reading.task or reading.label_map or len(names) < 2:
        return reading
    if any(all(task.find_label(name) is not None for name in names) for task in word_tasks()):
        return reading
    told = make_reading(labels=names)
    return replace(reading, task=told.task, definition=told.definition, is_told_by_labels=told.is_told_by_labels)


def find_task(named: str) -> Task:
    """A task by its name, or described in a YAML file. Raises ConfigError for an unknown task and an invalid file.

    find_task("sentiment"), find_task("tickets.yaml"), find_task("urgency") for recipes/tasks/urgency.yaml
    """
    if named.endswith((".yaml", ".yml")):
        return load_task(Path(named))
    found = known_task(named)
    if found is None:
        known = [*task_names(), *(path.stem for path in TASKS_FOLDER.glob("*.yaml"))]
        raise ConfigError(
            f"there is no task {named!r}{nearest_name(named, known)}; tasks are {', '.join(sorted(known))}; one of "
            "your own is described in a YAML file (docs/tasks.md)"
        )
    return found


def known_task(name: object) -> Task | None:
    """The task that a row names, if there is one: in prompts/tasks, recipes/tasks, or used in this process."""
    if not isinstance(name, str):
        return None
    if name in task_names():
        return get_task(name)
    path = TASKS_FOLDER / f"{name}.yaml"
    return load_task(path) if TASK_NAME.fullmatch(name) and path.is_file() else None


def load_task(path: Path) -> Task:
    """The task described in a file, added under the file's name. Raises ConfigError in one line."""
    try:
        return add_task(make_label_task(make_definition(path.stem, read_yaml(path))))
    except PromptError as error:
        raise ConfigError(f"{path}: {error}") from None


def restore_tasks(definitions: Sequence[Table[str, object]]) -> None:
    """Make the described tasks of a run or dataset known again."""
    for definition in definitions:
        add_task(make_label_task(definition))  # type: ignore[arg-type]


def described_tasks(names: Sequence[str]) -> list[dict[str, object]]:
    """The descriptions of YAML tasks, which a run or dataset keeps."""
    tasks = [get_task(name) for name in names]
    return [dict(task.definition) for task in tasks if task.definition is not None]


def word_tasks() -> list[Task]:
    """Tasks whose text/label rows can be recognised by the label's name."""
    return list(_word_tasks(task_names()))


@lru_cache(maxsize=8)
def _word_tasks(names: tuple[str, ...]) -> tuple[Task, ...]:
    tasks = [get_task(name) for name in names]
    return tuple(
        task
        for task in tasks
        if task.takes_text_and_label
        and task.definition is None  # a description added by an earlier run does not apply to these rows
        and task.find_label(task.labels[0]) == task.labels[0]
    )


def _task_of_labels(labels: Sequence[str]) -> Task:
    for task in word_tasks():
        if task.definition is None and set(labels) <= set(task.labels):
            return task
    try:
        return add_task(make_label_task(make_definition(name_by_labels(labels), {"labels": list(labels)})))
    except PromptError as error:
        raise ConfigError(str(error)) from None
