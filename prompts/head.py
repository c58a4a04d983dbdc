"""A classification head: which classes it knows, in which order, and what it reads of the prompt.

The prompt is the task's own, up to where the answer would begin: token for token the prompt of a chat model.

    head = Head(("负面", "正面"))
    head.class_of_row(get_task("sentiment"), row)      # 1
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prompts.errors import PromptError
from prompts.task import Row, Task, name_row

Pooling = Literal["last", "mean"]
READS: dict[Pooling, str] = {"last": "the last token", "mean": "the mean of all tokens"}


@dataclass(frozen=True)
class Head:
    """labels[i] is the name of class i; pooling says which of the last layer's vectors are read."""

    labels: tuple[str, ...]
    pooling: Pooling = "last"

    @property
    def id2label(self) -> dict[int, str]:
        """The mapping in the form of transformers' configs: {0: "负面", 1: "正面"}."""
        return dict(enumerate(self.labels))

    @property
    def label2id(self) -> dict[str, int]:
        """The mapping in the form of transformers' configs: {"负面": 0, "正面": 1}."""
        return {label: number for number, label in self.id2label.items()}

    def describe(self) -> str:
        """The head's entry in the fingerprint: `classification of the last token, labels 负面|正面`."""
        return f"classification of {READS[self.pooling]}, labels {'|'.join(self.labels)}"

    def class_of_row(self, task: Task, row: Row) -> int:
        """The class number of a row's answer. Raises PromptError if the head has none for it."""
        if task.kind != "label":
            raise PromptError(
                f"{name_row(row)}: task {task.name} has no labels, and a classification head says nothing else; leave "
                "the row out"
            )
        label = task.class_of(task.answer_of(row), row)
        if label not in self.labels:
            raise PromptError(
                f"{name_row(row)}: label {label!r} is none of the head's, {', '.join(self.labels)}; fix the row"
            )
        return self.labels.index(label)

    def answers_of(self, task: Task, row: Row) -> tuple[str, ...]:
        """The answers a row allows as far as the head knows their classes. Raises PromptError if it knows none."""
        answers = tuple(answer for answer in task.allowed_labels(row) if task.class_of(answer, row) in self.labels)
        if not answers:
            raise PromptError(
                f"{name_row(row)}: task {task.name} has no label in common with the head's, {', '.join(self.labels)}"
            )
        return answers


def answers_of(task: Task, row: Row, head: Head | None) -> tuple[str, ...]:
    """The candidate answers: those that a row allows, with a head those whose classes it has; () for free text.

    Raises PromptError if the head knows none.
    """
    return head.answers_of(task, row) if head else task.allowed_labels(row)


def classes_of_rows(rows: Iterable[tuple[Task, Row]]) -> tuple[str, ...]:
    """Every class the rows allow, in the order of their first mention: ("负面", "正面"); () for free text."""
    found = (task.classes_of(task.allowed_labels(row), row) for task, row in rows)
    return tuple(dict.fromkeys(name for classes in found for name in classes))
