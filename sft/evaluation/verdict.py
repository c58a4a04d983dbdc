"""What the findings come to in words, in English and in Chinese.

A lower loss alone is no better answer: "helped" needs a figure of the answers themselves (accuracy, F1, ROUGE, ...)
that got better beyond chance, and none that got worse.
"""

from collections.abc import Mapping
from typing import Literal, TypedDict

from sft.metrics.comparison import PairedFigures

Conclusion = Literal["helped", "hurt", "mixed", "loss_only", "unclear"]
LOSSES = ("eval_loss", "bits per byte")  # how probable the references are; says nothing of what the model writes
FEW_ROWS = 30  # below it a verdict says aloud how little it rests on
# Longer names first: one may hold another.
CHINESE = {
    "accuracy (generated)": "准确率（自由生成）",
    "accuracy": "准确率",
    "eval_loss": "评测损失",
    "bits per byte": "每字节比特数",
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
    found = {word: _names(metrics, word) for word in ("better", "worse", "unclear")}
    better, worse, unclear = (_list_changes(metrics, names) for names in found.values())
    zh_better, zh_worse, zh_unclear = map(_in_chinese, (better, worse, unclear))
    answers_better = [name for name in found["better"] if name not in LOSSES]
    en_undecided = f"; no clear difference in {unclear}" if unclear else ""
    zh_undecided = f"；{zh_unclear} 没有明显差别" if unclear else ""
    rows_en, rows_zh = f" ({num_rows:,} rows).", f"（{num_rows:,} 行）。"
    if against is None:
        words = {"helped": ("Tuning helped", "微调有效"), "hurt": ("Tuning hurt", "微调有害")}
        part = ("Tuning helped in part", "微调部分有效")
        same = ("No clear difference between base and tuned", "微调前后没有明显差别")
    else:
        ours, theirs = against
        words = {
            "helped": (f"{ours} is better than {theirs}", f"{ours} 优于 {theirs}"),
            "hurt": (f"{ours} is worse than {theirs}", f"{ours} 劣于 {theirs}"),
        }
        part = (f"{ours} is better than {theirs} in part", f"{ours} 部分优于 {theirs}")
        same = (f"No clear difference between {theirs} and {ours}", f"{theirs} 与 {ours} 没有明显差别")
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
        en, zh = _say_loss_only(better, unclear)
        en, zh = en + rows_en, zh + rows_zh
    elif worse:
        outcome = "hurt"
        en = f"{words['hurt'][0]}: {worse}{en_undecided}{rows_en}"
        zh = f"{words['hurt'][1]}：{zh_worse}{zh_undecided}{rows_zh}"
    else:
        outcome = "unclear"
        en, zh = f"{same[0]}: {unclear}{rows_en}", f"{same[1]}：{zh_unclear}{rows_zh}"
    if num_rows < FEW_ROWS:
        en += f" Fewer than {FEW_ROWS} rows: a first sign, no proof."
        zh += f"不足 {FEW_ROWS} 行：只能算初步迹象，不能算证明。"
    return outcome, {"en": en, "zh": zh}


def _say_loss_only(better: str, unclear: str) -> tuple[str, str]:
    """The references became likelier, and that is all that is known."""
    if unclear:
        return (
            f"The reference answers became likelier ({better}), but what the model writes did not get clearly better: "
            f"no clear difference in {unclear}",
            f"参考答案的概率提高了（{_in_chinese(better)}），但模型写出的答案没有明显变好："
            f"{_in_chinese(unclear)} 没有明显差别",
        )
    return (
        f"The reference answers became likelier ({better}); whether what the model writes got better was not measured "
        "(--rouge measures text)",
        f"参考答案的概率提高了（{_in_chinese(better)}）；模型写出的答案是否变好没有测量（文本可用 --rouge 测量）",
    )


def _in_chinese(changes: str) -> str:
    """`sentiment accuracy 0.520 -> 0.910, ...` -> `sentiment 准确率 0.520 -> 0.910，...`."""
    for english, chinese in CHINESE.items():
        changes = changes.replace(english, chinese)
    return changes


def _names(metrics: Mapping[str, PairedFigures], finding: str) -> list[str]:
    return [name for name, figure in metrics.items() if figure["finding"] == finding]


def _list_changes(metrics: Mapping[str, PairedFigures], names: list[str]) -> str:
    """`ner f1 0.010 -> 0.450, eval_loss 1.200 -> 0.800`, "" where there is none."""
    return ", ".join(f"{name} {metrics[name]['base']:.3f} -> {metrics[name]['tuned']:.3f}" for name in names)
