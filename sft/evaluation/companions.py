"""Files beside metrics.json for readers of earlier projects' results: the same figures under the keys known there.

    baseline_comparison.json   models.base / models.finetuned with their figures; comparison.<metric> with base,
                               finetuned, improvement (a difference) and improvement_percentage (of base)
    confidence_analysis.json   basic_stats, ece, reliability_diagram, low_confidence, high_confidence_errors,
                               full_distribution
    robustness_result.json     categories and overall of the hard cases; tests: original, perturbed, score

One label task is at the top of each file, that of the most rows, named in `task`; all of them under by_task. Beside
it stand the few figures that an earlier sentiment project named, precision, recall and f1 as means over the classes:

    metrics.json               accuracy, precision, recall, f1, auc, confusion_matrix
    confidence_analysis.json   avg_confidence, high_confidence_ratio, low_confidence_samples, confidence_distribution
    robustness_result.json     original_accuracy, perturbed_accuracy, robustness_score, perturbation_tests
    baseline_comparison.json   fine_tuned_model, baseline_model, improvement

docs/metrics.md lists every key.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from sft.console import say
from sft.console.narration import show_path
from sft.evaluation.figures import ModelFigures, TaskCalibration, chosen_figures
from sft.metrics.calibration import HIGH, LOW
from sft.metrics.classification import ClassificationFigures
from sft.robustness.flips import HardAnswer, RobustnessFigures
from sft.runs.run import write_atomically

BASELINE_FILE, CONFIDENCE_FILE, ROBUSTNESS_FILE = (
    "baseline_comparison.json",
    "confidence_analysis.json",
    "robustness_result.json",
)
Json = dict[str, object]
NAMES = {"auc_roc": "auc"}
TESTS = {"synonyms": "synonym_replace", "typos": "typo_insertion", "punctuation": "punctuation_change"}
ShortForm = dict[str, Any]
MAX_PERCENTAGE = 999.0  # of a relative change that is shown


class Improvement(TypedDict):
    """improvement = finetuned - base; improvement_percentage is None where base is 0."""

    base: float
    finetuned: float
    improvement: float
    improvement_percentage: float | None


def list_companions(*, labels: bool, base: bool, robustness: bool) -> dict[str, str]:
    """The files that will be written, as metrics.json names them among its artifacts."""
    wanted = {
        "baseline_comparison": (BASELINE_FILE, labels and base),
        "confidence_analysis": (CONFIDENCE_FILE, labels),
        "robustness_result": (ROBUSTNESS_FILE, robustness),
    }
    return {key: name for key, (name, applies) in wanted.items() if applies}


def write_companions(
    folder: Path,
    tuned: ModelFigures,
    base: ModelFigures | None,
    robustness: RobustnessFigures | None,
    hard_answers: Sequence[HardAnswer],
) -> None:
    """Write the files that apply, and delete those of an earlier evaluation that do not."""
    content: dict[str, Json | None] = {
        BASELINE_FILE: compare_with_base(tuned, base) if base is not None else None,
        CONFIDENCE_FILE: describe_confidence(tuned),
        ROBUSTNESS_FILE: describe_robustness(robustness, hard_answers) if robustness else None,
    }
    for name, value in content.items():
        if value is None:
            (folder / name).unlink(missing_ok=True)
        else:
            text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
            write_atomically(folder / name, text + "\n")


def copy_comparison(folder: Path, target: Path) -> None:
    """Also write baseline_comparison.json to the user's file; prints a line if there is no comparison."""
    if not (folder / BASELINE_FILE).is_file():
        say(f"{target}: not written, for there are no labels that base and tuned could be compared on")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, (folder / BASELINE_FILE).read_text(encoding="utf-8"))
    say(f"written: {show_path(target)}")


def compare_with_base(tuned: ModelFigures, base: ModelFigures) -> Json | None:
    """R0's comparison of both models by label scoring, or by a head; None without label tasks."""
    if "classification" not in tuned or "classification" not in base:
        return None
    by_task: dict[str, Json] = {}
    for task, found in tuned["classification"]["by_task"].items():
        sides = (chosen_figures(base["classification"]["by_task"][task]), chosen_figures(found))
        by_task[task] = {
            "models": {"base": _describe_labels(sides[0]), "finetuned": _describe_labels(sides[1])},
            "comparison": compare_labels(*sides),
        }
    whole = _with_main_task(by_task, tuned)
    return {**shorten_comparison(whole), **whole}


