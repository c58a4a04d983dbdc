"""The report's first screen: a card for each headline figure, and facts about the run."""

import re
from dataclasses import dataclass, field

from sft.evaluation.flow import Metrics
from sft.report.figures import FINDING_WORDS, YARDSTICKS, headline_table
from sft.report.words import english_and_chinese

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
