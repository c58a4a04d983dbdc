"""What the findings come to in words, in English and in Chinese.

A lower loss alone is no better answer: "helped" needs a figure of the answers themselves (accuracy, F1, ROUGE, ...)
that got better beyond chance, and none that got worse. Of fewer rows than FEWEST_UNITS nothing is said but that they
are too few: "no clear difference" beside 0.313 -> 1.000 would be as untrue as a proof.
"""

from collections.abc import Mapping
from typing import Literal, TypedDict, get_args

from sft.metrics.comparison import FEWEST_UNITS, Finding, PairedFigures

FINDINGS: tuple[Finding, ...] = get_args(Finding)
Conclusion = Literal["helped", "hurt", "mixed", "loss_only", "unclear", "too_few"]
LOSSES = ("eval_loss", "bits per byte")  # how probable the references are; says nothing of what the model writes
# Longer names first: one may hold another.
CHINESE = {
    "accuracy (generated)": "准确率（自由生成）",
    "accuracy": "准确率",
    "eval_loss": "评测损失",
    "bits per byte": "每字节比特数",
    " rows, ": " 行，",
    " of them distinct": " 行互不相同",
    " rows": " 行",
    ", ": "，",
}


class Verdict(TypedDict):
    """One sentence in each language."""

    en: str
    zh: str


def judge(
    metrics: Mapping[str, PairedFigures], num_rows: int, against: tuple[str, str] | None = None
) -> tuple[Conclusion, Verdict]:
    """The verdict from the findings that hold after Holm's adjustment.

    against: names of the run and of what it is compared with, where that is not the model it was tuned from.
    ("helped", {"en": "Tuning helped: sentiment accuracy 0.520 -> 0.910; nothing got worse (240 rows).", "zh": ...})
    """
    found = {word: [name for name, figure in metrics.items() if figure["finding"] == word] for word in FINDINGS}
    better, worse, unclear = (_list_changes(metrics, found[word]) for word in ("better", "worse", "unclear"))
    too_few = _list_changes(metrics, found["too_few"], counted=True)
    zh_better, zh_worse, zh_unclear, zh_too_few = map(_in_chinese, (better, worse, unclear, too_few))
    answers_better = [name for name in found["better"] if name not in LOSSES]
    en_few, zh_few = (
        (f"; too few rows to tell: {too_few}", f"；行数太少，无法判断：{zh_too_few}") if too_few else ("", "")
    )
    en_undecided = (f"; no clear difference in {unclear}" if unclear else "") + en_few
    zh_undecided = (f"；{zh_unclear} 没有明显差别" if unclear else "") + zh_few
    rows_en, rows_zh = f" ({num_rows:,} rows).", f"（{num_rows:,} 行）。"
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
        en = f"Too few rows to tell {theirs} and {ours} apart: {too_few}. Use {FEWEST_UNITS} or more of each task."
        zh = f"行数太少，无法判断{pair_zh}的差别：{zh_too_few}。每个任务请至少用 {FEWEST_UNITS} 行。"
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
    """`ner f1 0.010 -> 0.450, eval_loss 1.200 -> 0.800`, "" where there is none; counted: each with its rows."""
    return ", ".join(
        f"{name} {metrics[name]['base']:.3f} -> {metrics[name]['tuned']:.3f}"
        + (f" ({_count_rows(metrics[name])})" if counted else "")
        for name in names
    )


def _count_rows(figure: PairedFigures) -> str:
    """`20 rows`, or `40 rows, 12 of them distinct` where several ask the same."""
    rows, units = figure["num_rows"], figure["num_groups"]
    return f"{rows:,} rows" + (f", {units:,} of them distinct" if units < rows else "")
