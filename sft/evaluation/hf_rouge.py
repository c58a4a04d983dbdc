"""ROUGE for mixed Chinese and Latin text as a metric of Hugging Face's `evaluate`.

`evaluate.load("rouge")` fetches code from the hub and knows no Chinese; this one is local and counts with
sft.metrics.generations. It takes and returns what the hub's metric does. Importing it imports that package, and with it
transformers, so import it only if ROUGE is requested.

    MixedRouge(keep_in_memory=True).compute(predictions=["你好"], references=["你好"])
    # {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
"""

import tempfile
from collections.abc import Sequence

from sft.evaluation.hf_evaluate import load_hf_evaluate
from sft.metrics.generations import ROUGE_TYPES, rouge_signature, score_rouge

_evaluate = load_hf_evaluate()


class MixedRouge(_evaluate.Metric):  # type: ignore[name-defined]  # the package carries no types
    """An `evaluate.Metric`: compute(), add() and add_batch() are the package's own."""

    def _info(self) -> object:
        from datasets import Features, Value  # comes with evaluate

        return _evaluate.MetricInfo(
            description=f"ROUGE F-measures for mixed Chinese and Latin text. {rouge_signature()}",
            citation="Lin, Chin-Yew. ROUGE: a Package for Automatic Evaluation of Summaries. ACL Workshop 2004.",
            inputs_description="predictions, references: lists of strings; use_aggregator=False gives a list of rows.",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        rouge_types: Sequence[str] = ROUGE_TYPES,
        use_aggregator: bool = True,
    ) -> dict[str, float] | dict[str, list[float]]:
        rows = score_rouge(references, predictions, rouge_types)
        return {name: sum(values) / len(values) for name, values in rows.items()} if use_aggregator else rows


def rouge_of_rows(references: Sequence[str], predictions: Sequence[str]) -> dict[str, list[float]]:
    """F-measures of every row through the metric's interface: {"rouge1": [0.8], "rouge2": [0.0], "rougeL": [0.8]}."""
    with tempfile.TemporaryDirectory() as folder:  # the package makes a folder even when it keeps everything in memory
        metric = MixedRouge(keep_in_memory=True, cache_dir=folder)
        rows: dict[str, list[float]] = metric.compute(
            predictions=list(predictions), references=list(references), use_aggregator=False
        )
    return rows