class ShortMetrics(TypedDict, total=False):
    """Figures of the tuned model; auc is left out if all rows are of one class. Matrix rows are right classes."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float
    confusion_matrix: list[list[int]]


def describe_main_task(tuned: ModelFigures) -> ShortMetrics:
    """The figures of metrics.json that are on top of it; {} without label tasks."""
    compared = compare_with_base(tuned, tuned)
    return shorten_metrics(compared["models"]["finetuned"]) if compared else {}  # type: ignore[index]


def compare_labels(base: ClassificationFigures, tuned: ClassificationFigures) -> dict[str, Improvement]:
    """{"accuracy": {"base": .52, "finetuned": .91, "improvement": .39, "improvement_percentage": 75.0}, ...}."""
    pairs = zip(_headline(base).items(), _headline(tuned).values(), strict=True)
    return {
        name: {
            "base": before,
            "finetuned": after,
            "improvement": after - before,
            "improvement_percentage": 100 * (after - before) / before if before else None,
        }
        for (name, before), after in pairs
    }


def improvement_rows(comparison: Mapping[str, Improvement]) -> list[list[object]]:
    """Lines of R0's table: ["accuracy", 0.52, 0.91, "↑ 39.00 points", "↑ 75.0 %"]; "=" where nothing changed.

    A relative change of more than MAX_PERCENTAGE, from a figure near 0, would say nothing: None.
    """
    rows: list[list[object]] = []
    for name, found in comparison.items():
        shown = round(100 * found["improvement"], 2)
        arrow = "↑" if shown > 0 else "↓" if shown < 0 else "="
        percentage = found["improvement_percentage"]
        relative = (
            None if percentage is None or abs(percentage) > MAX_PERCENTAGE else f"{arrow} {abs(percentage):.1f} %"
        )
        points = f"{arrow} {abs(shown):.2f} points"
        rows.append([name, found["base"], found["finetuned"], points, relative])
    return rows


def describe_confidence(tuned: ModelFigures) -> Json | None:
    """R2's analysis of how sure the tuned model is; None without label tasks."""
    if "calibration" not in tuned:
        return None
    by_task = {task: _describe_calibration(found) for task, found in tuned["calibration"]["by_task"].items()}
    whole = _with_main_task(by_task, tuned)
    return {**shorten_confidence(whole), **whole}


def describe_robustness(figures: RobustnessFigures, hard_answers: Sequence[HardAnswer]) -> Json:
    """R2's result of the hard cases by category, and the perturbations with original, perturbed and score.

    robustness_score is 100 times the score over all perturbations; weighted_score the plain mean over the categories.
    """
    hard = figures.get("hard_cases")
    categories = hard["by_category"] if hard else {}
    found: Json = {
        "categories": {
            name: {
                "name": name,
                "total": one["num_rows"],
                "labeled_samples": one["num_rows"],
                "correct": one["num_right"],
                "wrong": one["num_rows"] - one["num_right"],
                "accuracy": one["accuracy"],
                "samples": [_describe_case(answer) for answer in hard_answers if answer.category == name],
            }
            for name, one in categories.items()
        },
        "tests": {
            name: {
                "original": test["original_accuracy"],
                "perturbed": test["perturbed_accuracy"],
                "score": test["score"],
                "flip_rate": test["flip_rate"],
                "samples": test["num_rows"],
                "changed_share": test["changed_share"],
            }
            for name, test in figures["tests"].items()
        },
    }
    score = figures["overall"]["score"]
    overall: Json = {"robustness_score": None if score is None else 100 * score}
    if hard:
        overall |= {
            "total_samples": hard["overall"]["num_rows"],
            "correct": hard["overall"]["num_right"],
            "wrong": hard["overall"]["num_rows"] - hard["overall"]["num_right"],
            "accuracy": hard["overall"]["accuracy"],
            "weighted_score": sum(one["accuracy"] for one in categories.values()) / len(categories),
        }
    return {**shorten_robustness(figures["overall"], figures["tests"]), **found, "overall": overall}


def _with_main_task(by_task: dict[str, Json], tuned: ModelFigures) -> Json:
    sizes = {task: chosen_figures(found)["num_rows"] for task, found in tuned["classification"]["by_task"].items()}
    main = max(by_task, key=lambda task: sizes[task])
    return {"task": main, **by_task[main], "by_task": by_task}


def _headline(figures: ClassificationFigures) -> dict[str, float]:
    found = {
        "accuracy": figures["accuracy"],
        "precision": figures["macro_precision"],
        "recall": figures["macro_recall"],
        "f1": figures["macro_f1"],
    }
    area = figures["roc_auc"]["macro"] if "roc_auc" in figures else None
    return found if area is None else {**found, "auc_roc": area}


def _describe_labels(figures: ClassificationFigures) -> Json:
    recalls = {f"recall_{label}": one["recall"] for label, one in figures["per_class"].items()}
    return {**_headline(figures), **recalls, "confusion_matrix": figures["confusion_matrix"]}


