"""What a model has to beat to be worth its size: yardsticks that learn from the run's training rows in seconds.

majority        of a label task: the class that most training rows have, among those that the row allows
bag_of_words    of a label task: TF-IDF and logistic regression, over characters in ones, twos and threes, or over words
                where most training texts are in Latin script
dictionary      of named entities: every name of the training rows with its commonest type, longest match first

    yardsticks = apply_yardsticks(rows, training)
    summarise_yardsticks(yardsticks, rows, measured.outcomes, seed=42)       # the group `yardsticks` of metrics.json

They answer the same rows as the model, and are compared with it as two models are: same intervals, same tests.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np

from prompts.tasks import get_task
from sft.console import say
from sft.data.rows.canonical import Row, question_of
from sft.evaluation.compare import Verdict, entity_sums, hits_of
from sft.evaluation.model_answers import Outcome, class_of, cluster_of, places_by
from sft.evaluation.rows import EvalRow
from sft.metrics.comparison import PairedFigures, PairedMetric, compare_metrics
from sft.metrics.entities import EntityCounts, Span, count_entities
from sft.metrics.resampling import bounded_interval, sum_by_group
from sft.text import COMMON_WORDS, LATIN_WORD, detect_language

Kind = Literal["majority", "bag_of_words", "dictionary"]
MAX_ROWS = 200_000  # above it, or above MAX_CHARACTERS, fitting takes minutes and needs --yardsticks
MAX_CHARACTERS = 10_000_000  # of all training texts of the tasks; 4 s a million on one core
MAX_COEFFICIENTS = 5_000_000  # the fit holds some twenty numbers for each: 0.8 GB; rarer n-grams are left out beyond it
# Chosen on validation rows of ChnSentiCorp (858, none of them in training): .893, against .878 with scikit-learn's own
# C = 1 and plain counts; of 1,000 training rows .848 against .838 (mean of three samples).
INVERSE_REGULARISATION = 10.0


@dataclass(frozen=True)
class Yardstick:
    """Answers of one yardstick to the rows of one task, by the rows' ids.

    figure: what it is compared by, as the models' comparison calls it: "sentiment accuracy", "ner f1".
    """

    kind: Kind
    task: str
    figure: str
    outcomes: Mapping[str, Outcome]
    num_training_rows: int
    signature: str


@dataclass(frozen=True)
class Yardsticks:
    """All yardsticks, and the reasons for missing ones: {"sentiment": "none of the training rows is of it"}."""

    found: list[Yardstick] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class YardstickFigures(TypedDict):
    """One yardstick: its figure with a 95 % interval, and the tuned model against it (`base` is the yardstick)."""

    figure: str
    value: float
    low: float
    high: float
    num_training_rows: int
    signature: str
    comparison: PairedFigures


class YardstickGroup(TypedDict):
    """by_task: {"sentiment": {"majority": ..., "bag_of_words": ...}}; left_out: task -> why it has none.

    The verdict sets the tuned model against the strongest yardstick of each task.
    """

    verdict: str
    verdict_zh: str
    by_task: dict[str, dict[str, YardstickFigures]]
    left_out: dict[str, str]


def apply_yardsticks(
    rows: Sequence[EvalRow], training: Sequence[Row], *, asked: bool | None = None, why_untrained: str = ""
) -> Yardsticks | None:
    """Fit every yardstick of the rows' tasks and apply it; None if no task has one, or asked is False.

    asked: True fits any number of training rows. why_untrained: the reason if there are no training rows.
    """
    tasks = {task: [rows[place] for place in places] for task, places in places_by(rows, _task_of).items()}
    tasks = {task: part for task, part in tasks.items() if part[0].task.has_form}
    if not tasks or asked is False:
        return None
    material = {task: [row for row in training if row["task"] == task] for task in tasks}
    why = why_untrained or ("" if asked else _why_too_large(material))
    found: list[Yardstick] = []
    left_out: dict[str, str] = {}
    started = time.monotonic()
    for task, part in tasks.items():
        if why or not material[task]:
            left_out[task] = why or "none of the training rows is of this task"
        elif part[0].task.kind == "entities":
            found.append(_look_up_names(task, part, material[task]))
        else:
            found += _choose_labels(task, part, material[task], left_out)
    if found:
        fitted_on = len({row["id"] for part in material.values() for row in part})
        say(f"yardsticks fitted on {fitted_on:,} training rows in {time.monotonic() - started:.1f} s")
    for reason in dict.fromkeys(left_out.values()):
        say(f"no yardstick for {', '.join(task for task in left_out if left_out[task] == reason)}: {reason}")
    return Yardsticks(found, left_out)


def _task_of(row: EvalRow) -> str:
    return row.task.name


def _why_too_large(material: Mapping[str, Sequence[Row]]) -> str:
    """Why these training rows would take too long; "" if they do not."""
    num_rows = sum(map(len, material.values()))
    size = sum(len(question_of(row)) for part in material.values() for row in part)
    if num_rows <= MAX_ROWS and size <= MAX_CHARACTERS:
        return ""
    return (
        f"fitting on {num_rows:,} training rows of {size:,} characters takes minutes (more than {MAX_ROWS:,} rows or "
        f"{MAX_CHARACTERS:,} characters); --yardsticks fits all the same"
    )


def _choose_labels(
    task: str, rows: Sequence[EvalRow], training: Sequence[Row], left_out: dict[str, str]
) -> list[Yardstick]:
    """The majority class, and the bag of words where training names two classes or more."""
    definition = get_task(task)
    classes = [definition.class_of(definition.answer_of(row), row) for row in training]
    shares = {name: count / len(classes) for name, count in Counter(classes).items()}
    figure, size = f"{task} accuracy", len(training)
    majority = [shares] * len(rows)
    found = [Yardstick("majority", task, figure, _pick(rows, majority), size, "commonest class of the training rows")]
    if len(shares) < 2:
        left_out[f"{task}, bag of words"] = f"all training rows are {next(iter(shares))}"
        return found
    likely, signature = _fit_bag([question_of(row) for row in training], classes, [question_of(r.row) for r in rows])
    return [*found, Yardstick("bag_of_words", task, figure, _pick(rows, likely), size, signature)]


def _pick(rows: Sequence[EvalRow], scores: Sequence[Mapping[str, float]]) -> dict[str, Outcome]:
    """Each row's highest class among its allowed ones; None, which counts as wrong, if training had none of them.

    Ties go to the first in the order of `scores`, because the order of a row's options may reveal the answer.
    """
    outcomes = {}
    for row, known in zip(rows, scores, strict=True):
        allowed = [name for name in known if name in row.classes]
        chosen = max(allowed, key=lambda name: known[name], default=None)
        outcomes[row.row["id"]] = Outcome(reference=class_of(row, row.reference), scored=chosen)
    return outcomes


def _fit_bag(texts: Sequence[str], classes: Sequence[str], asked: Sequence[str]) -> tuple[list[dict[str, float]], str]:
    """Probabilities of the classes for each text, and how they were obtained."""
    import sklearn
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    in_words = sum(detect_language(text) in COMMON_WORDS for text in texts) * 2 > len(texts)
    units = {"analyzer": "word", "token_pattern": r"\w+"} if in_words else {"analyzer": "char", "ngram_range": (1, 3)}
    num_outputs = len(set(classes)) if len(set(classes)) > 2 else 1
    vectorizer = TfidfVectorizer(**units, sublinear_tf=True, max_features=max(1, MAX_COEFFICIENTS // num_outputs))
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000, random_state=0)
    with threadpool_limits(1):  # sums of several threads differ in their last digits with the number of threads
        model.fit(vectorizer.fit_transform(texts), classes)
        table = model.predict_proba(vectorizer.transform(asked))  # (N, C)
    signature = f"tfidf:{'words' if in_words else 'characters 1-3'},sublinear|logistic regression:C={model.C:g}"
    names = [str(name) for name in model.classes_]
    return [dict(zip(names, line, strict=True)) for line in table.tolist()], f"{signature}|{sklearn.__version__}"


def _look_up_names(task: str, rows: Sequence[EvalRow], training: Sequence[Row]) -> Yardstick:
    types: dict[str, Counter[str]] = {}
    for row in training:
        for entity in row["entities"]:
            if entity["entity_text"]:
                types.setdefault(entity["entity_text"], Counter())[entity["entity_label"]] += 1
    names = {name: counts.most_common(1)[0][0] for name, counts in types.items()}  # of equal ones the first mentioned
    outcomes = {row.row["id"]: Outcome(entities=_count_names(row.row, names)) for row in rows}
    signature = f"{len(names):,} names, longest match"
    return Yardstick("dictionary", task, "ner f1", outcomes, len(training), signature)


def _count_names(row: Row, names: Mapping[str, str]) -> EntityCounts:
    gold = [Span(found["start_idx"], found["end_idx"], found["entity_label"]) for found in row["entities"]]
    return count_entities(gold, match_names(row["text"], names))


def match_names(text: str, names: Mapping[str, str]) -> list[Span]:
    """Names in a text, from left to right, the longest at each character; no part of a Latin word is one.

    match_names("北京大学在北京", {"北京": "GPE", "北京大学": "ORG"}) -> [Span(0, 4, "ORG"), Span(5, 7, "GPE")]
    """
    lengths: dict[str, set[int]] = {}
    for name in names:
        lengths.setdefault(name[0], set()).add(len(name))
    inside = {index for word in LATIN_WORD.finditer(text) for index in range(word.start() + 1, word.end())}
    found, start = [], 0
    while start < len(text):
        ends = (start + length for length in sorted(lengths.get(text[start], ()), reverse=True))
        within = (end for end in ends if end <= len(text) and not {start, end} & inside)
        fitting = (end for end in within if text[start:end] in names)
        if end := next(fitting, None):
            found.append(Span(start, end, names[text[start:end]]))
        start = end or start + 1
    return found


def summarise_yardsticks(
    yardsticks: Yardsticks,
    rows: Sequence[EvalRow],
    tuned: Sequence[Outcome],
    *,
    seed: int,
    name: str = "tuned",
) -> YardstickGroup:
    """Scores of the yardsticks on these rows, possibly a subset of those they answered.

    tuned: the model's outcomes, row by row; name: the model's name in the verdict. Holm's correction is over all
    yardsticks.
    """
    metrics = [_pair(yardstick, rows, tuned) for yardstick in yardsticks.found]
    compared = compare_metrics(metrics, seed=seed) if metrics else {}
    by_task: dict[str, dict[str, YardstickFigures]] = {}
    for yardstick, metric in zip(yardsticks.found, metrics, strict=True):
        units = sum_by_group(metric.base[:, None], metric.groups or range(len(metric.base)))
        interval = bounded_interval(units, np.ones(1))
        by_task.setdefault(yardstick.task, {})[yardstick.kind] = {
            "figure": yardstick.figure,
            "value": compared[metric.name]["base"],
            "low": interval.low,
            "high": interval.high,
            "num_training_rows": yardstick.num_training_rows,
            "signature": yardstick.signature,
            "comparison": compared[metric.name],
        }
    verdict = judge_yardsticks(by_task, yardsticks.left_out, name)
    return {"verdict": verdict["en"], "verdict_zh": verdict["zh"], "by_task": by_task, "left_out": yardsticks.left_out}


def _pair(yardstick: Yardstick, rows: Sequence[EvalRow], tuned: Sequence[Outcome]) -> PairedMetric:
    places = [place for place, row in enumerate(rows) if row.task.name == yardstick.task]
    theirs = [yardstick.outcomes[rows[place].row["id"]] for place in places]
    ours = [tuned[place] for place in places]
    groups = [cluster_of(rows[place]) for place in places]
    name = f"{yardstick.task} {yardstick.kind}"
    if yardstick.kind == "dictionary":
        sums, scores = zip(entity_sums(theirs), entity_sums(ours), strict=True)
        return PairedMetric(name, *sums, higher_is_better=True, row_scores=scores, groups=groups)
    hits = hits_of(theirs, "scored"), hits_of(ours, "scored")
    return PairedMetric(name, *hits, higher_is_better=True, is_right_or_wrong=True, groups=groups)


WORDS: dict[str, tuple[str, str]] = {
    "majority": ("the majority class", "多数类"),
    "bag_of_words": ("a bag of words", "词袋模型"),
    "dictionary": ("a dictionary of the training entities", "训练实体词典"),
}


def judge_yardsticks(
    by_task: Mapping[str, Mapping[str, YardstickFigures]], left_out: Mapping[str, str], name: str = "tuned"
) -> Verdict:
    """The tuned model against each task's strongest yardstick, in words; tasks without one are listed with a reason.

    {"en": "Tuned beats a bag of words by 3.1 points (1.2 to 5.0): sentiment accuracy 0.911 against 0.880.", "zh": ...}
    """
    en, zh = [], []
    zh_name = "微调后的模型" if name == "tuned" else f"{name} "
    for yardsticks in by_task.values():
        kind, strongest = max(yardsticks.items(), key=lambda item: item[1]["value"])
        figure = strongest["comparison"]
        better, worse = figure["finding"] == "better", figure["finding"] == "worse"
        low, high = figure["low"] or 0.0, figure["high"] or 0.0  # a bounded figure always has both
        points = f"{100 * abs(figure['difference']):.1f}"
        ends = sorted((low, high)) if not worse else sorted((-low, -high))
        span_en, span_zh = (f"{100 * ends[0]:.1f} {to} {100 * ends[1]:.1f}" for to in ("to", "至"))
        figures_en = f"{strongest['figure']} {figure['tuned']:.3f} against {figure['base']:.3f}"
        figures_zh = (
            f"{strongest['figure'].replace('accuracy', '准确率')} {figure['tuned']:.3f} 对 {figure['base']:.3f}"
        )
        their_en, their_zh = WORDS[kind]
        if better:
            en.append(f"{name} beats {their_en} by {points} points ({span_en}): {figures_en}")
            zh.append(f"{zh_name}比{their_zh}高 {points} 个百分点（{span_zh}）：{figures_zh}")
        elif worse:
            en.append(f"{name} does not beat {their_en} and is worse by {points} points ({span_en}): {figures_en}")
            zh.append(f"{zh_name}不如{their_zh}，低 {points} 个百分点（{span_zh}）：{figures_zh}")
        elif figure["finding"] == "too_few":
            en.append(f"too few rows to tell {name} from {their_en}: {figures_en}")
            zh.append(f"数据太少，无法判断{zh_name}与{their_zh}的差别：{figures_zh}")
        else:
            en.append(f"{name} does not beat {their_en}: {figures_en}, a difference of {span_en} points")
            zh.append(f"{zh_name}没有明显胜过{their_zh}：{figures_zh}，差值 {span_zh} 个百分点")
    for reason in dict.fromkeys(left_out.values()):
        tasks = [task for task in left_out if left_out[task] == reason]
        en.append(f"no yardstick for {', '.join(tasks)}: {reason}")
        zh.append(f"{'、'.join(tasks)} 没有参照基线：{reason}")
    sentence = "; ".join(en)
    if name == "tuned" or not sentence.startswith(name):  # the name of a run stays as it is written
        sentence = sentence[:1].upper() + sentence[1:]
    return {"en": f"{sentence}.", "zh": f"{'；'.join(zh)}。"}
