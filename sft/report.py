"""An evaluation for people: a table for the terminal, and report.html, one file that needs nothing from outside.

print(render_table(evaluation.metrics))
write_report(evaluation, run.evaluation_dir / "report.html")
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from sft.console import make_visible, table
from sft.evaluation.flow import Evaluation, Metrics, Prediction
from sft.metrics.classification import ConfusionMatrix
from sft.metrics.comparison import PairedFigures
from sft.runs import write_atomically

NUM_WORSE = 8  # rows shown whose answer got worst
NUM_PER_TASK = 4  # rows shown of every task, evenly spaced

GENERATION_FIGURES = {
    "empty_rate": "empty answers",
    "unfinished_rate": "unfinished answers",
    "unparseable_rate": "unparseable answers",
    "avg_pred_len_tokens": "answer length, tokens",
    "len_ratio_pred_over_ref": "answer / reference length",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}


def render_table(metrics: Metrics) -> str:
    """Headline figures with their intervals, what the answers look like, the ROUGE signature, the verdict."""
    parts = [_headline_table(metrics), _answers_table(metrics)]
    if rouge := metrics["generation"].get("rouge"):
        parts.append(f"ROUGE {rouge['signature']}, {rouge['num_rows']:,} rows ({', '.join(rouge['tasks'])})")
    if comparison := metrics.get("comparison"):
        parts.append(make_visible(comparison["verdict"]))
    return "\n\n".join(parts)


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write report.html: verdict, tables, confusion matrices and examples, readable in light and dark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_report(evaluation))


def headline_rows(metrics: Metrics) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the headline table; without a baseline only the tuned figures.

    (["metric", "base", ...], [["sentiment accuracy", 0.52, 0.91, "+0.3900", "[+0.3100, +0.4700]", 60, 2, "better"]])
    """
    comparison = metrics.get("comparison")
    if comparison is None:
        return ["metric", "tuned"], [[name, value] for name, value in _single_figures(metrics).items()]
    header = ["metric", "base", "tuned", "difference", "95 % interval", "fixed", "broken", "finding"]
    return header, [_paired_row(name, figure) for name, figure in comparison["metrics"].items()]


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


def _single_figures(metrics: Metrics) -> dict[str, float]:
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


def _headline_table(metrics: Metrics) -> str:
    header, rows = headline_rows(metrics)
    return table(rows, header=header)


