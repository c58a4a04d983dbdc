"""report.html: the verdict first, then tables, pictures, slices and examples; one file without reference or script.

Both languages are in it; two radio buttons in front of everything choose, by CSS alone.
"""

from collections.abc import Iterable, Sequence

from sft.evaluation.flow import CleanFigures, Evaluation, Metrics
from sft.evaluation.predictions import Prediction
from sft.html import Markup, element, heading, join, page, table
from sft.metrics.classification import ClassificationFigures
from sft.metrics.entities import EntityFigures
from sft.report import plots
from sft.report.examples import SHOWN, changed_rows, mark_differences, random_rows, shorten, worst_rows
from sft.report.figures import (
    answers_table,
    calibration_table,
    chosen_sentence,
    hard_case_table,
    has_head,
    headline_table,
    improvement_tables,
    leak_sentence,
    loss_table,
    robustness_table,
    signatures,
    slice_table,
    yardstick_sentence,
    yardstick_table,
)
from sft.report.words import Language, both, english_and_chinese

KINDS = {"source": "by source", "task": "by task", "length": "by length in tokens", "language": "by language"}
PATIENT = 5  # rows of a list shown open; a longer list opens when it is asked for


def render_report(evaluation: Evaluation, language: Language = "en") -> str:
    """The whole page as HTML text; `language` is the one it opens in."""
    metrics, predictions = evaluation.metrics, evaluation.predictions
    run = metrics["run"]
    body = join(
        _verdict(metrics),
        _against_yardsticks(metrics),
        _facts(metrics),
        heading(both("Headline")),
        _table(headline_table(metrics)),
        _chosen(metrics),
        _explanation() if "comparison" in metrics else "",
        *_section("Yardsticks", [_table(yardstick_table(metrics))]),
        _leaks(metrics),
        *_section("Answers", [_table(answers_table(metrics), stacked=False)]),
        *_section("Plots", _plots(evaluation)),
        *_section("Labels", _label_tables(metrics)),
        *_section("Calibration", [_table(calibration_table(metrics), stacked=False)]),
        *_section("Robustness", [_table(robustness_table(metrics)), _table(hard_case_table(metrics), stacked=False)]),
        *_section("Entities, strict", _entity_table(metrics)),
        *_section("Slices", _slices(metrics)),
        heading(both("Examples")),
        *_examples(predictions, run["seed"]),
        heading(both("Measured with")),
        _table((["what", "value"], _provenance(metrics)), stacked=False),
    )
    title = english_and_chinese(f"Evaluation of {run['name']}", f"{run['name']} 的评测")
    return page(
        title,
        body,
        style=plots.STYLE + STYLE,
        language=language,
        before=_switch(language),
        tab=f"Evaluation of {run['name']}",
    )


def _switch(language: Language) -> Markup:
    buttons = "".join(
        f'<input type="radio" name="language" id="{code}"{" checked" if code == language else ""}>'
        f'<label for="{code}" lang="{code}">{name}</label>'
        for code, name in (("en", "English"), ("zh", "中文"))
    )
    return Markup(buttons)


def _verdict(metrics: Metrics) -> Markup:
    comparison = metrics.get("comparison")
    if comparison is None:
        words, outcome = (
            ("Measured without a baseline (--no-baseline).", "没有与其他模型比较（--no-baseline）。"),
            "unclear",
        )
    else:
        words, outcome = (comparison["verdict"], comparison["verdict_zh"]), comparison["outcome"]
    return element("p", english_and_chinese(*words), attributes=f'class="verdict {outcome}"')


def _against_yardsticks(metrics: Metrics, part: CleanFigures | None = None) -> Markup:
    words = yardstick_sentence(metrics, part)
    return element("p", english_and_chinese(*words)) if all(words) else Markup("")


def _facts(metrics: Metrics) -> Markup:
    stats, run, baseline = metrics["data_stats"], metrics["run"], metrics["run"]["baseline"]
    origin = ", ".join(run["base_model"].values())
    against_en = f" Compared with {baseline['name']}." if baseline and baseline["kind"] != "base" else ""
    answers = stats["num_answers"] > stats["eval_size"]
    answers_en = f" with {stats['num_answers']:,} answers" if answers else ""
    answers_zh = f"（{stats['num_answers']:,} 个回答）" if answers else ""
    against_zh = f"对比模型：{baseline['name']}。" if against_en and baseline else ""
    return element(
        "p",
        english_and_chinese(
            f"Run {run['name']}, tuned from {origin}.{against_en} {stats['eval_size']:,} rows{answers_en} of the "
            f"{stats['split']} split of {stats['data']}; {stats['truncation_rate']:.1%} shortened, "
            f"{stats['dropped_too_long']:,} left out as too long.",
            f"运行 {run['name']}，由 {origin} 微调而来。{against_zh}数据 {stats['data']} 的 {stats['split']} 部分，共 "
            f"{stats['eval_size']:,} 行{answers_zh}；{stats['truncation_rate']:.1%} 被截短，"
            f"{stats['dropped_too_long']:,} 行过长未评测。",
        ),
    )


