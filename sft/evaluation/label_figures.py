"""Label tasks of one model: the groups classification and calibration of metrics.json.

Three ways lead to a label, and all come through summarise_labels: label scoring, free generation, and the class of a
classification head, whose logits are in answers.label_scores just as the labels' log-probabilities do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from sft.evaluation.model_answers import Answers
from sft.evaluation.outcomes import Outcome, classes_of, places_by
from sft.evaluation.rows import EvalRow
from sft.metrics.calibration import CalibrationFigures, Judged, softmax, spread_over, summarise_calibration
from sft.metrics.classification import ClassificationFigures, summarise_labels

TEXT_SHOWN = 100  # characters of a row's text in a list of rows


class LabelTask(TypedDict):
    """One label task. label_scoring takes the label whose log-probability (label and end token, summed) is highest;
    accuracy_per_token divides that by the label's tokens first; generation reads the answer written freely.

    head takes the likeliest class of a classification head, and is in the place of all three.
    """

    label_scoring: NotRequired[ClassificationFigures]
    accuracy_per_token: NotRequired[float]
    generation: NotRequired[ClassificationFigures]
    head: NotRequired[ClassificationFigures]


class ClassificationGroup(TypedDict):
    """accuracy is by label scoring, or by the head, over the rows of all label tasks."""

    accuracy: float
    num_rows: int
    by_task: dict[str, LabelTask]


@dataclass(frozen=True)
class FittedTemperature:
    """A task's temperature and the rows it was fitted on: FittedTemperature(1.7, "validation", 240)."""

    value: float
    split: str
    num_rows: int


class TemperatureFigures(TypedDict):
    """What dividing the label scores by a temperature does on these rows; it was fitted on others."""

    temperature: float
    fitted_on: str
    num_rows_fitted: int
    ece: float
    ece_low: float
    ece_high: float
    ece_floor: float
    brier: float
    nll: float
    avg_confidence: float


class TaskCalibration(CalibrationFigures):
    """Calibration of one task by label scoring or head; temperature is there where one was fitted (--calibrate)."""

    temperature: NotRequired[TemperatureFigures]


class CalibrationGroup(TypedDict):
    """Calibration of every label task."""

    by_task: dict[str, TaskCalibration]


def summarise_label_tasks(
    rows: Sequence[EvalRow], answers: Answers, outcomes: Sequence[Outcome]
) -> ClassificationGroup:
    """Figures of every label task among the rows; there is at least one."""
    by_task: dict[str, LabelTask] = {}
    for task, places in label_places(rows).items():
        classes = classes_of([rows[place] for place in places])
        found = [outcomes[place] for place in places]
        references = [str(outcome.reference) for outcome in found]
        scored = [outcome.scored for outcome in found]
        table = np.array([spread_probabilities(rows[place], answers, place, classes) for place in places])
        chosen = summarise_labels(references, scored, classes, table)
        if answers.chosen_by is not None:
            by_task[task] = {"head": chosen} if answers.chosen_by == "head" else {"label_scoring": chosen}
            continue
        by_task[task] = {
            "label_scoring": chosen,
            "accuracy_per_token": sum(outcome.scored_per_token == outcome.reference for outcome in found) / len(found),
            "generation": summarise_labels(references, [outcome.generated for outcome in found], classes),
        }
    labelled = [outcome for outcome in outcomes if outcome.reference is not None]
    accuracy = sum(outcome.scored == outcome.reference for outcome in labelled) / len(labelled)
    return {"accuracy": accuracy, "num_rows": len(labelled), "by_task": by_task}


def chosen_figures(task: LabelTask) -> ClassificationFigures:
    """Figures of the class that a model gave the highest score: by its head, or by label scoring."""
    return task["head"] if "head" in task else task["label_scoring"]


def summarise_calibrations(
    rows: Sequence[EvalRow], answers: Answers, temperatures: Mapping[str, FittedTemperature] | None = None
) -> CalibrationGroup:
    """Calibration of every label task among the rows, and again under the task's temperature where it has one."""
    by_task: dict[str, TaskCalibration] = {}
    for task, places in label_places(rows).items():
        by_task[task] = {**summarise_calibration([judge(rows[place], answers, place) for place in places])}
        fitted = (temperatures or {}).get(task)
        if fitted is not None:
            cooled = summarise_calibration([judge(rows[place], answers, place, fitted.value) for place in places])
            by_task[task]["temperature"] = {
                "temperature": fitted.value,
                "fitted_on": fitted.split,
                "num_rows_fitted": fitted.num_rows,
                "ece": cooled["ece"],
                "ece_low": cooled["ece_low"],
                "ece_high": cooled["ece_high"],
                "ece_floor": cooled["ece_floor"],
                "brier": cooled["brier"],
                "nll": cooled["nll"],
                "avg_confidence": cooled["avg_confidence"],
            }
    return {"by_task": by_task}


def label_places(rows: Sequence[EvalRow]) -> dict[str, list[int]]:
    """Row numbers of each label task: {"sentiment": [0, 2]}."""
    groups = places_by(rows, lambda row: row.task.name)
    return {task: places for task, places in groups.items() if rows[places[0]].labels}


def judge(row: EvalRow, answers: Answers, place: int, temperature: float = 1.0) -> Judged:
    """A row with the probability of each of its classes; `place` is its number among the answers."""
    return Judged(
        row_id=row.row["id"],
        probabilities=softmax(answers.label_scores[place], temperature),
        labels=row.classes,
        right=row.labels.index(row.reference),
        text=str(row.row.get("text", row.question))[:TEXT_SHOWN],
    )


def spread_probabilities(row: EvalRow, answers: Answers, place: int, classes: Sequence[str]) -> NDArray[np.float64]:
    """A row's probabilities over all classes of its task, (C,); `place` is its number among the answers."""
    return spread_over(classes, row.classes, softmax(answers.label_scores[place]).tolist())
