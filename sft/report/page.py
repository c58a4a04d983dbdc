"""report.html: outcome and cards first, then the run, curves, tables, slices and examples; no reference, no script.

Both languages are in it; two radio buttons in front of everything choose, by CSS alone. What is shown is gathered
here, how it looks is in templates/report.html.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sft.evaluation.flow import CleanFigures, Evaluation, Metrics
from sft.evaluation.predictions import Prediction
from sft.metrics.classification import ClassificationFigures
from sft.metrics.entities import EntityFigures
from sft.pages import render
from sft.report import plots
from sft.report.figures import (
    FINDING_WORDS,
    SHOWN,
    YARDSTICKS,
    Table,
    answers_of,
    answers_table,
    calibration_table,
    changed_rows,
    chosen_sentence,
    hard_case_table,
    has_head,
    headline_table,
    histories_of,
    improvement_tables,
    leak_sentence,
    loss_table,
    random_rows,
    robustness_table,
    shorten,
    side_names,
    sides,
    signatures,
    slice_table,
    tool_table,
    worse_cells,
    worst_rows,
    yardstick_sentence,
    yardstick_table,
)
from sft.report.words import NOTES, Language, both, both_sentences, english_and_chinese, translate

# The report's first screen: a card for each headline figure, and facts about the run

ROOM = 0.92  # share of half a bar that the farthest end of an interval takes
SPLITS_ZH = {"validation": "验证部分", "test": "测试部分"}
FACTS_ZH = {  # of method and hardware, as describe_training writes them
    r",? last (\d+) layers": r"，最后 \1 层", r"^，": "", r" \(4 bits\)": "（4 比特）", "all weights": "全部权重",
    ", classification head": "，分类头", r", (\d+) threads?": r"，\1 线程",
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """An interval of a difference as a bar, in percent of its width: 50 is no difference, beyond it is better."""

    left: float
    width: float
    dot: float


@dataclass(frozen=True)
class Card:
    """One headline figure; without a baseline it has no base, no difference and no finding."""

    name: str
    tuned: float
    base: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    finding: str = ""
    fixed: int | None = None
    broken: int | None = None
    span: Span | None = None
    yardsticks: list[tuple[str, float, str]] = field(default_factory=list)  # name, its figure, tuned beside it

    @property
    def word(self) -> str:
        """The finding in words."""
        return FINDING_WORDS.get(self.finding, self.finding)


def make_cards(metrics: Metrics) -> list[Card]:
    """A card for each headline figure, those of answers before the loss."""
    yardsticks: dict[str, list[tuple[str, float, str]]] = {}
    for by_kind in metrics.get("yardsticks", {"by_task": {}})["by_task"].values():
        for kind, one in by_kind.items():
            found = one["comparison"]["finding"]
            yardsticks.setdefault(one["figure"], []).append((YARDSTICKS[kind], one["value"], found))
    comparison = metrics.get("comparison")
    if comparison is None:
        cards = [
            Card(str(name), float(str(value)), interval=str(interval), yardsticks=yardsticks.get(str(name), []))
            for name, value, interval in headline_table(metrics)[1]
        ]
    else:
        cards = [
            Card(
                name=name,
                tuned=one["tuned"],
                base=one["base"],
                difference=one["difference"],
                low=one["low"],
                high=one["high"],
                finding=one["finding"],
                fixed=one["rows_fixed"],
                broken=one["rows_broken"],
                span=_span(one["difference"], one["low"], one["high"], 1 if one["higher_is_better"] else -1),
                yardsticks=yardsticks.get(name, []),
            )
            for name, one in comparison["metrics"].items()
        ]
    return sorted(cards, key=lambda card: card.name in ("eval_loss", "bits_per_byte"))


def _span(difference: float, low: float | None, high: float | None, sign: int) -> Span | None:
    if low is None or high is None:
        return None
    scale = max(abs(low), abs(high), abs(difference)) or 1.0
    left, right = sorted(50 + 50 * ROOM * sign * end / scale for end in (low, high))
    return Span(left, right - left, 50 + 50 * ROOM * sign * difference / scale)


def list_facts(metrics: Metrics) -> list[tuple[str, object]]:
    """Model, data and length of the training, and the evaluated rows: [("model", "SmolLM2-135M-Instruct"), ...]."""
    stats, run = metrics["data_stats"], metrics["run"]
    facts: list[tuple[str, object]] = [("model", run["base_model"].get("name", ""))]
    if trained := run.get("training"):
        facts = [
            ("model", trained["model"]),
            ("method", _fact(trained["method"])),
            ("training data", english_and_chinese(*_count(trained["data"], trained["rows"]))),
            ("length of training", _length(trained["epochs"], trained["steps"])),
            ("learning rate", f"{trained['learning_rate']:g}"),
            ("rows per step", f"{trained['rows_per_step']:,}"),
        ]
        if trained["hardware"]:
            facts.append(("hardware", _fact(trained["hardware"])))
        if trained["duration_s"] is not None:
            minutes = f"{trained['duration_s'] / 60:,.1f}"
            facts.append(("training time", english_and_chinese(f"{minutes} minutes", f"{minutes} 分钟")))
        if trained["peak_gb"] is not None:
            facts.append(("peak memory", f"{trained['peak_gb']:g} GB"))
    baseline = run["baseline"]
    if baseline and baseline["kind"] != "base":
        facts.append(("compared with", baseline["name"]))
    count_en, count_zh = _count(stats["data"], stats["eval_size"])
    if stats["num_answers"] > stats["eval_size"]:
        count_en += f" ({stats['num_answers']:,} answers)"
        count_zh += f"（{stats['num_answers']:,} 个回答）"
    facts.append(
        (
            "scored on",
            english_and_chinese(
                f"{count_en}, {stats['split']} split", f"{count_zh}，{SPLITS_ZH.get(stats['split'], stats['split'])}"
            ),
        )
    )
    if stats["truncation_rate"]:
        facts.append(("shortened rows", f"{stats['truncation_rate']:.1%}"))
    if stats["dropped_too_long"]:
        facts.append(("too long, left out", f"{stats['dropped_too_long']:,}"))
    return facts


def _fact(english: str) -> object:
    """`LoRA r 16, last 10 layers` in both languages: `LoRA r 16，最后 10 层`."""
    chinese = english
    for pattern, replacement in FACTS_ZH.items():
        chinese = re.sub(pattern, replacement, chinese)
    return english_and_chinese(english, chinese) if chinese != english else english


def _count(data: str, rows: int) -> tuple[str, str]:
    return f"{rows:,} rows of {data}", f"{data}，{rows:,} 条"


def _length(epochs: float | None, steps: int) -> object:
    if epochs is None:
        return english_and_chinese(f"{steps:,} steps", f"{steps:,} 步")
    return english_and_chinese(f"{epochs:.3g} epochs, {steps:,} steps", f"{epochs:.3g} 轮，{steps:,} 步")


KINDS = {"source": "by source", "task": "by task", "length": "by length in tokens", "language": "by language"}
WAYS = {"classification head": "head", "label scoring": "label_scoring", "generated": "generation"}
Words = tuple[str, str]  # English and Chinese


def render_report(evaluation: Evaluation, language: Language = "en") -> str:
    """The whole page as HTML text; `language` is the one it opens in."""
    metrics, predictions = evaluation.metrics, evaluation.predictions
    comparison = metrics.get("comparison")
    verdict, basis = (
        split_verdict(comparison["verdict"], comparison["verdict_zh"]) if comparison else (UNCOMPARED, ("", ""))
    )
    histories = histories_of(predictions)
    clean = metrics.get("without_overlaps")
    return render(
        "report.html",
        title=f"Evaluation of {metrics['run']['name']}",
        language=language,
        run=metrics["run"],
        outcome=comparison["outcome"] if comparison else "unclear",
        verdict=verdict,
        basis=basis,
        lead=[words for words in (yardstick_sentence(metrics), chosen_sentence(metrics)) if all(words)],
        cards=make_cards(metrics),
        how_found=HOW_FOUND if comparison else ("Intervals: 95 %.", "区间：95%。"),
        facts=list_facts(metrics),
        curves=_draw_curves(evaluation),
        headline=headline_table(metrics),
        yardsticks=yardstick_table(metrics),
        yardstick_words=YARDSTICK_WORDS,
        labels=list(_list_labels(metrics)),
        entities=_entity_table(metrics),
        tool_calls=tool_table(metrics),
        answers=answers_table(metrics),
        lengths=_draw_lengths(metrics, predictions),
        calibration=calibration_table(metrics),
        reliability=_draw_reliability(metrics),
        robustness=robustness_table(metrics),
        hard_cases=hard_case_table(metrics),
        leaks=leak_sentence(metrics),
        clean=_describe_clean(metrics, clean) if clean else None,
        slices=list(_list_slices(metrics)),
        examples=_list_examples(predictions, metrics["run"]["seed"]),
        provenance=_provenance(metrics),
        both=both,
        either=both_sentences,
        translate=translate,
        notes=NOTES,
        worse_cells=lambda content: worse_cells(content, side_names(metrics)),
        shorten=lambda text: "".join(shorten(text)),
        history_of=lambda row: histories[row["id"], row.get("turn")],
        answers_of=answers_of,
    )


UNCOMPARED = ("Measured without a baseline (--no-baseline).", "没有与其他模型比较（--no-baseline）。")
HOW_FOUND = (
    "Each difference has a 95 % interval; right of the line is better. Better or worse requires an interval that "
    "excludes 0, a significant McNemar or permutation test (Holm-adjusted over all metrics) and 30 different rows.",
    "差值之后是 95% 区间，竖线右侧为变好。判为变好或变差要求区间不含 0，并通过 McNemar 检验或"
    "置换检验（对全部指标作 Holm 校正）；互不相同的数据少于 30 条时不下结论。",
)
YARDSTICK_WORDS = (
    "Simple methods, fitted on the run's training rows in seconds and scored on the same rows: a tuned model that does "
    "not beat them is not worth its cost.",
    "用同一份训练数据在几秒内拟合的简单方法，在同样的数据上评测：比不过它们的微调模型不值得使用。",
)


def split_verdict(english: str, chinese: str) -> tuple[Words, Words]:
    """The outcome in a few words, and what it rests on: "Tuning helped: accuracy ..." -> ("Tuning helped", ...), ...

    A verdict that has no colon, or one in the middle of a name, is shown whole.
    """
    head_en, _, rest_en = english.partition(": ")
    head_zh, _, rest_zh = chinese.partition("：")
    if not rest_en or not rest_zh or "(" in head_en:
        return (english, chinese), ("", "")
    return (head_en, head_zh), (rest_en, rest_zh)


def _describe_clean(metrics: Metrics, clean: CleanFigures) -> dict[str, object]:
    """The verdict and figures again, without the rows that occur in the training data."""
    words = [(clean["comparison"]["verdict"], clean["comparison"]["verdict_zh"])] if "comparison" in clean else []
    words += [found] if all(found := yardstick_sentence(metrics, clean)) else []
    return {"num_rows": clean["num_rows"], "lead": words, "headline": headline_table(metrics, clean)}


def _draw_curves(evaluation: Evaluation) -> list[plots.Plot]:
    """Curves of the loss and of all other figures of the validations."""
    curves: dict[str, list[plots.Point]] = {}
    for line in evaluation.training_log:
        for name, value in line.items():
            if name in ("loss", "eval_loss") or name.startswith("eval_"):
                curves.setdefault(name, []).append((float(line["step"]), float(value)))
    losses = plots.plot_losses(curves.pop("loss", []), curves.pop("eval_loss", []))
    return [plot for plot in (losses, plots.plot_figures(curves)) if plot]


def _draw_lengths(metrics: Metrics, predictions: Sequence[Prediction]) -> plots.BarPlot | None:
    if has_head(metrics):
        return None
    references = [row["reference_tokens"] for row in predictions]
    return plots.plot_lengths(references, [row["prediction_tokens"] for row in predictions])


def _draw_reliability(metrics: Metrics) -> list[plots.ReliabilityPlot]:
    found = metrics.get("calibration", {"by_task": {}})["by_task"]
    drawn = [
        plots.plot_reliability(
            [(one["confidence"], one["accuracy"], one["num_rows"]) for one in figures["reliability"]], task
        )
        for task, figures in found.items()
    ]
    return [plot for plot in drawn if plot]


def _list_labels(metrics: Metrics) -> Iterator[dict[str, object]]:
    """Confusion matrices side by side, gains and per-label figures, for each label task and way of choosing."""
    improvements = improvement_tables(metrics)
    for task, found in metrics.get("classification", {"by_task": {}})["by_task"].items():
        for way, key in WAYS.items():
            if key not in found:
                continue
            tuned: ClassificationFigures = found[key]  # type: ignore[literal-required]
            figures = dict(zip(side_names(metrics)[::-1], [tuned], strict=False))
            if "base" in metrics and (other := _of_base(metrics, task, key)):
                figures = dict(zip(side_names(metrics), [other, tuned], strict=True))
            yield {
                "task": task,
                "way": way,
                "matrices": [(name, one["confusion_matrix"]) for name, one in figures.items()],
                "improvement": improvements.pop(task, None) if key != "generation" else None,
                "per_class": _class_table(figures),
            }


def _of_base(metrics: Metrics, task: str, key: str) -> ClassificationFigures | None:
    """The baseline's figures of a task, by the same method or, if it generated nothing, by its own."""
    found = metrics["base"]["classification"]["by_task"][task]
    if key != "generation" and key not in found:
        key = "head" if "head" in found else "label_scoring"
    return found.get(key)  # type: ignore[return-value]


