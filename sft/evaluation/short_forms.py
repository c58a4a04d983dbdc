"""The few figures that readers of an earlier sentiment project look for, on top of each file, under its keys.

metrics.json               accuracy, precision, recall, f1, auc, confusion_matrix
confidence_analysis.json   avg_confidence, high_confidence_ratio, low_confidence_samples, confidence_distribution
robustness_result.json     original_accuracy, perturbed_accuracy, robustness_score, perturbation_tests
baseline_comparison.json   fine_tuned_model, baseline_model, improvement

All of the label task with the most rows, precision, recall and f1 as means over the classes.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

NAMES = {"auc_roc": "auc"}
TESTS = {"synonyms": "synonym_replace", "typos": "typo_insertion", "punctuation": "punctuation_change"}
Json = dict[str, Any]


class ShortMetrics(TypedDict, total=False):
    """Of the tuned model; auc is left out where all rows are of one class. Rows of the matrix: the right class."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float
    confusion_matrix: list[list[int]]


def shorten_comparison(found: Mapping[str, Any]) -> Json:
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


def shorten_confidence(found: Mapping[str, Any]) -> Json:
    """Rows by tenths of confidence: {"0.5-0.6": 50, ...}; tenths below a half where a row lies there."""
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


def shorten_robustness(overall: Mapping[str, Any], tests: Mapping[str, Any]) -> Json:
    """Accuracy before and after over all rewritten rows, their ratio, and the ratio of each test."""
    return {
        "original_accuracy": overall["original_accuracy"],
        "perturbed_accuracy": overall["perturbed_accuracy"],
        "robustness_score": overall["score"],
        "perturbation_tests": {TESTS.get(name, name): test["score"] for name, test in tests.items()},
    }
