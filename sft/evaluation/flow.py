"""A whole evaluation, and its folder.

evaluation = evaluate_run(run, settings)
write_evaluation(evaluation, run.evaluation_dir)      # metrics.json, predictions.jsonl; sft.report adds the reports
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

from prompts import ChatFormat
from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.console.narration import show_path
from sft.errors import ConfigError
from sft.evaluation.companions import ShortMetrics, describe_main_task, list_companions, write_companions
from sft.evaluation.compare import Change, Comparison, changes_of_rows, compare_models, headline_metrics
from sft.evaluation.figures import DataStats, ModelFigures, count_supervised_bytes, describe_data, summarise_model
from sft.evaluation.journal import PARTIAL_FILE
from sft.evaluation.leaks import LeakFigures, Overlap, describe_leaks, find_overlaps
from sft.evaluation.measuring import Baseline, Measurements, choose_classes, find_baseline, measure_models, open_journal
from sft.evaluation.model_answers import plan_budgets
from sft.evaluation.other_metrics import OtherMetric, load_metric
from sft.evaluation.predictions import Prediction, predict_rows
from sft.evaluation.probes import ForgettingFigures
from sft.evaluation.rows import prepare_rows, select_rows
from sft.evaluation.yardsticks import YardstickGroup, Yardsticks, apply_yardsticks, summarise_yardsticks
from sft.generation.writers import check_generator
from sft.models.loading import load_run
from sft.models.source import EMBEDDED, EMBEDDED_ID, HUB_ID
from sft.robustness.flips import HardAnswer, RobustnessFigures
from sft.runs.labels import describe_sole_answer
from sft.runs.run import Run, git_revision, package_versions, write_atomically
from sft.training.log import LOG_FILE, read_log

DOCUMENTS = "text"  # the task whose rows are learned whole
METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, SUMMARY_FILE = (
    *("metrics.json", "predictions.jsonl", "report.html"),
    "report.md",
)


class BaselineFacts(TypedDict):
    """What is in the place of `base`: the run's own base model, another run, or another model."""

    kind: str
    name: str


class TrainingFacts(TypedDict):
    """How a run was trained; epochs and hardware are not known of older runs."""

    model: str
    method: str
    data: str
    rows: int
    epochs: float | None
    steps: int
    learning_rate: float
    rows_per_step: int
    max_seq_length: int
    hardware: str
    duration_s: float | None
    peak_gb: float | None


class RunFacts(TypedDict):
    """Which run was measured, and with what."""

    name: str
    base_model: dict[str, str]
    baseline: BaselineFacts | None
    training: NotRequired[TrainingFacts]
    fingerprint: str
    chosen_by: NotRequired[dict[str, str]]  # if nothing is written: {"tuned": "head", "base": "label_scoring"}
    max_new_tokens: dict[str, int]  # per task
    decoding: str
    generator: str
    seed: int
    duration_s: float
    versions: dict[str, str]
    git_revision: str | None


class CleanFigures(ModelFigures):
    """Every figure again, over the rows that do not occur in the training data."""

    num_rows: int
    base: NotRequired[ModelFigures]
    comparison: NotRequired[Comparison]
    yardsticks: NotRequired[YardstickGroup]


class Metrics(ShortMetrics, ModelFigures):
    """metrics.json: the tuned model's groups, those of the baseline (the untuned model) under `base`.

    Where there are label tasks, a few figures of the largest one are on top.
    """

    data_stats: DataStats
    base: NotRequired[ModelFigures]
    comparison: NotRequired[Comparison]
    yardsticks: NotRequired[YardstickGroup]
    leaks: LeakFigures
    without_overlaps: NotRequired[CleanFigures]
    robustness: NotRequired[RobustnessFigures]
    forgetting: NotRequired[ForgettingFigures]
    run: RunFacts
    artifacts: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """The results: figures, one line per row, the training steps from log.jsonl, and the
    answers to the hard cases of --robustness.
    """

    metrics: Metrics
    predictions: list[Prediction]
    training_log: list[dict[str, float]] = field(default_factory=list)
    hard_answers: list[HardAnswer] = field(default_factory=list)