def _class_table(figures: dict[str, ClassificationFigures]) -> Table:
    header = ["class", "in the reference"]
    header += [f"{shown}, {name}" for shown in ("precision", "recall", "F1") for name in figures]
    *_, last = figures.values()
    rows: list[list[object]] = [
        [name, one["support"]]
        + [side["per_class"][name][key] for key in ("precision", "recall", "f1") for side in figures.values()]
        for name, one in last["per_class"].items()
    ]
    return header, rows


def _entity_table(metrics: Metrics) -> Table:
    """Entities of each type: F1 of both sides, and what it comes from."""
    names = side_names(metrics)
    header = ["type", "in the reference", *(f"F1, {name}" for name in names), "precision", "recall", "F1, partial"]
    if "ner" not in metrics:
        return [*header, "found", "predicted"], []
    columns = [side["ner"] for side in sides(metrics)]
    tuned = columns[-1]
    pairs: list[tuple[str, list[EntityFigures], float]] = [("all", [*columns], tuned["partial"]["f1"])]
    pairs += [
        (name, [side["by_type"][name] for side in columns], tuned["partial"]["by_type"][name]["f1"])
        for name in tuned["by_type"]
        if all(name in side["by_type"] for side in columns)
    ]
    rows: list[list[object]] = [
        [name, ones[-1]["support"], *(one["f1"] for one in ones), ones[-1]["precision"], ones[-1]["recall"], overlap,
         ones[-1]["found"], ones[-1]["predicted"]]
        for name, ones, overlap in pairs
    ]  # fmt: skip
    return [*header, "found", "predicted"], rows


