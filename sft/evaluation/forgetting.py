"""What a run forgot: the loss of general text and chat, before and after tuning.

    measure_forgetting(loaded, run, seed=42)["verdict"]
    # "General text and chat (36 rows): loss 3.021 -> 3.214 (+0.113 to +0.281): some of it was forgotten."

The sample, general.jsonl, was written for this project and has its licence (Apache-2.0): short passages in Chinese and
in English, and exchanges in both. It is too small to rank models by, and the same for all runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from sft.data.rows.canonical import Row
from sft.evaluation.model_answers import score_references
from sft.evaluation.rows import EvalRow, prepare_rows
from sft.metrics.comparison import PairedFigures, PairedMetric, compare_metrics
from sft.models.loaded import LoadedModel
from sft.runs.run import Run

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