def evaluate_run(run: Run, settings: EvaluateSettings) -> Evaluation:
    """Measure a run and, unless --no-baseline, its baseline on the same rows.

    Answers are kept on the disk as they come; after an interruption the same call resumes after them. Raises
    UserErrors of the parts: data that changed, a split without rows, weights that do not fit the run.
    """
    started = time.monotonic()
    check_generator(settings.generator, settings.decoding)
    other_metrics = [load_metric(name) for name in settings.metric]
    baseline = find_baseline(run, settings)
    head = choose_classes(run, baseline)
    if head:
        check_written(settings, "a classification head writes no answers")
    if head and settings.forgetting:
        raise ConfigError("--forgetting: a classification head has no loss of text; leave it out")
    selection = select_rows(run, settings)
    trusted = settings.trust_remote_code
    loaded = load_run(run, allow_mismatch=settings.allow_mismatch, trust_remote_code=trusted)
    trained, chat = run.train_settings(), loaded.chat
    max_length = min(settings.max_seq_length or trained.max_seq_length, loaded.max_context)
    prepared = prepare_rows(selection.rows, chat, run.system_prompt, trained, max_length, head, turns=settings.turns)
    if not head and all(row.is_document for row in prepared.rows):
        check_written(settings, "documents have a loss, and no answer is written")
    if others := sorted({row.task.name for row in prepared.rows} - set(run.tasks)) if run.tasks else []:
        say(
            f"rows are prompted as {', '.join(others)}, but the run was trained on {', '.join(run.tasks)}: it does not "
            "know this prompt"
        )
    budgets = {} if head else plan_budgets(prepared.rows, loaded, settings.max_new_tokens)
    stats = describe_data(selection, prepared, max_length, settings.turns)
    distinct = [row.row for row in prepared.last_turns]
    overlaps = find_overlaps(distinct, selection.training) if settings.leak_check else {}
    leaks = describe_leaks(
        selection.training, overlaps, len(distinct), checked=settings.leak_check and not run.is_adopted
    )
    references = {row.reference for row in prepared.rows}  # of every turn: conversations may end in the same words
    sole = references.pop() if len(references) == 1 < len(prepared.rows) else None
    _tell_plan(stats, budgets, settings, leaks, sole)

    journal = open_journal(run, settings, loaded, prepared.rows, budgets, selection.seed, baseline)
    try:
        measured = measure_models(run, settings, loaded, prepared.rows, budgets, selection.seed, baseline, journal)
    except KeyboardInterrupt:
        say(f"the answers so far are kept in {show_path(journal.path)}; the same command resumes after them")
        raise
    finally:
        journal.close()

    yardsticks = apply_yardsticks(
        measured.rows, selection.training, asked=settings.yardsticks, why_untrained=selection.why_untrained
    )
    figures = _summarise(measured, chat, selection.seed, _names(run, baseline), other_metrics, yardsticks)
    robustness = measured.probes.robustness
    metrics: Metrics = {
        **describe_main_task(figures),
        **figures,  # type: ignore[typeddict-unknown-key]  # num_rows goes below
        "data_stats": stats,
        "leaks": leaks,
        "run": {
            "name": run.path.name,
            "base_model": run.base,
            "baseline": {"kind": baseline.kind, "name": baseline.name} if baseline else None,
            "fingerprint": run.fingerprint.digest,
            "max_new_tokens": budgets,
            "decoding": "greedy" if settings.decoding == "precise" else settings.decoding,
            "generator": settings.generator,
            "seed": selection.seed,
            "duration_s": round(time.monotonic() - started, 1),
            "versions": package_versions(),
            "git_revision": git_revision(),
        },
        "artifacts": {
            "metrics": METRICS_FILE,
            "predictions": PREDICTIONS_FILE,
            "report": REPORT_FILE,
            "summary": SUMMARY_FILE,
            **list_companions(
                labels="classification" in figures, base="base" in figures, robustness=robustness is not None
            ),
        },
    }
    log = read_log(run.path / LOG_FILE) if (run.path / LOG_FILE).is_file() else []
    if not run.is_adopted:
        metrics["run"]["training"] = describe_training(run, log)
    if chosen := _ways(measured):
        metrics["run"]["chosen_by"] = chosen
    if robustness is not None:
        metrics["robustness"] = robustness.figures
    if measured.probes.forgetting is not None:
        metrics["forgetting"] = measured.probes.forgetting
    del metrics["num_rows"]  # type: ignore[typeddict-item]  # data_stats says it
    clean = [place for place, row in enumerate(measured.rows) if row.row["id"] not in overlaps]
    if overlaps and clean:
        part = measured.take(clean)
        names = _names(run, baseline)
        metrics["without_overlaps"] = _summarise(part, chat, selection.seed, names, other_metrics, yardsticks)
    return Evaluation(
        metrics,
        _predict(measured, chat, overlaps),
        log,
        robustness.hard_answers if robustness else [],
    )


