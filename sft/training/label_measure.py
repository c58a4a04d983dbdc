"""Accuracy and macro F1 of the validation rows that ask for a label, where a model that writes its answers is to be
chosen by them: --metric_for_best_model eval_macro_f1.

measure = LabelMeasure(prepared.validation)
measure(loaded)      # {"eval_accuracy": 0.91, "eval_macro_f1": 0.9}, as evaluate.py has them by label scoring
"""

from collections.abc import Sequence

from prompts.tasks import get_task
from sft.encoding import EncodedRows
from sft.label_scoring import score_labels
from sft.metrics.classification import summarise_labels
from sft.models.loaded import LoadedModel
from sft.training.processes import gather_parts, rank, world_size


class LabelMeasure:
    """A Measure (sft.training.trainer). Of several label tasks the classes are told apart by the tasks' names."""

    figures: Sequence[str] = ("eval_accuracy", "eval_macro_f1")

    def __init__(self, validation: EncodedRows) -> None:
        self.prompts: list[list[int]] = []
        self.labels: list[tuple[str, ...]] = []  # the answers each row allows
        self.classes: list[tuple[str, ...]] = []  # what they stand for, in their order
        self.right: list[str] = []
        for row, encoded in zip(validation.rows, validation.encoded, strict=True):
            task = get_task(str(row["task"]))
            labels = task.allowed_labels(row)
            if not labels:
                continue
            classes = tuple(f"{task.name}: {name}" for name in task.classes_of(labels, row))
            self.prompts.append(encoded.prompt_ids)
            self.labels.append(labels)
            self.classes.append(classes)
            self.right.append(classes[labels.index(task.answer_of(row))])

    def __bool__(self) -> bool:
        """Whether there are such rows."""
        return bool(self.prompts)

    def __call__(self, loaded: LoadedModel) -> dict[str, float]:
        """Each row scored in one of the processes; the figures are of all rows, and the same in all processes."""
        mine = slice(rank(), None, world_size())
        scores = gather_parts(score_labels(loaded, self.prompts[mine], self.labels[mine], shown=False))
        said = [classes[row.index(max(row))] for classes, row in zip(self.classes, scores, strict=True)]
        known = list(dict.fromkeys(name for classes in self.classes for name in classes))
        found = summarise_labels(self.right, said, known)
        return {"eval_accuracy": found["accuracy"], "eval_macro_f1": found["macro_f1"]}
