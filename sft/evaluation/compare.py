"""Base against tuned: the headline figures of both, how sure each difference is, and the verdict in two languages.

Reads the measurements of both models on the same rows; gives `comparison` and `verdict` of metrics.json.

A lower loss alone is no better answer: "helped" needs a figure of the answers themselves (accuracy, F1, ROUGE, ...)
that improved beyond chance, and none that worsened. Of fewer rows than FEWEST_UNITS the verdict is only that they are
too few: "no clear difference" beside 0.313 -> 1.000 would be as untrue as a proof.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, get_args

import numpy as np

from sft.evaluation.model_answers import Measured, Outcome, call_units, cluster_of, places_by
from sft.evaluation.rows import EvalRow, places_in_slices
from sft.evaluation.tool_calls import NAMES
from sft.metrics.comparison import (
    CONFIDENCE,
    FEWEST_UNITS,
    NUM_RESAMPLES,
    Finding,
    PairedFigures,
    PairedMetric,
    Sums,
    Values,
    compare_metrics,
    ratio,
)

Change = Literal["fixed", "broken"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)
Conclusion = Literal["helped", "hurt", "mixed", "loss_only", "unclear", "too_few"]
LOSSES = ("eval_loss", "bits per byte")  # probability of the references, not the quality of answers

# Longer names first: one may hold another.
CHINESE = {
    "accuracy (generated)": "准确率（自由生成）",
    "accuracy": "准确率",
    "eval_loss": "评测损失",
    "bits per byte": "每字节比特数",
    "calls valid": "调用可解析率",
    "calls right function": "调用函数正确率",
    "calls exact": "调用完全正确率",
    "calls arguments f1": "调用参数 F1",
    "no-call accuracy": "不调用的准确率",
    " rows, ": " 条，",
    " of them distinct": " 条互不相同",
    " rows": " 条",
    ", ": "，",
}


class SliceFigures(TypedDict):
    """One headline figure on part of the rows; no test is made: among this many, some differ by chance."""

    base: float
    tuned: float
    difference: float
    num_rows: int
    rows_fixed: int
    rows_broken: int


class Comparison(TypedDict):
    """All headline figures, with the findings after correction over all of them.

    slices: kind -> slice -> figure: {"language": {"zh": {"sentiment accuracy": {...}}}}; kinds with one slice are left
    out.
    """

    outcome: Conclusion
    verdict: str
    verdict_zh: str
    metrics: dict[str, PairedFigures]
    slices: dict[str, dict[str, dict[str, SliceFigures]]]
    confidence: float
    num_resamples: int
    seed: int
    adjustment: Literal["holm"]


@dataclass(frozen=True)
class Headline:
    """One figure of the family and its rows: `metric` has one entry per index in `places`."""

    metric: PairedMetric
    places: list[int]


def compare_models(
    rows: Sequence[EvalRow],
    base: Measured,
    tuned: Measured,
    *,
    seed: int,
    num_bytes: Sequence[int] | None = None,
    against: tuple[str, str] | None = None,
) -> Comparison:
    """Compare the two on every headline figure the rows allow.

    eval_loss over all rows (where classes are chosen, of the right one among the row's); per label task
    `<task> accuracy` by label scoring or head, the fair headline (no model can lose it by talking around), and where
    answers were written `<task> accuracy (generated)`; `ner f1`; of rows with tools those of their calls; `rougeL`.
    num_bytes: of each row's supervised text, where the two have different tokenizers; bits per byte then takes the
    place of eval_loss, because their tokens differ. against: see judge.
    """
    headlines = headline_metrics(rows, base, tuned, num_bytes)
    found = compare_metrics([headline.metric for headline in headlines], seed=seed)
    outcome, verdict = judge(found, len(rows), against, of_documents=all(row.is_document for row in rows))
    return {
        "outcome": outcome,
        "verdict": verdict["en"],
        "verdict_zh": verdict["zh"],
        "metrics": found,
        "slices": _compare_slices(rows, headlines),
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "seed": seed,
        "adjustment": "holm",
    }


def changes_of_rows(headlines: Sequence[Headline], num_rows: int) -> list[dict[str, Change]]:
    """The figures that the tuned model improves or worsens, row by row: [{"sentiment accuracy": "fixed"}, {}]; losses
    aside."""
    changes: list[dict[str, Change]] = [{} for _ in range(num_rows)]
    for headline in headlines:
        if headline.metric.name in LOSSES:
            continue
        for place, gain in zip(headline.places, headline.metric.row_gains(), strict=True):
            if gain:
                changes[place][headline.metric.name] = "fixed" if gain > 0 else "broken"
    return changes


def _compare_slices(
    rows: Sequence[EvalRow], headlines: Sequence[Headline]
) -> dict[str, dict[str, dict[str, SliceFigures]]]:
    found: dict[str, dict[str, dict[str, SliceFigures]]] = {}
    for kind, slices in places_in_slices(rows).items():
        if len(slices) < 2:
            continue
        found[kind] = {name: {} for name in slices}
        for name, places in slices.items():
            inside = set(places)
            for headline in headlines:
                lines = [line for line, place in enumerate(headline.places) if place in inside]
                if lines:
                    found[kind][name][headline.metric.name] = _summarise_slice(headline.metric, lines)
    return found


def _summarise_slice(metric: PairedMetric, lines: list[int]) -> SliceFigures:
    base, tuned = (float(ratio(side[lines].sum(0))) for side in (metric.base, metric.tuned))
    gains = metric.row_gains()[lines]
    return {
        "base": base,
        "tuned": tuned,
        "difference": tuned - base,
        "num_rows": len(lines),
        "rows_fixed": int((gains > 0).sum()),
        "rows_broken": int((gains < 0).sum()),
    }


def headline_metrics(
    rows: Sequence[EvalRow], base: Measured, tuned: Measured, num_bytes: Sequence[int] | None = None
) -> list[Headline]:
    """The family: every figure that decides whether one model is better than the other, see compare_models."""
    headlines = [Headline(_pair_losses(base, tuned, num_bytes), list(range(len(rows))))]
    for task, places in places_by(rows, lambda row: row.task.name).items():
        if rows[places[0]].labels:
            ways = ("scored", "generated") if tuned.answers.chosen_by is None else ("scored",)
            pairs = [_pair_labels(task, places, base, tuned, way) for way in ways]
            headlines += [Headline(pair, places) for pair in pairs]
    with_entities = [place for place, outcome in enumerate(tuned.outcomes) if outcome.entities]
    if with_entities:
        sums, scores = zip(entity_sums(base.outcomes), entity_sums(tuned.outcomes), strict=True)
        pair = PairedMetric("ner f1", *sums, higher_is_better=True, row_scores=scores)
        headlines.append(Headline(pair, with_entities))
    for figure, name in NAMES.items():
        called = [call_units(figure, side.outcomes) for side in (base, tuned)]
        if places := called[0][0]:
            (_, sums_base, scores_base), (_, sums_tuned, scores_tuned) = called
            is_share = figure != "arguments_f1"
            pair = PairedMetric(name, sums_base, sums_tuned, higher_is_better=True, is_right_or_wrong=is_share,
                                row_scores=(scores_base, scores_tuned))  # fmt: skip
            headlines.append(Headline(pair, places))
    if tuned.rouge is not None and base.rouge is not None:
        with_rouge = [place for place, value in enumerate(tuned.rouge["rougeL"]) if value is not None]
        values = (_values(base.rouge["rougeL"]), _values(tuned.rouge["rougeL"]))
        headlines.append(Headline(PairedMetric("rougeL", *values, higher_is_better=True), with_rouge))
    clusters = [cluster_of(row) for row in rows]  # asking the same text twice adds no information
    return [
        replace(headline, metric=replace(headline.metric, groups=[clusters[place] for place in headline.places]))
        for headline in headlines
    ]


def _pair_labels(task: str, places: Sequence[int], base: Measured, tuned: Measured, way: str) -> PairedMetric:
    name = f"{task} accuracy" if way == "scored" else f"{task} accuracy (generated)"
    hits = [hits_of([side.outcomes[place] for place in places], way) for side in (base, tuned)]
    return PairedMetric(name, hits[0], hits[1], higher_is_better=True, is_right_or_wrong=True)


def _pair_losses(base: Measured, tuned: Measured, num_bytes: Sequence[int] | None) -> PairedMetric:
    """(N, 2): nll in nats and tokens; or bits and bytes."""
    sides = []
    for side in (base, tuned):
        nll = np.array(side.answers.nll, dtype=np.float64)
        scale, sizes = (1.0, side.answers.num_tokens) if num_bytes is None else (math.log(2), num_bytes)
        sides.append(np.stack([nll / scale, np.array(sizes, dtype=np.float64)], axis=1))
    return PairedMetric(LOSSES[num_bytes is not None], sides[0], sides[1], higher_is_better=False, is_bounded=False)


def hits_of(outcomes: Sequence[Outcome], way: str) -> Sums:
    """(N, 2): 1 where the class is right, 1."""
    classes = [outcome.scored if way == "scored" else outcome.generated for outcome in outcomes]
    return np.array(
        [[float(found == outcome.reference), 1.0] for found, outcome in zip(classes, outcomes, strict=True)]
    )


def entity_sums(outcomes: Sequence[Outcome]) -> tuple[Sums, Values]:
    """(N, 2): twice the found, and predicted plus gold, whose ratio is F1; (N,): each row's own score."""
    counts = [outcome.entities for outcome in outcomes if outcome.entities]
    totals = np.array([count.totals for count in counts], dtype=np.float64)  # (N, 3): found, predicted, gold
    sums = np.stack([2 * totals[:, 0], totals[:, 1] + totals[:, 2]], axis=1)
    return sums, np.array([count.row_f1 for count in counts])


def _values(values: Sequence[float | None]) -> Sums:
    """(N, 2): value, 1; rows without one are left out, the same rows on both sides."""
    return np.array([[value, 1.0] for value in values if value is not None])


class Verdict(TypedDict):
    """One sentence in each language."""

    en: str
    zh: str


def judge(
    metrics: Mapping[str, PairedFigures],
    num_rows: int,
    against: tuple[str, str] | None = None,
    *,
    of_documents: bool = False,
) -> tuple[Conclusion, Verdict]:
    """The verdict from the findings that hold after Holm's adjustment.

    against: names of the run and of what it is compared with, where that is not the model it was tuned from.
    of_documents: all rows are documents, of which the loss is all there is.
    ("helped", {"en": "Tuning helped: sentiment accuracy 0.520 -> 0.910; nothing got worse (240 rows).", "zh": ...})
    """
    found = {word: [name for name, figure in metrics.items() if figure["finding"] == word] for word in FINDINGS}
    better, worse, unclear = (_list_changes(metrics, found[word]) for word in ("better", "worse", "unclear"))
    too_few = _list_changes(metrics, found["too_few"], counted=True)
    zh_better, zh_worse, zh_unclear, zh_too_few = map(_in_chinese, (better, worse, unclear, too_few))
    answers_better = [name for name in found["better"] if name not in LOSSES]
    en_few, zh_few = (
        (f"; too few rows to tell: {too_few}", f"；数据太少，无法判断：{zh_too_few}") if too_few else ("", "")
    )
    en_undecided = (f"; no clear difference in {unclear}" if unclear else "") + en_few
    zh_undecided = (f"；{zh_unclear} 没有明显差别" if unclear else "") + zh_few
    rows_en, rows_zh = f" ({num_rows:,} rows).", f"（{num_rows:,} 条）。"
    if against is None:
        words = {"helped": ("Tuning helped", "微调有效"), "hurt": ("Tuning hurt", "微调有害")}
        part = ("Tuning helped in part", "微调部分有效")
        theirs, ours = "base", "tuned"
        pair_zh = "微调前后"
    else:
        ours, theirs = against
        words = {
            "helped": (f"{ours} is better than {theirs}", f"{ours} 优于 {theirs}"),
            "hurt": (f"{ours} is worse than {theirs}", f"{ours} 劣于 {theirs}"),
        }
        part = (f"{ours} is better than {theirs} in part", f"{ours} 部分优于 {theirs}")
        pair_zh = f"{theirs} 与 {ours} "
    outcome: Conclusion
    if better and worse:
        outcome = "mixed"
        en = f"{part[0]}: better {better}; worse {worse}{en_undecided}{rows_en}"
        zh = f"{part[1]}：变好 {zh_better}；变差 {zh_worse}{zh_undecided}{rows_zh}"
    elif answers_better:
        outcome = "helped"
        en = f"{words['helped'][0]}: {better}{en_undecided or '; nothing got worse'}{rows_en}"
        zh = f"{words['helped'][1]}：{zh_better}{zh_undecided or '；没有变差的指标'}{rows_zh}"
    elif better and of_documents:
        outcome = "loss_only"
        en, zh = f"The documents became likelier ({better}){rows_en}", f"文档的概率提高了（{zh_better}）{rows_zh}"
    elif better:
        outcome = "loss_only"
        en, zh = _say_loss_only(better, unclear, en_few, zh_few)
        en, zh = en + rows_en, zh + rows_zh
    elif worse:
        outcome = "hurt"
        en = f"{words['hurt'][0]}: {worse}{en_undecided}{rows_en}"
        zh = f"{words['hurt'][1]}：{zh_worse}{zh_undecided}{rows_zh}"
    elif unclear:
        outcome = "unclear"
        en = f"No clear difference between {theirs} and {ours}: {unclear}{en_few}{rows_en}"
        zh = f"{pair_zh}没有明显差别：{zh_unclear}{zh_few}{rows_zh}"
    else:
        outcome = "too_few"
        advice = f"Score {FEWEST_UNITS} or more per task (train.py --eval_ratio, or --data with other rows)."
        advice_zh = f"每个任务请至少评测 {FEWEST_UNITS} 条（train.py --eval_ratio，或用 --data 给出其他数据）。"
        en = f"Too few rows to tell {theirs} and {ours} apart: {too_few}. {advice}"
        zh = f"数据太少，无法判断{pair_zh}的差别：{zh_too_few}。{advice_zh}"
    return outcome, {"en": en, "zh": zh}


def _say_loss_only(better: str, unclear: str, en_few: str, zh_few: str) -> tuple[str, str]:
    """The references became likelier, and that is all that is known."""
    en, zh = f"The reference answers became likelier ({better})", f"参考答案的概率提高了（{_in_chinese(better)}）"
    if unclear:
        return (
            f"{en}, but what the model writes did not get clearly better: no clear difference in {unclear}{en_few}",
            f"{zh}，但模型写出的答案没有明显变好：{_in_chinese(unclear)} 没有明显差别{zh_few}",
        )
    if en_few:
        return f"{en}{en_few}", f"{zh}{zh_few}"
    return (
        f"{en}; whether what the model writes got better was not measured (--rouge measures text)",
        f"{zh}；模型写出的答案是否变好没有测量（文本可用 --rouge 测量）",
    )


def _in_chinese(changes: str) -> str:
    """`sentiment accuracy 0.520 -> 0.910, ...` -> `sentiment 准确率 0.520 -> 0.910，...`."""
    for english, chinese in CHINESE.items():
        changes = changes.replace(english, chinese)
    return changes


def _list_changes(metrics: Mapping[str, PairedFigures], names: list[str], *, counted: bool = False) -> str:
    """`ner f1 0.010 -> 0.450, eval_loss 1.200 -> 0.800`, "" if there is none; counted: each with its rows."""
    return ", ".join(
        f"{name} {metrics[name]['base']:.3f} -> {metrics[name]['tuned']:.3f}"
        + (f" ({_count_rows(metrics[name])})" if counted else "")
        for name in names
    )


def _count_rows(figure: PairedFigures) -> str:
    """`20 rows`, or `40 rows, 12 of them distinct` where several ask the same."""
    rows, units = figure["num_rows"], figure["num_groups"]
    return f"{rows:,} rows" + (f", {units:,} of them distinct" if units < rows else "")