def describe_training(run: Run, log: Sequence[Mapping[str, float]]) -> TrainingFacts:
    """The run's own account of its training: model, method, data, length, hardware."""
    settings = run.train_settings()
    layers = f", last {settings.lora_layers} layers" if settings.lora_layers else ""
    method = {
        "lora": f"LoRA r {settings.lora_r}, alpha {settings.lora_alpha}{layers}",
        "qlora": f"QLoRA (4 bits) r {settings.lora_r}, alpha {settings.lora_alpha}{layers}",
        "freeze": f"last {settings.freeze_trainable_layers} layers",
        "full": "all weights",
    }[settings.method]
    name = run.base["name"]
    kept = run.data.get("train")
    measured = {key: float(str(run.metrics[key])) for key in ("duration_s", "peak_gb") if key in run.metrics}
    return {
        "model": EMBEDDED_ID if name == EMBEDDED else name if HUB_ID.fullmatch(name) else Path(name).name,
        "method": method + (", classification head" if run.is_classifier else ""),
        "data": Path(str(run.data.get("path", ""))).name,
        "rows": int(str(kept.get("kept", 0))) if isinstance(kept, dict) else 0,
        "epochs": max((line["epoch"] for line in log if "epoch" in line), default=None),
        "steps": int(str(run.metrics.get("steps", 0))),
        "learning_rate": settings.learning_rate,
        "rows_per_step": run.rows_per_step,
        "max_seq_length": settings.max_seq_length,
        "hardware": run.hardware,
        "duration_s": measured.get("duration_s"),
        "peak_gb": measured.get("peak_gb"),
    }


def check_written(settings: EvaluateSettings, why: str) -> None:
    """Raises ConfigError for what is asked of written answers, if none are written."""
    asked = {"--rouge": settings.rouge, "--metric": settings.metric, "--generator": settings.generator == "vllm"}
    asked["--decoding"] = settings.decoding != "precise"
    if given := [flag for flag, is_asked in asked.items() if is_asked]:
        raise ConfigError(f"{', '.join(given)}: {why}; leave it out")


def _ways(measured: Measurements) -> dict[str, str]:
    sides = {"tuned": measured.tuned, "base": measured.base}
    return {name: side.answers.chosen_by for name, side in sides.items() if side and side.answers.chosen_by}


def _names(run: Run, baseline: Baseline | None) -> tuple[str, str] | None:
    """What a verdict calls the two, where it is not the model before and after tuning."""
    return None if baseline is None or baseline.kind == "base" else (run.path.name, baseline.name)


