"""An evaluation from beginning to end, and its folder.

evaluation = evaluate_run(run, settings)
write_evaluation(evaluation, run.evaluation_dir)      # metrics.json, predictions.jsonl; sft.report adds report.html
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.evaluation.answers import answer_rows, plan_budgets
from sft.evaluation.compare import Comparison, compare_models
from sft.evaluation.figures import (
    DataStats,
    ModelFigures,
    describe_data,
    summarise_model,
)
from sft.evaluation.outcomes import Measured, read_outcomes
from sft.evaluation.rows import EvalRow, prepare_rows, select_rows
from sft.models.loaded import LoadedModel
from sft.models.loading import load_run
from sft.runs import Run, git_revision, package_versions, write_atomically

METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE = "metrics.json", "predictions.jsonl", "report.html"


class RunFacts(TypedDict):
    """Which run was measured, and with what."""

    name: str
    base_model: dict[str, str]
    fingerprint: str
    max_new_tokens: dict[str, int]  # per task
    decoding: str
    seed: int
    duration_s: float
    versions: dict[str, str]
    git_revision: str | None


class Metrics(ModelFigures):
    """metrics.json: the tuned model's groups on top, the untuned model's under `base`."""

    data_stats: DataStats
    base: NotRequired[ModelFigures]
    comparison: NotRequired[Comparison]
    run: RunFacts
    artifacts: dict[str, str]


class Prediction(TypedDict):
    """A line of predictions.jsonl. nll is in nats; label is the one scored highest, for label tasks."""

    id: str
    source: str
    task: str
    instruction: str
    input: str
    reference: str
    prediction: str
    base_prediction: NotRequired[str]
    finished: bool
    base_finished: NotRequired[bool]
    nll: float
    base_nll: NotRequired[float]
    label: NotRequired[str]
    base_label: NotRequired[str]


@dataclass(frozen=True)
class Evaluation:
    """What was measured: the figures, and a line for every row."""

    metrics: Metrics
    predictions: list[Prediction]


def evaluate_run(run: Run, settings: EvaluateSettings) -> Evaluation:
    """Measure a run, and unless --no-baseline the model it was tuned from, on the same rows.

    Raises UserErrors of the parts: data that changed, a split without rows, weights that do not fit the run.
    """
    started = time.monotonic()
    selection = select_rows(run, settings)
    loaded = load_run(run, allow_mismatch=settings.allow_mismatch)
    trained = run.train_settings()
    max_length = min(settings.max_seq_length or trained.max_seq_length, loaded.max_context)
    prepared = prepare_rows(selection.rows, loaded.chat, run.system_prompt, trained, max_length)
    budgets = plan_budgets(prepared.rows, loaded, settings.max_new_tokens)
    stats = describe_data(selection, prepared, max_length)
    _tell_plan(stats, budgets)

    tuned = _measure(loaded, prepared.rows, budgets, settings, "tuned")
    base = None
    if settings.baseline:
        with loaded.adapter_off() as untuned:
            base = _measure(untuned, prepared.rows, budgets, settings, "base")

    metrics: Metrics = {
        **summarise_model(prepared.rows, tuned, loaded.chat),
        "data_stats": stats,
        "run": {
            "name": run.path.name,
            "base_model": run.base,
            "fingerprint": run.fingerprint.digest,
            "max_new_tokens": budgets,
            "decoding": "greedy",
            "seed": selection.seed,
            "duration_s": round(time.monotonic() - started, 1),
            "versions": package_versions(),
            "git_revision": git_revision(),
        },
        "artifacts": {"metrics": METRICS_FILE, "predictions": PREDICTIONS_FILE, "report": REPORT_FILE},
    }
    if base is not None:
        metrics["base"] = summarise_model(prepared.rows, base, loaded.chat)
        metrics["comparison"] = compare_models(prepared.rows, base, tuned, seed=selection.seed)
    return Evaluation(metrics, [_predict(row, place, tuned, base) for place, row in enumerate(prepared.rows)])


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json and predictions.jsonl; metrics.json last, so that it never speaks of files not yet there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in evaluation.predictions]
    write_atomically(folder / PREDICTIONS_FILE, "".join(lines))
    write_atomically(
        folder / METRICS_FILE, json.dumps(evaluation.metrics, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    )


def _tell_plan(stats: DataStats, budgets: dict[str, int]) -> None:
    tasks = ", ".join(f"{count:,} {task}" for task, count in stats["by_task"].items())
    say(f"{stats['eval_size']:,} of {stats['available']:,} rows of the {stats['split']} split ({tasks})")
    if stats["truncation_rate"] or stats["dropped_too_long"]:
        say(
            f"shortened {stats['truncation_rate']:.1%} of them by {stats['tokens_cut']:,} tokens, left out "
            f"{stats['dropped_too_long']:,} that do not fit {stats['max_seq_length']:,} tokens"
        )
    limits = ", ".join(f"{task} {budget}" for task, budget in budgets.items())
    say(f"greedy answers of at most so many tokens, by the longest reference: {limits}")


def _measure(
    loaded: LoadedModel, rows: Sequence[EvalRow], budgets: dict[str, int], settings: EvaluateSettings, name: str
) -> Measured:
    answers = answer_rows(loaded, rows, budgets, name)
    outcomes = read_outcomes(rows, answers, loaded.chat)
    return Measured(answers, outcomes, _score_rouge(rows, answers.texts) if settings.rouge else None)


def _score_rouge(rows: Sequence[EvalRow], texts: Sequence[str]) -> dict[str, list[float | None]]:
    """ROUGE of the free-text rows, or of all where there is none: a label has no summary to overlap with."""
    from sft.hf_rouge import rouge_of_rows  # imports HF's evaluate: only where it is asked for

    places = [place for place, row in enumerate(rows) if row.task.kind == "text"] or list(range(len(rows)))
    scores = rouge_of_rows([rows[place].reference for place in places], [texts[place] for place in places])
    rouge: dict[str, list[float | None]] = {name: [None] * len(rows) for name in scores}
    for name, values in scores.items():
        for place, value in zip(places, values, strict=True):
            rouge[name][place] = value
    return rouge


def _predict(row: EvalRow, place: int, tuned: Measured, base: Measured | None) -> Prediction:
    prediction: Prediction = {
        "id": row.row["id"],
        "source": row.row["source"],
        "task": row.task.name,
        "instruction": row.row.get("instruction", row.question),
        "input": row.row.get("input", ""),
        "reference": row.reference,
        "prediction": tuned.answers.texts[place],
        "finished": tuned.answers.finished[place],
        "nll": tuned.answers.nll[place],
    }
    if base is not None:
        prediction["base_prediction"] = base.answers.texts[place]
        prediction["base_finished"] = base.answers.finished[place]
        prediction["base_nll"] = base.answers.nll[place]
    for key, side in (("label", tuned), ("base_label", base)):
        if side is not None and (label := side.outcomes[place].scored) is not None:
            prediction[key] = label  # type: ignore[literal-required]
    return prediction
