"""Which classes a classification head has: the labels of the rows it learns from, in the order asked for.

choose_head(settings, dataset.train)      # Head(("负面", "正面"), "last"); None where the model writes its answers
"""

from collections import Counter
from collections.abc import Sequence

from prompts import Head, PromptError
from prompts.head import classes_of_rows
from prompts.tasks import get_task
from sft.config.train import TrainSettings
from sft.data.canonical import Row
from sft.errors import ConfigError, DataError, nearest_name
from sft.runs import HeadFacts


def choose_head(settings: TrainSettings, rows: Sequence[Row]) -> Head | None:
    """The head that the settings ask for, of the labels these rows allow.

    Raises DataError for rows that have no labels, ConfigError for a label that none of them allows.
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


def describe_head(head: Head, dropout: float) -> HeadFacts:
    """What run.json says of it."""
    names = {str(number): label for number, label in head.id2label.items()}
    return HeadFacts(
        kind="classification", pooling=head.pooling, dropout=dropout, id2label=names, label2id=head.label2id
    )
