"""--robustness: the tuned model scores the labels of rewritten rows and of the hard cases.

The same label scoring as for the rows themselves, in one pass over everything; the answers to the rows as they are
stand in the measurements already.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sft.data import Row
from sft.data.places import package_version
from sft.evaluation.answers import score_labelled
from sft.evaluation.context import Context
from sft.evaluation.label_figures import label_places
from sft.evaluation.outcomes import Measured
from sft.evaluation.rows import EvalRow, sample_by_task
from sft.metrics.probabilities import softmax
from sft.models.loaded import LoadedModel
from sft.robustness.figures import (
    Answered,
    HardAnswer,
    RobustnessFigures,
    summarise_hard_cases,
    summarise_tests,
)
from sft.robustness.hard_cases import LABELS, load_hard_cases
from sft.robustness.lexicon import PACKAGE, known_words
from sft.robustness.perturbations import PERTURBATIONS, perturb

SENTIMENT = ("sentiment", "sentiment_json")  # the tasks that the hard cases are written for


@dataclass(frozen=True)
class Robustness:
    """The figures, and the hard cases with their answers one by one."""

    figures: RobustnessFigures
    hard_answers: list[HardAnswer]


def measure_robustness(
    loaded: LoadedModel, rows: Sequence[EvalRow], measured: Measured, context: Context, *, num_rows: int, seed: int
) -> Robustness | None:
    """Rewrite and score again at most num_rows label rows; None where the rows have no label task.

    Raises DataError where the lexicon's package is not installed.
    """
    known_words()  # tells of a missing package now, before the work
    tasks = label_places(rows)
    if not tasks:
        return None
    outcome_of = {row.row["id"]: outcome for row, outcome in zip(rows, measured.outcomes, strict=True)}
    with_text = [row.row for places in tasks.values() for row in (rows[p] for p in places) if row.row.get("text")]
    tried = sample_by_task(with_text, num_rows, seed) if with_text else []
    rewritten = [
        (name, row, changed) for name in PERTURBATIONS for row in tried if (changed := _rewrite(row, name, seed))
    ]
    hard_task = next((task for task in SENTIMENT if task in tasks), None)
    cases = load_hard_cases() if hard_task else []
    hard_rows = [_as_row(hard_task or "", f"hard-{c.case_id}", c.text, c.label) for c in cases]

    scored = _choose_classes(loaded, [*(changed for _, _, changed in rewritten), *hard_rows], context)
    answered = [
        Answered(name, str(outcome.reference), str(outcome.scored), scored[changed["id"]][0])
        for name, row, changed in rewritten
        if changed["id"] in scored and (outcome := outcome_of[row["id"]])
    ]
    overall, tests = summarise_tests(answered, list(PERTURBATIONS), len(tried))
    figures: RobustnessFigures = {
        "num_rows": len(tried),
        "tasks": sorted({row["task"] for row in tried}),
        "seed": seed,
        "lexicon": f"{PACKAGE} {package_version(PACKAGE)}, pypinyin {package_version('pypinyin')}",
        "overall": overall,
        "tests": tests,
    }
    answers = [
        HardAnswer(case.category, case.text, case.label, *scored[row["id"]])
        for case, row in zip(cases, hard_rows, strict=True)
        if row["id"] in scored
    ]
    if answers:
        figures["hard_cases"] = summarise_hard_cases(answers)
    return Robustness(figures, answers)


def _rewrite(row: Row, name: str, seed: int) -> Row | None:
    """The row under a perturbation, with an id of its own; None where it changed nothing."""
    text = perturb(name, row["text"], random.Random(f"{seed}/{name}/{row['id']}"))
    return None if text == row["text"] else {**row, "id": f"{row['id']}#{name}", "text": text}


def _as_row(task: str, row_id: str, text: str, label: str) -> Row:
    value = label if task == "sentiment" else LABELS.index(label)
    return {"id": row_id, "source": "hard cases", "task": task, "text": text, "label": value}


def _choose_classes(loaded: LoadedModel, rows: Sequence[Row], context: Context) -> dict[str, tuple[str, float]]:
    """Row id -> the class of its highest label score, and its probability; rows that do not fit are left out."""
    if not rows:
        return {}
    prepared = context.prepare(rows, loaded)
    scores = score_labelled(loaded, prepared, description="tuned: robustness", max_tokens=context.max_tokens)
    found: dict[str, tuple[str, float]] = {}
    for row, row_scores in zip(prepared, scores, strict=True):
        shares = softmax(row_scores)
        found[row.row["id"]] = (row.classes[int(shares.argmax())], float(shares.max()))
    return found
