"""Figures that need more questions to the tuned model: --robustness (rewritten rows, hard cases) and --calibrate.

Robustness scores the labels of rewritten rows and of hard cases like those of the rows themselves, in one pass over
everything; the answers to the original rows are in the measurements already.

Calibration fits a temperature for each label task on the validation rows of the run's own data. Never on the rows that
are evaluated: fitted and judged on the same rows, it would flatter itself.
"""

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.data.rows.canonical import Row
from sft.errors import DataError
from sft.evaluation.figures import FittedTemperature, label_places
from sft.evaluation.model_answers import Measured, score_labelled, score_references
from sft.evaluation.rows import Context, EvalRow, prepare_rows, sample_by_task, select_rows
from sft.files import package_version
from sft.metrics.calibration import fit_temperature, softmax
from sft.metrics.comparison import PairedFigures, PairedMetric, compare_metrics
from sft.models.loaded import LoadedModel
from sft.robustness.flips import (
    LABELS,
    Answered,
    HardAnswer,
    RobustnessFigures,
    load_hard_cases,
    summarise_hard_cases,
    summarise_tests,
)
from sft.robustness.perturbations import PACKAGE, PERTURBATIONS, known_words, perturb
from sft.runs.run import Run

SENTIMENT = ("sentiment", "sentiment_json")  # the tasks that the hard cases are written for
MAX_ROWS = 500  # one number is fitted; more rows take time and move it in the third digit
FEW_ROWS = 100
SPLIT = "validation"


@dataclass(frozen=True)
class Robustness:
    """The figures, and the hard cases with their answers one at a time."""

    figures: RobustnessFigures
    hard_answers: list[HardAnswer]


def measure_robustness(
    loaded: LoadedModel, rows: Sequence[EvalRow], measured: Measured, context: Context, *, num_rows: int, seed: int
) -> Robustness | None:
    """Rewrite and score again at most num_rows label rows; None if the rows have no label task.

    Raises DataError if the lexicon's package is not installed.
    """
    known_words()  # reports a missing package before the work starts
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
    """The row under a perturbation, with an id of its own; None if it changed nothing."""
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


def fit_temperatures(
    run: Run,
    settings: EvaluateSettings,
    loaded: LoadedModel,
    context: Context,
    evaluated: Collection[str],
    *,
    seed: int,
) -> dict[str, FittedTemperature]:
    """Task -> its temperature: {"sentiment": FittedTemperature(1.7, "validation", 240)}.

    evaluated: ids of the rows the figures are taken over. Where they are the validation rows themselves, or there are
    none, nothing is fitted, and it is said.
    """
    try:
        validation = _read_validation_rows(run, settings)
    except DataError as error:
        say(f"no temperature is fitted: {error}")
        return {}
    fresh = [row for row in validation if row["id"] not in evaluated]
    if len(fresh) < len(validation):
        say(
            "no temperature is fitted: the rows evaluated are the validation rows, and it would flatter itself on "
            "them; build the data with a test split"
        )
        return {}
    rows = sample_by_task(fresh, MAX_ROWS, seed)
    prepared = context.prepare(rows, loaded)
    fitted: dict[str, FittedTemperature] = {}
    for task, places in label_places(prepared).items():
        part = [prepared[place] for place in places]
        scores = score_labelled(loaded, part, description=f"tuned: {task}, temperature", max_tokens=context.max_tokens)
        right = [row.labels.index(row.reference) for row in part]
        if len(part) < FEW_ROWS:
            say(f"the temperature of {task} rests on {len(part)} validation rows: too few to trust beyond these")
        fitted[task] = FittedTemperature(fit_temperature(scores, right), SPLIT, len(part))
    return fitted


def _read_validation_rows(run: Run, settings: EvaluateSettings) -> list[Row]:
    """All validation rows of the run's own data, read as its evaluation would read them. Raises DataError."""
    own = {"data": None, "split": SPLIT, "num_samples": None, "eval_ratio": None, "seed": None, "leak_check": False}
    return select_rows(run, settings.model_copy(update=own)).rows


# What a run forgot: the loss of general text and chat, before and after tuning.
# The sample, general.jsonl, was written for this project and has its licence (Apache-2.0): short passages in Chinese
# and in English, and exchanges in both. It is too small to rank models by, and the same for all runs.

SAMPLE = Path(__file__).with_name("general.jsonl")
LONGEST = 1024  # tokens of a row; none of the sample has as many


class PartFigures(TypedDict):
    """Loss of one part of the sample, nats per token."""

    base: float
    tuned: float
    num_rows: int


class ForgettingFigures(TypedDict):
    """by_part: {"Chinese text": ..., "English text": ..., "chat": ...}; loss: of the whole sample, compared."""

    verdict: str
    verdict_zh: str
    loss: PairedFigures
    by_part: dict[str, PartFigures]


def read_sample() -> list[Row]:
    """The rows of the sample; `source` names the part."""
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


def measure_forgetting(loaded: LoadedModel, run: Run, *, seed: int, max_tokens: int | None = None) -> ForgettingFigures:
    """The sample's loss under the tuned model and its base. max_tokens: size of a scoring batch.

    Rows have LONGEST tokens whatever the run's were, so that all of the sample is measured.
    """
    longest = min(LONGEST, loaded.max_context)
    rows = prepare_rows(read_sample(), loaded.chat, run.system_prompt, run.train_settings(), longest).rows
    tuned = _score(loaded, rows, "tuned", max_tokens)
    with loaded.adapter_off() as untuned:
        base = _score(untuned, rows, "base", max_tokens)
    [loss] = compare_metrics(
        [PairedMetric("loss", base, tuned, higher_is_better=False, is_bounded=False)], seed=seed
    ).values()
    parts = dict.fromkeys(str(row.row["source"]) for row in rows)
    by_part: dict[str, PartFigures] = {}
    for part in parts:
        places = [place for place, row in enumerate(rows) if row.row["source"] == part]
        (base_nll, base_count), (tuned_nll, tuned_count) = base[places].sum(0), tuned[places].sum(0)
        by_part[part] = {
            "base": float(base_nll / base_count),
            "tuned": float(tuned_nll / tuned_count),
            "num_rows": len(places),
        }
    verdict = judge_forgetting(loss)
    return {"verdict": verdict[0], "verdict_zh": verdict[1], "loss": loss, "by_part": by_part}


def _score(loaded: LoadedModel, rows: Sequence[EvalRow], name: str, max_tokens: int | None) -> np.ndarray:
    """Summed nll and tokens of each row, (N, 2)."""
    return np.array(score_references(loaded, rows, f"{name}: general text", max_tokens), dtype=float).T


def judge_forgetting(loss: PairedFigures) -> tuple[str, str]:
    """What the figure says, in English and Chinese."""
    en, zh = {
        "worse": ("some of it was forgotten", "有所遗忘"),
        "better": ("nothing was forgotten", "没有遗忘"),
    }.get(loss["finding"], ("no clear difference", "没有明显差别"))
    figures = f"{loss['base']:.3f} -> {loss['tuned']:.3f} ({loss['low'] or 0:+.3f} to {loss['high'] or 0:+.3f})"
    return (
        f"General text and chat ({loss['num_rows']} rows): loss {figures}: {en}.",
        f"通用文本与对话（{loss['num_rows']} 行）：损失 {figures.replace(' to ', ' 至 ')}：{zh}。",
    )
