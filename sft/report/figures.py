"""The rows of the tables that terminal, page and summary show: plain values, names in English."""

import random
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from markupsafe import Markup

from sft.evaluation.companions import compare_labels, improvement_rows
from sft.evaluation.compare import SliceFigures
from sft.evaluation.figures import ModelFigures, chosen_figures
from sft.evaluation.flow import CleanFigures, Metrics
from sft.evaluation.predictions import Prediction
from sft.evaluation.tool_calls import NAMES
from sft.metrics.comparison import PairedFigures
from sft.pages import is_number
from sft.pages import text as as_text
from sft.report.words import translate
from sft.text import HAN, KANA

HEADLINE = ["metric", "base", "tuned", "difference", "95 % interval", "fixed", "broken", "finding", "detectable"]
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
TEXT_FIGURES = {"bleu": "BLEU (0-100)", "chrf": "chrF (0-100)", "exact_match": "exact match"}
CALIBRATION_FIGURES = {
    "ece": "ECE",
    "ece_floor": "ECE expected by chance",
    "brier": "Brier",
    "avg_confidence": "mean confidence",
    "share_above_high": "confidence above 0.9",
}
YARDSTICKS = {"majority": "majority class", "bag_of_words": "bag of words", "dictionary": "dictionary of entities"}
FINDING_WORDS = {"too_few": "too few rows"}
WIDEST_MATRIX = 10  # columns that a terminal and a comment on a pull request can show
WAYS = {"head": "classification head", "label_scoring": "label scoring"}
WAYS_ZH = {"head": "分类头", "label_scoring": "标签打分"}
LOWER_IS_BETTER = re.compile(r"loss|perplexity|bits per byte|empty|unfinished|unparseable|ECE|Brier")
HIGHER_IS_BETTER = re.compile(r"accuracy|precision|recall|\bf1\b|auc|rouge|BLEU|chrF|exact match", re.IGNORECASE)
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

    (["metric", "base", ...], [["sentiment accuracy", 0.52, 0.91, "+0.3900", "[+0.3100, +0.4700]", 60, ...]])
    """
    figures = part or metrics
    comparison = figures.get("comparison")
    if comparison is None:
        spans = figures["intervals"]
        return ["metric", "tuned", "95 % interval"], [
            [name, value, f"[{spans[name]['low']:.4f}, {spans[name]['high']:.4f}]" if name in spans else None]
            for name, value in _single_figures(figures).items()
        ]
    header = [HEADLINE[0], *side_names(metrics), *HEADLINE[3:]]
    return header, [_paired_row(name, figure) for name, figure in comparison["metrics"].items()]


def yardstick_table(metrics: Metrics, part: CleanFigures | None = None) -> Table:
    """The tuned model beside each yardstick, of all rows or of a part; no rows if none was fitted."""
    header = ["yardstick", "metric", "its figure", "95 % interval", side_names(metrics)[-1], "difference"]
    rows: list[list[object]] = []
    for yardsticks in (part or metrics).get("yardsticks", {"by_task": {}})["by_task"].values():
        for kind, one in yardsticks.items():
            _, _, tuned, difference, interval, _, _, finding, _ = _paired_row(kind, one["comparison"])
            own = f"[{one['low']:.4f}, {one['high']:.4f}]"
            rows.append([YARDSTICKS[kind], one["figure"], one["value"], own, tuned, difference, interval, finding])
    return [*header, "95 % interval", "finding"], rows


def yardstick_sentence(metrics: Metrics, part: CleanFigures | None = None) -> tuple[str, str]:
    """Whether the tuned model beats its yardsticks, in English and Chinese; empty without yardsticks."""
    group = (part or metrics).get("yardsticks")
    return (group["verdict"], group["verdict_zh"]) if group else ("", "")


def answers_table(metrics: Metrics) -> Table:
    """Perplexity and figures of the generated answers; no rows if classes were chosen instead."""
    columns = sides(metrics)
    if "generation" not in metrics:
        return ["answers", *side_names(metrics)], []
    rows: list[list[object]] = [
        ["perplexity", *(side["teacher_forcing"]["perplexity"] for side in columns)],
        ["bits per byte", *(side["teacher_forcing"]["bits_per_byte"] for side in columns)],
    ]
    for key, name in GENERATION_FIGURES.items():
        rows.append([name, *(side["generation"][key] for side in columns)])  # type: ignore[literal-required]
    for rouge_type in ("rouge1", "rouge2", "rougeL"):
        if "rouge" in metrics["generation"]:
            rows.append([rouge_type, *(side["generation"]["rouge"][rouge_type] for side in columns)])
    for key, name in TEXT_FIGURES.items() if "text" in metrics["generation"] else ():
        rows.append([name, *(side["generation"]["text"][key] for side in columns)])  # type: ignore[literal-required]
    for metric, found in metrics["generation"].get("other", {}).items():
        for name in found["figures"]:
            label = metric if name == metric else f"{metric} {name}"
            rows.append([label, *(side["generation"]["other"][metric]["figures"].get(name) for side in columns)])
    return ["answers", *side_names(metrics)], rows


def tool_table(metrics: Metrics) -> Table:
    """Scores of tool calls, over rows that call and rows that do not; no rows without tools."""
    header = ["tool calls", "rows", *side_names(metrics)]
    if "tool_calls" not in metrics:
        return header, []
    columns, counts = [side["tool_calls"] for side in sides(metrics)], metrics["tool_calls"]
    rows: list[list[object]] = []
    for figure, name in NAMES.items():
        num_rows = counts["num_plain"] if figure == "no_call" else counts["num_calling"]
        values = [column[figure] for column in columns]  # type: ignore[literal-required]
        rows += [[name, num_rows, *values]] if num_rows else []
    return header, rows


def signatures(metrics: Metrics) -> dict[str, str]:
    """How each text metric came about, tokenisation and version: figures compare only where these agree.

    {"ROUGE": "rouge-score:0.1.2|words:...", "BLEU": "nrefs:1|case:mixed|eff:no|tok:zh|..."}
    """
    if "generation" not in metrics:
        return {}
    generation = metrics["generation"]
    found = {"ROUGE": generation["rouge"]["signature"]} if "rouge" in generation else {}
    names = {"bleu": "BLEU", "chrf": "chrF", "exact_match": "exact match"}
    if "text" in generation:
        found |= {name: generation["text"]["signatures"][key] for key, name in names.items()}
    found["distinct"] = generation["distinct_signature"]
    return found | {name: other["signature"] for name, other in generation.get("other", {}).items()}


def improvement_tables(metrics: Metrics) -> dict[str, Table]:
    """Gains of the chosen labels per label task, in points and relative: {"sentiment": (header, rows)}."""
    if "base" not in metrics or "classification" not in metrics or "classification" not in metrics["base"]:
        return {}
    before = metrics["base"]["classification"]["by_task"]
    return {
        task: (
            ["label" if has_head(metrics) else "label scoring", *side_names(metrics), "change", "relative"],
            improvement_rows(compare_labels(chosen_figures(before[task]), chosen_figures(found))),
        )
        for task, found in metrics["classification"]["by_task"].items()
    }


def label_tables(metrics: Metrics) -> dict[str, tuple[Table, Table]]:
    """Per-class figures and confusion matrix of the tuned model, for each label task.

    A matrix of more than WIDEST_MATRIX columns is left to report.html: its rows are [] here.
    """
    found: dict[str, tuple[Table, Table]] = {}
    for task, figures in metrics["classification"]["by_task"].items() if "classification" in metrics else ():
        chosen = chosen_figures(figures)
        classes: list[list[object]] = [
            [label, one["precision"], one["recall"], one["f1"], one["support"]]
            for label, one in chosen["per_class"].items()
        ]
        matrix = chosen["confusion_matrix"]
        counts: list[list[object]] = [
            [label, *row]
            for label, row in zip(matrix["references"], matrix["counts"], strict=True)
            if len(matrix["predictions"]) <= WIDEST_MATRIX
        ]
        found[task] = (
            (["class", "precision", "recall", "F1", "rows"], classes),
            (["reference / answer", *matrix["predictions"]], counts),
        )
    return found


def calibration_table(metrics: Metrics) -> Table:
    """How well each model knows how sure it may be, task by task; no rows without label tasks."""
    columns = sides(metrics)
    rows: list[list[object]] = []
    for task in metrics["calibration"]["by_task"] if "calibration" in metrics else ():
        found = [side["calibration"]["by_task"][task] for side in columns]
        for key, name in CALIBRATION_FIGURES.items():
            rows.append([f"{task} {name}", *(one[key] for one in found)])  # type: ignore[literal-required]
            if key == "ece":
                spans = [f"[{one['ece_low']:.4f}, {one['ece_high']:.4f}]" for one in found]
                rows.append([f"{task} ECE, 95 % interval", *spans])
        if "temperature" in found[-1]:
            cooled = [one.get("temperature") for one in found]
            rows.append([f"{task} ECE, temperature", *(one and one["ece"] for one in cooled)])
    return ["calibration", *side_names(metrics)], rows


def robustness_table(metrics: Metrics) -> Table:
    """Accuracy on rewritten rows, test by test; no rows without --robustness."""
    header = ["test", "rows", "original", "rewritten", "score", "flipped"]
    if "robustness" not in metrics:
        return header, []
    tests = {**metrics["robustness"]["tests"], "all": metrics["robustness"]["overall"]}
    rows: list[list[object]] = [
        [name, test["num_rows"], test["original_accuracy"], test["perturbed_accuracy"], test["score"],
         test["flip_rate"]]
        for name, test in tests.items()
    ]  # fmt: skip
    return header, rows


def hard_case_table(metrics: Metrics) -> Table:
    """Accuracy on the hand-written hard cases, kind by kind; no rows without --robustness."""
    header = ["hard cases", "rows", "accuracy"]
    hard = metrics["robustness"].get("hard_cases") if "robustness" in metrics else None
    if hard is None:
        return header, []
    kinds = {**hard["by_category"], "all": hard["overall"]}
    return header, [[name, kind["num_rows"], kind["accuracy"]] for name, kind in kinds.items()]


def loss_table(metrics: Metrics, kind: str) -> Table:
    """Loss and, of written answers, bits per byte of each slice; kind: "by_source", "by_task", "by_length", ..."""
    groups = [side["teacher_forcing"][kind] for side in sides(metrics)]  # type: ignore[literal-required]
    header = ["slice", "rows", "tokens"]
    shown = {"eval_loss": "loss"} | ({} if has_head(metrics) else {"bits_per_byte": "bits per byte"})
    header += [f"{what}, {name}" for what in shown.values() for name in side_names(metrics)]
    rows: list[list[object]] = []
    for name, figures in groups[-1].items():
        found = [group[name] for group in groups]
        row = [name, figures["num_rows"], figures["supervised_tokens"]]
        rows.append([*row, *(one[key] for key in shown for one in found)])
    return header, rows


def slice_table(metrics: Metrics, kind: str) -> Table:
    """Headline figures of each slice of a kind (source, task, length, language); no rows if there is only one."""
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


def higher_is_better(name: str) -> bool | None:
    """The direction of a figure by its name; None if it has none (a length, a count)."""
    if LOWER_IS_BETTER.search(name):
        return False
    return True if HIGHER_IS_BETTER.search(name) else None


def worse_cells(content: Table, names: list[str]) -> list[tuple[int, int]]:
    """(row, column) of the tuned model's figures that are worse than those they are beside.

    names: those of the columns, see side_names. A column is `tuned`, or `F1, tuned` beside `F1, base`.
    """
    header, rows = content
    if len(names) < 2:
        return []
    found = []
    for column, name in enumerate(header):
        figure, _, side = name.rpartition(", ")
        if side != names[1] or (before := f"{figure}, {names[0]}" if figure else names[0]) not in header:
            continue
        for number, row in enumerate(rows):
            what = figure or str(row[header.index("metric")] if "metric" in header else row[0])
            base, tuned = row[header.index(before)], row[column]
            direction = higher_is_better(what)
            if direction is None or not is_number(base) or not is_number(tuned) or base == tuned:
                continue
            if (tuned < base) == direction:  # type: ignore[operator]  # both are numbers
                found.append((number, column))
    return found


def has_head(metrics: Metrics) -> bool:
    """Whether one of the models has a classification head, so that both chose labels and generated nothing."""
    return "chosen_by" in metrics["run"]


def chosen_sentence(metrics: Metrics) -> tuple[str, str]:
    """How each side came to its labels, in English and Chinese; empty if answers were written."""
    if not has_head(metrics):
        return "", ""
    ways = metrics["run"]["chosen_by"]
    names = dict(zip(["base", "tuned"] if "base" in metrics else ["tuned"], side_names(metrics), strict=True))
    en = ", ".join(f"{names[side]} by {WAYS[ways[side]]}" for side in names)
    zh = "，".join(f"{translate(names[side])}用{WAYS_ZH[ways[side]]}" for side in names)
    return (
        f"Labels were chosen and nothing was generated: {en}, on the same prompts; eval_loss is that of the right "
        "label among the row's labels.",
        f"每条数据只选标签，不生成文字：{zh}，提示词相同；eval_loss 只在该条数据的标签之间计算。",
    )


def leak_sentence(metrics: Metrics) -> tuple[str, str]:
    """What the leak check found, in English and Chinese."""
    leaks = metrics["leaks"]
    if not leaks["checked"]:
        return (
            "Overlap with the training data was not checked (--no-leak_check).",
            "未检查训练数据泄漏（--no-leak_check）。",
        )
    training = f"{leaks['training_rows']:,}"
    if not leaks["exact"] and not leaks["near"]:
        return (
            f"None of these rows occurs in the {training} training rows, exactly or nearly.",
            f"{training} 条训练数据中没有与评测数据相同或近似的文本。",
        )
    return (
        f"{leaks['exact']:,} of these rows occur in the {training} training rows, and {leaks['near']:,} nearly "
        f"({leaks['share']:.1%} in all).",
        f"有 {leaks['exact']:,} 条与 {training} 条训练数据中的文本相同，"
        f"{leaks['near']:,} 条近似（{leaks['share']:.1%}）。",
    )


def _paired_row(name: str, figure: PairedFigures) -> list[object]:
    return [
        name,
        figure["base"],
        figure["tuned"],
        f"{figure['difference']:+.4f}",
        None if figure["low"] is None else f"[{figure['low']:+.4f}, {figure['high']:+.4f}]",
        figure["rows_fixed"],
        figure["rows_broken"],
        FINDING_WORDS.get(figure["finding"], figure["finding"]),
        figure["smallest_detectable"],
    ]


def _single_figures(metrics: ModelFigures) -> dict[str, float]:
    """The headline figures of the tuned model, under the names the comparison uses."""
    figures = {"eval_loss": metrics["teacher_forcing"]["eval_loss"]}
    if "classification" in metrics:
        for task, found in metrics["classification"]["by_task"].items():
            figures[f"{task} accuracy"] = chosen_figures(found)["accuracy"]
            if "generation" in found:
                figures[f"{task} accuracy (generated)"] = found["generation"]["accuracy"]
    if "ner" in metrics:
        figures["ner f1"] = metrics["ner"]["f1"]
    if "tool_calls" in metrics:
        calls = metrics["tool_calls"]
        figures |= {name: calls[figure] for figure, name in NAMES.items() if calls[figure] is not None}  # type: ignore[literal-required]
    if "generation" in metrics and "rouge" in metrics["generation"]:
        figures["rougeL"] = metrics["generation"]["rouge"]["rougeL"]
    return figures


# Chooses the rows that a report shows, and marks where an answer differs from its reference

SHOWN = 20
MAX_CHARACTERS = 700  # of a text on the page; predictions.jsonl has all of it
MAX_PIECES = 1_500  # beyond it two texts are not compared piece by piece: the time grows with the square
PIECE = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+|\s+|.", re.DOTALL)


def worst_rows(predictions: Sequence[Prediction], count: int = SHOWN) -> list[Prediction]:
    """Rows the tuned model answers worse than the baseline: broken ones first, then by the loss in
    log-probability per token of the reference. Without a baseline those whose references it finds least probable.
    """

    def badness(row: Prediction) -> tuple[int, float]:
        tokens = max(1, row["reference_tokens"])
        broken = sum((change == "broken") - (change == "fixed") for change in row.get("changes", {}).values())
        return broken, (row["nll"] - row.get("base_nll", 0.0)) / tokens

    ordered = sorted(range(len(predictions)), key=lambda place: badness(predictions[place]), reverse=True)
    has_baseline = any("base_nll" in row for row in predictions)
    worst = [predictions[place] for place in ordered]
    return [row for row in worst if not has_baseline or badness(row) > (0, 0.0)][:count]


def random_rows(predictions: Sequence[Prediction], seed: int, count: int = SHOWN) -> list[Prediction]:
    """Rows drawn without looking at their result, in their order; the same for the same seed."""
    places = random.Random(seed).sample(range(len(predictions)), min(count, len(predictions)))
    return [predictions[place] for place in sorted(places)]


def changed_rows(predictions: Sequence[Prediction], change: str) -> list[Prediction]:
    """All rows with a figure that was fixed or broken, and none that went the other way."""
    return [row for row in predictions if set(row.get("changes", {}).values()) == {change}]


def answers_of(row: Prediction) -> list[tuple[str, Markup]]:
    """The shown parts of a row: question, reference, scored answer, and generated text.

    The answer of a label row is the label that each model chose; generated text is added if it says something else.
    """
    asked = row["instruction"] + (f"\n{row['input']}" if row["input"] else "")
    lines = [("question", as_text("".join(shorten(asked)))), ("reference", as_text("".join(shorten(row["reference"]))))]
    for side, label in (("base", row.get("base_label")), ("tuned", row.get("label"))):
        written = row.get("base_prediction") if side == "base" else row["prediction"]
        if label is not None:
            lines.append((f"label, {side}", as_text(label)))
        if written is not None and (label is None or written.strip() != label):
            name = side if label is None else f"written, {side}"
            plain = side == "base" or label is not None  # marks help where an answer is near its reference
            content = as_text("".join(shorten(written))) if plain else mark_differences(row["reference"], written)
            lines.append((name, content))
    return lines


def histories_of(predictions: Sequence[Prediction]) -> dict[tuple[str, int | None], list[tuple[str, str]]]:
    """The turns before the question of each answer of a conversation: {("chat-1", 2): [("user", "Hi"), ...]}."""
    histories: dict[tuple[str, int | None], list[tuple[str, str]]] = {}
    so_far: dict[str, list[tuple[str, str]]] = {}
    for row in predictions:
        said = so_far.setdefault(row["id"], [])
        said += [(turn["role"], turn["content"]) for turn in row.get("history", [])]
        histories[row["id"], row.get("turn")] = [*said]
        said += [("user", row["instruction"]), ("assistant", row["reference"])]
    return histories


def mark_differences(reference: str, answer: str) -> Markup:
    """The answer with additions to the reference marked, and omissions struck through."""
    answer, rest = shorten(answer)
    pieces = [PIECE.findall(text) for text in (shorten(reference)[0], answer)]
    if max(map(len, pieces)) > MAX_PIECES:
        return as_text(answer + rest)
    shown: list[Markup] = []
    wanted, written = pieces
    for kind, start, end, other_start, other_end in SequenceMatcher(
        None, wanted, written, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            shown.append(as_text("".join(written[other_start:other_end])))
            continue
        if lacking := "".join(wanted[start:end]):
            shown.append(Markup("<del>{}</del>").format(as_text(lacking)))
        if extra := "".join(written[other_start:other_end]):
            shown.append(Markup("<ins>{}</ins>").format(as_text(extra)))
    return Markup("").join([*shown, as_text(rest)])


def shorten(text: str, limit: int = MAX_CHARACTERS) -> tuple[str, str]:
    """A text's first characters, and how many are left out: ("abc", " … (+2)") for "abcde" and 3."""
    return (text, "") if len(text) <= limit else (text[:limit], f" … (+{len(text) - limit:,})")
