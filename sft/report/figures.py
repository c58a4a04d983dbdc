"""The rows of the tables that terminal, page and summary show: plain values, names in English."""

from collections.abc import Mapping

from sft.evaluation.compare import SliceFigures
from sft.evaluation.figures import ModelFigures
from sft.evaluation.flow import CleanFigures, Metrics
from sft.metrics.comparison import PairedFigures

HEADLINE = ["metric", "base", "tuned", "difference", "95 % interval", "fixed", "broken", "finding"]
SLICE = ["slice", "rows", "metric", "base", "tuned", "difference", "fixed", "broken"]
GENERATION_FIGURES = {
    "empty_rate": "empty answers",
    "unfinished_rate": "unfinished answers",
    "unparseable_rate": "unparseable answers",
    "avg_pred_len_tokens": "answer length, tokens",
    "len_ratio_pred_over_ref": "answer / reference length",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}
Table = tuple[list[str], list[list[object]]]


def side_names(metrics: Metrics) -> list[str]:
    """Names of the columns: ["base", "tuned"], ["baseline", "this run"] or ["tuned"]."""
    if "base" not in metrics:
        return ["tuned"]
    baseline = metrics["run"]["baseline"]
    return ["base", "tuned"] if baseline is None or baseline["kind"] == "base" else ["baseline", "this run"]


def sides(metrics: Metrics) -> list[ModelFigures]:
    """The figures of each column, in the order of side_names."""
    return [metrics["base"], metrics] if "base" in metrics else [metrics]


def headline_table(metrics: Metrics, part: CleanFigures | None = None) -> Table:
    """The headline figures, of all rows or of a part; without a baseline only the tuned ones.

    (["metric", "base", ...], [["sentiment accuracy", 0.52, 0.91, "+0.3900", "[+0.3100, +0.4700]", 60, 2, "better"]])
    """
    figures = part or metrics
    comparison = figures.get("comparison")
    if comparison is None:
        return ["metric", "tuned"], [[name, value] for name, value in _single_figures(figures).items()]
    header = [HEADLINE[0], *side_names(metrics), *HEADLINE[3:]]
    return header, [_paired_row(name, figure) for name, figure in comparison["metrics"].items()]


def answers_table(metrics: Metrics) -> Table:
    """Perplexity and what the generated answers look like."""
    columns = sides(metrics)
    rows: list[list[object]] = [
        ["perplexity", *(side["teacher_forcing"]["perplexity"] for side in columns)],
        ["bits per byte", *(side["teacher_forcing"]["bits_per_byte"] for side in columns)],
    ]
    for key, name in GENERATION_FIGURES.items():
        rows.append([name, *(side["generation"][key] for side in columns)])  # type: ignore[literal-required]
    for rouge_type in ("rouge1", "rouge2", "rougeL"):
        if "rouge" in metrics["generation"]:
            rows.append([rouge_type, *(side["generation"]["rouge"][rouge_type] for side in columns)])
    return ["answers", *side_names(metrics)], rows


def loss_table(metrics: Metrics, kind: str) -> Table:
    """Loss, perplexity and bits per byte of each slice; kind: "by_source", "by_task", "by_length" or "by_language"."""
    groups = [side["teacher_forcing"][kind] for side in sides(metrics)]  # type: ignore[literal-required]
    header = ["slice", "rows", "tokens"]
    header += [f"{what}, {name}" for what in ("loss", "bits per byte") for name in side_names(metrics)]
    rows: list[list[object]] = []
    for name, figures in groups[-1].items():
        found = [group[name] for group in groups]
        row = [name, figures["num_rows"], figures["supervised_tokens"]]
        rows.append([*row, *(one["eval_loss"] for one in found), *(one["bits_per_byte"] for one in found)])
    return header, rows


def slice_table(metrics: Metrics, kind: str) -> Table:
    """Headline figures of each slice of a kind (source, task, length, language); no rows where there is only one."""
    comparison = metrics.get("comparison")
    header = [*SLICE[:3], *side_names(metrics), *SLICE[5:]]
    slices: Mapping[str, Mapping[str, SliceFigures]] = comparison["slices"].get(kind, {}) if comparison else {}
    rows: list[list[object]] = [
        [name, figure["num_rows"], metric, figure["base"], figure["tuned"], f"{figure['difference']:+.4f}",
         figure["rows_fixed"], figure["rows_broken"]]
        for name, figures in slices.items()
        for metric, figure in figures.items()
    ]  # fmt: skip
    return header, rows


def leak_sentence(metrics: Metrics) -> tuple[str, str]:
    """What the leak check found, in English and Chinese."""
    leaks = metrics["leaks"]
    if not leaks["checked"]:
        return (
            "Leaks from the training data were not looked for (--no-leak_check).",
            "未检查训练数据泄漏（--no-leak_check）。",
        )
    training = f"{leaks['training_rows']:,}"
    if not leaks["exact"] and not leaks["near"]:
        return (
            f"None of the rows stands in the {training} training rows, exactly or nearly.",
            f"{training} 条训练数据中没有与评测行相同或近似的文本。",
        )
    return (
        f"Of the rows, {leaks['exact']:,} stand in the {training} training rows and {leaks['near']:,} nearly so "
        f"({leaks['share']:.1%}).",
        f"有 {leaks['exact']:,} 行与 {training} 条训练数据中的文本相同，"
        f"{leaks['near']:,} 行近似（{leaks['share']:.1%}）。",
    )


def _paired_row(name: str, figure: PairedFigures) -> list[object]:
    return [
        name,
        figure["base"],
        figure["tuned"],
        f"{figure['difference']:+.4f}",
        f"[{figure['low']:+.4f}, {figure['high']:+.4f}]",
        figure["rows_fixed"],
        figure["rows_broken"],
        figure["finding"],
    ]


def _single_figures(metrics: ModelFigures) -> dict[str, float]:
    """The headline figures of the tuned model, under the names the comparison uses."""
    figures = {"eval_loss": metrics["teacher_forcing"]["eval_loss"]}
    if "classification" in metrics:
        for task, found in metrics["classification"]["by_task"].items():
            figures[f"{task} accuracy"] = found["label_scoring"]["accuracy"]
            figures[f"{task} accuracy (generated)"] = found["generation"]["accuracy"]
    if "ner" in metrics:
        figures["ner f1"] = metrics["ner"]["f1"]
    if "rouge" in metrics["generation"]:
        figures["rougeL"] = metrics["generation"]["rouge"]["rougeL"]
    return figures