def _describe_calibration(found: TaskCalibration) -> Json:
    num_right = round(found["accuracy"] * found["num_rows"])
    bins, full = found["reliability"], found["full_histogram"]
    edges = full["edges"]
    return {
        "basic_stats": {
            "total_samples": found["num_rows"],
            "correct": num_right,
            "wrong": found["num_rows"] - num_right,
            "accuracy": found["accuracy"],
            "mean_confidence": found["avg_confidence"],
            "mean_confidence_correct": found["avg_confidence_right"],
            "mean_confidence_wrong": found["avg_confidence_wrong"],
            "share_above_0.9": found["share_above_high"],
        },
        "ece": found["ece"],
        "ece_interval": [found["ece_low"], found["ece_high"]],
        "ece_floor": found["ece_floor"],
        "brier": found["brier"],
        "reliability_diagram": {
            "bin_confidences": [one["confidence"] for one in bins],
            "bin_accuracies": [one["accuracy"] for one in bins],
            "bin_counts": [one["num_rows"] for one in bins],
            "bin_boundaries": [bins[0]["low"], *(one["high"] for one in bins)],
        },
        "low_confidence": {
            "threshold": LOW,
            "count": found["low_confidence"]["num_rows"],
            "percentage": found["low_confidence"]["share"],
            "accuracy": found["low_confidence"]["accuracy"],
            "samples": found["low_confidence"]["rows"],
        },
        "high_confidence_errors": {
            "threshold": HIGH,
            "count": found["high_confidence_errors"]["num_rows"],
            "percentage": found["high_confidence_errors"]["share"],
            "samples": found["high_confidence_errors"]["rows"],
        },
        "confidence_histogram": found["histogram"],
        "full_distribution": {
            "bin_edges": edges,
            "bin_centers": [round((left + right) / 2, 4) for left, right in itertools.pairwise(edges)],
            "correct_distribution": full["right"],
            "wrong_distribution": full["wrong"],
        },
        **({"temperature": found["temperature"]} if "temperature" in found else {}),
    }


def _describe_case(answer: HardAnswer) -> Json:
    return {
        "text": answer.text,
        "true_label": answer.reference,
        "predicted": answer.prediction,
        "confidence": answer.confidence,
        "correct": answer.prediction == answer.reference,
    }


def shorten_comparison(found: Mapping[str, Any]) -> ShortForm:
    """{"fine_tuned_model": {"accuracy": 0.95, ...}, "baseline_model": {...}, "improvement": {"accuracy": "+20.0%"}}.

    Improvements are differences in points of a hundred.
    """
    comparison = found["comparison"]
    named = {NAMES.get(name, name): values for name, values in comparison.items()}
    return {
        "fine_tuned_model": {name: values["finetuned"] for name, values in named.items()},
        "baseline_model": {name: values["base"] for name, values in named.items()},
        "improvement": {name: f"{100 * values['improvement']:+.1f}%" for name, values in named.items()},
    }


def shorten_metrics(models: Mapping[str, Any]) -> ShortMetrics:
    """The figures of the tuned model, of what baseline_comparison.json says of it or would say."""
    short: ShortMetrics = {name: models[name] for name in ("accuracy", "precision", "recall", "f1")}  # type: ignore[assignment]
    if "auc_roc" in models:
        short["auc"] = models["auc_roc"]
    short["confusion_matrix"] = models["confusion_matrix"]["counts"]
    return short


def shorten_confidence(found: Mapping[str, Any]) -> ShortForm:
    """Rows by tenths of confidence: {"0.5-0.6": 50, ...}; tenths below a half only if they have rows."""
    full = found["full_distribution"]
    twentieths = [r + w for r, w in zip(full["correct_distribution"], full["wrong_distribution"], strict=True)]
    tenths = {f"{i / 10:.1f}-{(i + 1) / 10:.1f}": sum(twentieths[2 * i : 2 * i + 2]) for i in range(10)}
    return {
        "avg_confidence": found["basic_stats"]["mean_confidence"],
        "high_confidence_ratio": found["basic_stats"]["share_above_0.9"],
        "low_confidence_samples": found["low_confidence"]["samples"],
        "confidence_distribution": {
            span: count for number, (span, count) in enumerate(tenths.items()) if count or number >= 5
        },
    }


def shorten_robustness(overall: Mapping[str, Any], tests: Mapping[str, Any]) -> ShortForm:
    """Accuracy before and after over all rewritten rows, their ratio, and the ratio of each test."""
    return {
        "original_accuracy": overall["original_accuracy"],
        "perturbed_accuracy": overall["perturbed_accuracy"],
        "robustness_score": overall["score"],
        "perturbation_tests": {TESTS.get(name, name): test["score"] for name, test in tests.items()},
    }