def _chosen(metrics: Metrics) -> Markup:
    words = chosen_sentence(metrics)
    return element("p", english_and_chinese(*words), attributes="class=note") if all(words) else Markup("")


def _explanation() -> Markup:
    words = english_and_chinese(
        "Intervals: 95 %. Findings: McNemar or permutation test, Holm-adjusted over the table, and an interval without "
        "0; none on fewer than 30 different rows. Fixed and broken count the rows whose answer is better and worse.",
        "区间：95%。结论：McNemar 检验或置换检验，对全表作 Holm 校正，且区间不含 0；互不相同的行少于 30 时不下结论。"
        "变好和变差是单行答案变得更好和更差的行数。",
    )
    return element("p", words, attributes="class=note")


def _leaks(metrics: Metrics) -> Markup:
    parts = [heading(both("Leaks")), element("p", english_and_chinese(*leak_sentence(metrics)))]
    if clean := metrics.get("without_overlaps"):
        count = f"{clean['num_rows']:,}"
        parts += [
            element("h3", both("Without these rows"), f" ({count})"),
            element("p", english_and_chinese(clean["comparison"]["verdict"], clean["comparison"]["verdict_zh"]))
            if "comparison" in clean
            else Markup(""),
            _against_yardsticks(metrics, clean),
            _table(headline_table(metrics, clean)),
        ]
    return join(*parts)


def _plots(evaluation: Evaluation) -> list[Markup]:
    log, predictions = evaluation.training_log, evaluation.predictions
    curves = [
        [(float(line["step"]), float(line[name])) for line in log if line.get(name) is not None]
        for name in ("loss", "eval_loss")
    ]
    references = [row["reference_tokens"] for row in predictions]
    answers = [row["prediction_tokens"] for row in predictions]
    reliability = [
        plots.plot_reliability(
            [(one["confidence"], one["accuracy"], one["num_rows"]) for one in found["reliability"]], task
        )
        for task, found in evaluation.metrics.get("calibration", {"by_task": {}})["by_task"].items()
    ]
    lengths = Markup("") if has_head(evaluation.metrics) else plots.plot_lengths(references, answers)
    drawn = join(plots.plot_losses(*curves), lengths, *reliability)
    return [element("div", drawn, attributes="class=plots")]


def _label_tables(metrics: Metrics) -> Iterable[Markup]:
    improvements = improvement_tables(metrics)
    for task, found in metrics.get("classification", {"by_task": {}})["by_task"].items():
        if task in improvements:
            yield heading(task, 3)
            yield _table(improvements[task])
        ways = {"classification head": "head", "label scoring": "label_scoring", "generated": "generation"}
        for way, key in ways.items():
            if key not in found:
                continue
            figures: ClassificationFigures = found[key]  # type: ignore[literal-required]
            matrix = figures["confusion_matrix"]
            yield element("h3", f"{task}, ", both(way))
            yield plots.confusion_table(matrix["references"], matrix["predictions"], matrix["counts"])
            rows: list[list[object]] = [
                [name, one["precision"], one["recall"], one["f1"], one["support"]]
                for name, one in figures["per_class"].items()
            ]
            yield _table((["class", "precision", "recall", "F1", "in the reference"], rows))


def _entity_table(metrics: Metrics) -> list[Markup]:
    if "ner" not in metrics:
        return []
    partial = metrics["ner"]["partial"]
    pairs: list[tuple[str, EntityFigures, float]] = [("all", metrics["ner"], partial["f1"])]
    pairs += [(name, one, partial["by_type"][name]["f1"]) for name, one in metrics["ner"]["by_type"].items()]
    rows: list[list[object]] = [
        [name, one["precision"], one["recall"], one["f1"], overlap, one["found"], one["predicted"], one["support"]]
        for name, one, overlap in pairs
    ]
    header = ["type", "precision", "recall", "F1", "F1, partial", "found", "predicted", "in the reference"]
    return [_table((header, rows))]


def _slices(metrics: Metrics) -> Iterable[Markup]:
    for kind, title in KINDS.items():
        if (content := slice_table(metrics, kind))[1]:
            yield _details(both(title), _table(content, translated=True))
    for kind, title in KINDS.items():
        header, rows = loss_table(metrics, f"by_{kind}")
        if len(rows) > 1:
            yield _details(
                join(both("Loss by slice"), ", ", both(title), by=""), _table((header, rows), translated=True)
            )