def _summarise(
    measured: Measurements,
    chat: ChatFormat,
    seed: int,
    against: tuple[str, str] | None,
    other_metrics: Sequence[OtherMetric],
    yardsticks: Yardsticks | None,
) -> CleanFigures:
    num_bytes = [count_supervised_bytes(row, chat) for row in measured.rows]
    tuned = summarise_model(
        measured.rows,
        measured.tuned,
        chat,
        num_bytes=num_bytes,
        temperatures=measured.probes.temperatures,
        other_metrics=other_metrics,
    )
    figures: CleanFigures = {**tuned, "num_rows": len(measured.rows)}
    if measured.base is not None:
        base_chat = measured.base_chat or chat
        figures["base"] = summarise_model(
            measured.rows, measured.base, base_chat, num_bytes=num_bytes, other_metrics=other_metrics
        )
        figures["comparison"] = compare_models(
            measured.rows, measured.base, measured.tuned, seed=seed, num_bytes=measured.num_bytes, against=against
        )
    if yardsticks is not None:
        ours = against[0] if against else "tuned"
        figures["yardsticks"] = summarise_yardsticks(
            yardsticks, measured.rows, measured.tuned.outcomes, seed=seed, name=ours
        )
    return figures


def _predict(measured: Measurements, chat: ChatFormat, overlaps: dict[str, Overlap]) -> list[Prediction]:
    rows, tuned, base = measured.rows, measured.tuned, measured.base
    changes: list[dict[str, Change]] = [{} for _ in rows]
    if base is not None:
        changes = changes_of_rows(headline_metrics(rows, base, tuned, measured.num_bytes), len(rows))
    return predict_rows(rows, chat, tuned, base, changes, overlaps)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json and predictions.jsonl; metrics.json last, so that it never refers to missing files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in evaluation.predictions]
    write_atomically(folder / PREDICTIONS_FILE, "".join(lines))
    metrics = evaluation.metrics
    write_companions(folder, metrics, metrics.get("base"), metrics.get("robustness"), evaluation.hard_answers)
    write_atomically(
        folder / METRICS_FILE, json.dumps(evaluation.metrics, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    )
    (folder / PARTIAL_FILE).unlink(missing_ok=True)  # all of it is in predictions.jsonl now


def _tell_plan(
    stats: DataStats, budgets: dict[str, int], settings: EvaluateSettings, leaks: LeakFigures, sole: str | None
) -> None:
    tasks = ", ".join(f"{count:,} {task}" for task, count in stats["by_task"].items())
    say(f"{stats['eval_size']:,} of {stats['available']:,} rows of the {stats['split']} split ({tasks})")
    if stats["num_answers"] > stats["eval_size"]:
        say(
            f"{stats['num_answers']:,} answers: every answer of a conversation, after the preceding turns as the data "
            "has them (--turns last: only the last)"
        )
    if stats["truncation_rate"] or stats["dropped_too_long"]:
        say(
            f"shortened {stats['truncation_rate']:.1%} of them by {stats['tokens_cut']:,} tokens, left out "
            f"{stats['dropped_too_long']:,} that do not fit {stats['max_seq_length']:,} tokens"
        )
    limits = ", ".join(f"{task} {budget}" for task, budget in budgets.items())
    manner = "greedy answers" if settings.decoding == "precise" else f"answers sampled with preset {settings.decoding},"
    if stats["by_task"].keys() == {DOCUMENTS}:
        say("documents: the loss of every token but a document's first is measured, and nothing is written")
    elif budgets:
        say(f"{manner} of at most this many tokens (from the longest reference): {limits}")
    else:
        say("classes are chosen among the labels, and nothing is written: one of the models has a classification head")
    if sole is not None:
        say(f"WARNING {describe_sole_answer(sole, stats['eval_size'], stats['split'])}")
    if leaks["exact"] or leaks["near"]:
        say(
            f"{leaks['exact']:,} of the rows also occur in the training data, {leaks['near']:,} nearly: every score is "
            "also reported without them"
        )
