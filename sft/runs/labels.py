"""Which classes a classification head has: the labels of its training rows, in the requested order.

choose_head(settings, dataset.train)      # Head(("负面", "正面"), "last"); None if the model writes its answers
"""

from collections import Counter
from collections.abc import Sequence

from prompts import Head, PromptError
from prompts.head import classes_of_rows
from prompts.tasks import get_task
from sft.config.train import TrainSettings
from sft.data.rows.canonical import Row
from sft.errors import ConfigError, DataError, nearest_name
from sft.runs.run import HeadFacts

LONGEST_SHOWN = 40  # characters of an answer that a warning repeats


def choose_head(settings: TrainSettings, rows: Sequence[Row]) -> Head | None:
    """The head that the settings ask for, of the labels these rows allow.

    Raises DataError for rows without labels, ConfigError for a label that no row allows.
    """
    if not settings.is_classifier:
        return None
    tasks = [get_task(row["task"]) for row in rows]
    others = Counter(task.name for task in tasks if task.kind != "label")
    if others:
        named = ", ".join(f"{count:,} of {task}" for task, count in others.most_common())
        raise DataError(
            f"{settings.data}: a classification head learns labels, and these rows have none: {named}; give rows of "
            "label tasks alone, or leave out --head classification"
        )
    try:
        known = classes_of_rows(zip(tasks, rows, strict=True))
    except PromptError as error:
        raise DataError(f"{settings.data}: {error}") from None
    if unknown := [label for label in settings.labels if label not in known]:
        near = nearest_name(unknown[0], known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"labels: {unknown[0]!r} is no label of {settings.data}{near}")
    return Head(settings.labels or known, settings.pooling)


def find_sole_answer(rows: Sequence[Row]) -> str | None:
    """The one answer that all rows have: "正面"; None if they differ, where one has none, or for a single row."""
    answers = set()
    for row in rows if len(rows) > 1 else ():
        try:
            answers.add(get_task(row["task"]).answer_of(row))
        except PromptError:  # encoding the row reports it
            return None
        if len(answers) > 1:
            return None
    return answers.pop() if answers else None


def describe_sole_answer(answer: str, num_rows: int, split: str) -> str:
    """The warning about rows that all have the same answer: a constant model would get the best scores."""
    shown = answer if len(answer) <= LONGEST_SHOWN else f"{answer[:LONGEST_SHOWN]}..."
    return (
        f"all {num_rows:,} {split} rows have the same answer, {shown!r}, so that to know it is to be right: "
        "mix in rows with other answers"
    )


def describe_head(head: Head, dropout: float) -> HeadFacts:
    """Its entry in run.json."""
    names = {str(number): label for number, label in head.id2label.items()}
    return HeadFacts(
        kind="classification", pooling=head.pooling, dropout=dropout, id2label=names, label2id=head.label2id
    )