def answer_rows_of(metrics: Metrics) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the second table: perplexity and what the generated answers look like."""
    base = metrics.get("base")
    sides = [side for side in (base, metrics) if side is not None]
    rows: list[list[object]] = [
        ["perplexity", *(side["teacher_forcing"]["perplexity"] for side in sides)],
        ["bits per byte", *(side["teacher_forcing"]["bits_per_byte"] for side in sides)],
    ]
    for key, name in GENERATION_FIGURES.items():
        rows.append([name, *(side["generation"][key] for side in sides)])  # type: ignore[literal-required]
    for rouge_type in ("rouge1", "rouge2", "rougeL"):
        if "rouge" in metrics["generation"]:
            rows.append([rouge_type, *(side["generation"]["rouge"][rouge_type] for side in sides)])
    return ["answers", *(["base"] if base is not None else []), "tuned"], rows


def _answers_table(metrics: Metrics) -> str:
    header, rows = answer_rows_of(metrics)
    return table(rows, header=header)


def render_report(evaluation: Evaluation) -> str:
    """The whole page as HTML text."""
    metrics = evaluation.metrics
    stats, run = metrics["data_stats"], metrics["run"]
    comparison = metrics.get("comparison")
    verdict = comparison["verdict"] if comparison else "Measured without a baseline (--no-baseline)."
    outcome = comparison["outcome"] if comparison else "unclear"
    sections = [
        f'<p class="verdict {outcome}">{_text(verdict)}</p>',
        f"<p>Run <b>{_text(run['name'])}</b>, tuned from {_text(', '.join(run['base_model'].values()))}. "
        f"{stats['eval_size']:,} rows of the {stats['split']} split of {_text(stats['data'])}; "
        f"{stats['truncation_rate']:.1%} shortened, {stats['dropped_too_long']:,} left out as too long.</p>",
        _html_table("Headline", *headline_rows(metrics)),
        "<p>Intervals: paired bootstrap, 95 %. Findings: McNemar or permutation test, Holm-adjusted over the table. "
        "Fixed and broken count the rows that the tuned model answers better and worse.</p>"
        if comparison
        else "",
        _html_table("Answers", *answer_rows_of(metrics)),
        *_loss_tables(metrics),
        *_task_tables(metrics),
        _html_table("Rows that got worse", *_example_rows(_worst(evaluation.predictions))) if comparison else "",
        _html_table("Examples", *_example_rows(_spread(evaluation.predictions))),
        _html_table("Measured with", ["what", "value"], _provenance_rows(metrics)),
    ]
    return PAGE.format(title=_text(f"Evaluation of {run['name']}"), body="\n".join(filter(None, sections)))


def _provenance_rows(metrics: Metrics) -> list[list[object]]:
    run, rouge = metrics["run"], metrics["generation"].get("rouge")
    limits = ", ".join(f"{limit} tokens ({task})" for task, limit in run["max_new_tokens"].items())
    return [
        ["answers", f"{run['decoding']}, at most {limits}"],
        ["ROUGE", rouge["signature"] if rouge else "not asked for"],
        ["data, sha256", metrics["data_stats"]["sha256"]],
        ["prompt fingerprint", run["fingerprint"]],
        ["seed", str(run["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())],
        ["git revision", run["git_revision"]],
    ]


def _loss_tables(metrics: Metrics) -> Iterable[str]:
    base = metrics.get("base")
    for title, key in (("Loss by source", "by_source"), ("Loss by task", "by_task")):
        rows: list[list[object]] = []
        for name, figure in metrics["teacher_forcing"][key].items():  # type: ignore[literal-required]
            before = base["teacher_forcing"][key][name]["eval_loss"] if base is not None else None  # type: ignore[literal-required]
            rows.append([name, figure["num_rows"], figure["supervised_tokens"], before, figure["eval_loss"]])
        yield _html_table(title, ["", "rows", "tokens", "base", "tuned"], rows)


def _task_tables(metrics: Metrics) -> Iterable[str]:
    if "classification" in metrics:
        for task, found in metrics["classification"]["by_task"].items():
            for way, figures in (("label scoring", found["label_scoring"]), ("generated", found["generation"])):
                rows = [[name, *one.values()] for name, one in figures["per_class"].items()]
                yield _html_table(f"{task}, {way}", ["class", "precision", "recall", "F1", "rows"], rows)
                yield _confusion_table(figures["confusion_matrix"])
    if "ner" in metrics:
        rows = [[name, *one.values()] for name, one in [("all", metrics["ner"]), *metrics["ner"]["by_type"].items()]]
        columns = ["type", "precision", "recall", "F1", "found", "predicted", "in the reference"]
        yield _html_table("Entities, strict", columns, [row[:7] for row in rows])


def _confusion_table(matrix: ConfusionMatrix) -> str:
    rows = [[name, *counts] for name, counts in zip(matrix["references"], matrix["counts"], strict=True)]
    return _html_table("", ["reference \\ answer", *matrix["predictions"]], rows)


def _worst(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Rows whose reference lost most log-probability by tuning, worst first."""
    lost = [(row["nll"] - row.get("base_nll", row["nll"]), place) for place, row in enumerate(predictions)]
    return [predictions[place] for loss, place in sorted(lost, reverse=True)[:NUM_WORSE] if loss > 0]


def _spread(predictions: Sequence[Prediction]) -> list[Prediction]:
    """A few rows of every task, evenly spaced, whatever their result."""
    chosen: list[Prediction] = []
    for task in dict.fromkeys(row["task"] for row in predictions):
        rows = [row for row in predictions if row["task"] == task]
        chosen += rows[:: max(1, len(rows) // NUM_PER_TASK)][:NUM_PER_TASK]
    return chosen


def _example_rows(predictions: Sequence[Prediction]) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = [
        [row["id"], row["instruction"] + (f"\n{row['input']}" if row["input"] else ""), row["reference"],
         row.get("base_prediction"), row["prediction"]]
        for row in predictions
    ]  # fmt: skip
    return ["id", "question", "reference", "base", "tuned"], rows


def _html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    lines = ["".join(_cell(value) for value in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    heading = f"<h2>{_text(title)}</h2>\n" if title else ""
    return f'{heading}<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>'


def _cell(value: object) -> str:
    is_number = isinstance(value, int | float)
    shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
    return f"<td{' class=number' if is_number else ''}>{_text('-' if shown is None else str(shown))}</td>"


def _text(text: str) -> str:
    """Text of a model or a data file as harmless HTML."""
    return escape(make_visible(text))


# Doubled braces: the page is filled in with str.format.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #c0392b; --mixed: #9a6700; }}
@media (prefers-color-scheme: dark) {{ :root {{ --good: #4ac26b; --bad: #ff7b72; --mixed: #d4a72c; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }}
.verdict {{ font-size: 1.2rem; font-weight: 600; border-left: .3rem solid var(--line); padding-left: .8rem; }}
.helped {{ border-color: var(--good); }} .hurt {{ border-color: var(--bad); }} .mixed {{ border-color: var(--mixed); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere; min-width: 3rem; max-width: 28rem; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