def _examples(predictions: Sequence[Prediction], seed: int) -> Iterable[Markup]:
    lists = [
        ("Rows that got worse", changed_rows(predictions, "broken")),
        ("Rows that got better", changed_rows(predictions, "fixed")),
        ("The worst rows", worst_rows(predictions)),
        ("Rows at random", random_rows(predictions, seed)),
    ]
    for number, (title, rows) in enumerate(lists):
        if not rows:
            continue
        shown = rows[:SHOWN]
        count = f" ({len(rows):,})" if len(rows) == len(shown) else f" ({len(shown)} / {len(rows):,})"
        yield _details(
            join(both(title), count, by=""), join(*map(_example, shown)), is_open=number == 0 and len(shown) <= PATIENT
        )


def _example(row: Prediction) -> Markup:
    badges = [
        element("span", name, " ", both(change), attributes=f'class="badge {change}"')
        for name, change in row.get("changes", {}).items()
    ]
    if not row["finished"]:
        badges.append(element("span", both("not finished"), attributes="class=badge"))
    if overlap := row.get("overlap"):
        words = both("in the training data" if overlap["kind"] == "exact" else "near a training row")
        badges.append(element("span", words, f": {overlap['training_id']}", attributes='class="badge"'))
    asked = row["instruction"] + (f"\n{row['input']}" if row["input"] else "")
    lines = [("question", join(*shorten(asked), by="")), ("reference", join(*shorten(row["reference"]), by=""))]
    if (said := row.get("base_prediction")) is not None:
        lines.append(("base", mark_differences(row["reference"], said)))
    lines.append(("tuned", mark_differences(row["reference"], row["prediction"])))
    terms = [join(element("dt", both(name)), element("dd", content), by="") for name, content in lines]
    title = element("h4", row["id"], " ", element("small", row["task"]), " ", join(*badges, by=" "))
    return element("article", title, element("dl", *terms))


def _provenance(metrics: Metrics) -> list[list[object]]:
    run = metrics["run"]
    written: list[list[object]] = [[name, signature] for name, signature in signatures(metrics).items()]
    limits = ", ".join(f"{limit} tokens ({task})" for task, limit in run["max_new_tokens"].items())
    answers = f"{run['decoding']} ({run['generator']}), at most {limits}" if limits else chosen_sentence(metrics)[0]
    return [
        ["answers", answers],
        *written,
        [both("Leaks"), metrics["leaks"]["signature"]],
        ["data, sha256", metrics["data_stats"]["sha256"]],
        ["prompt fingerprint", run["fingerprint"]],
        ["seed", str(run["seed"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())],
        ["git revision", run["git_revision"]],
    ]


def _table(
    content: tuple[Sequence[str], Sequence[Sequence[object]]], *, stacked: bool = True, translated: bool = True
) -> Markup:
    """A table with its header in both languages, and its first column and its findings, too."""
    header, rows = content
    shown = [[both(value) if isinstance(value, str) and translated else value for value in row] for row in rows]
    return table([both(name) for name in header], shown, stacked=stacked)


def _section(title: str, parts: Iterable[Markup]) -> list[Markup]:
    shown = [part for part in parts if part]
    return [heading(both(title)), *shown] if shown else []


def _details(title: Markup, content: Markup, *, is_open: bool = False) -> Markup:
    return element("details", element("summary", title), content, attributes="open" if is_open else "")


STYLE = """.verdict { font-size: 1.2rem; font-weight: 600; border-left: .3rem solid var(--line); padding-left: .8rem; }
.helped { border-color: var(--good); } .hurt { border-color: var(--bad); }
.mixed, .loss_only { border-color: var(--mixed); } .note { font-size: .9rem; opacity: .85; }
input[name=language] { position: absolute; opacity: 0; }
input[name=language] + label { display: inline-block; padding: .15rem .7rem;
  border: 1px solid var(--line); cursor: pointer; }
input[name=language]:checked + label { background: var(--soft); font-weight: 600; }
input[name=language]:focus-visible + label { outline: 2px solid var(--accent); }
#en:checked ~ main .zh { display: none; } #zh:checked ~ main .en { display: none; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .6rem 0; padding: .2rem .8rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
article { border-top: 1px solid var(--line); padding: .5rem 0; } h4 { margin: .2rem 0; font-size: .95rem; }
small { font-weight: 400; opacity: .75; } dl { margin: 0; font-size: .92rem; }
dt { opacity: .75; margin-top: .3rem; } dd { margin: 0; white-space: pre-wrap; }
@media (min-width: 641px) {
  dl { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .15rem .8rem; }
  dt { margin: 0; } }
.badge { font-size: .8rem; font-weight: 400; border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; }
.badge.fixed { border-color: var(--good); } .badge.broken { border-color: var(--bad); }
ins { background: #9a670033; text-decoration: none; border-bottom: 2px solid var(--mixed); }
del { opacity: .6; text-decoration: line-through; }
"""