def _list_slices(metrics: Metrics) -> Iterator[tuple[Markup, Table]]:
    for kind, title in KINDS.items():
        if (content := slice_table(metrics, kind))[1]:
            yield both(title), content
    for kind, title in KINDS.items():
        if len((content := loss_table(metrics, f"by_{kind}"))[1]) > 1:
            yield (
                english_and_chinese(f"Loss by slice, {title}", f"{translate('Loss by slice')}，{translate(title)}"),
                content,
            )


def _list_examples(predictions: Sequence[Prediction], seed: int) -> list[dict[str, object]]:
    lists = {
        "Rows that got worse": changed_rows(predictions, "broken"),
        "Rows that got better": changed_rows(predictions, "fixed"),
        "The worst rows": worst_rows(predictions),
        "Rows at random": random_rows(predictions, seed),
    }
    return [{"title": title, "rows": rows[:SHOWN], "total": len(rows)} for title, rows in lists.items() if rows]


def _provenance(metrics: Metrics) -> list[list[object]]:
    run = metrics["run"]
    limits = ", ".join(f"{limit} tokens ({task})" for task, limit in run["max_new_tokens"].items())
    written: list[list[object]] = [[name, signature] for name, signature in signatures(metrics).items()]
    answers = f"{run['decoding']} ({run['generator']}), at most {limits}" if limits else chosen_sentence(metrics)[0]
    return [
        ["base model", ", ".join(run["base_model"].values())],
        ["answers", answers],
        *written,
        ["Leaks", metrics["leaks"]["signature"]],
        ["data, sha256", metrics["data_stats"]["sha256"]],
        ["prompt fingerprint", run["fingerprint"]],
        ["seed", str(run["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())],
        ["git revision", run["git_revision"]],
    ]
