"""Answers before and after a perturbation -> accuracy, score, flip rate; answers to the hard cases -> accuracy."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from sft.config.yaml_files import read_yaml

FILE = Path(__file__).with_name("hard_cases.yaml")
LABELS = ("负面", "正面")
FOLD = re.compile(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])")  # where YAML joined two lines of a long Chinese sentence


@dataclass(frozen=True)
class HardCase:
    """One sentence: HardCase("negation-1", "negation", "没有一点让人失望。", "正面")."""

    case_id: str
    category: str
    text: str
    label: str


def load_hard_cases() -> list[HardCase]:
    """Every case in the order of the file. Raises ValueError if the file is not what it should be."""
    cases: list[HardCase] = []
    for category, by_label in read_yaml(FILE).items():
        if not isinstance(by_label, dict) or set(by_label) - set(LABELS):
            raise ValueError(f"{FILE.name}: {category} must map {' and '.join(LABELS)} to lists of sentences")
        pairs = [(str(label), FOLD.sub("", str(text).strip())) for label, texts in by_label.items() for text in texts]
        cases += [HardCase(f"{category}-{i}", category, text, label) for i, (label, text) in enumerate(pairs, 1)]
    repeated = [text for text, count in Counter(case.text for case in cases).items() if count > 1]
    if repeated:
        raise ValueError(f"{FILE.name}: {repeated[0]!r} occurs twice")
    return cases


@dataclass(frozen=True)
class Answered:
    """One row as it was and as it was rewritten by a test: the right class, and the class chosen for each."""

    test: str
    reference: str
    original: str
    perturbed: str


@dataclass(frozen=True)
class HardAnswer:
    """One hard case with the class the model chose and how sure it was (0 to 1)."""

    category: str
    text: str
    reference: str
    prediction: str
    confidence: float


class RobustnessTest(TypedDict):
    """One perturbation, over the rows that it changed.

    changed_share: of the rows it was tried on. score = perturbed_accuracy / original_accuracy, 1.0 if nothing is
    lost, None if there was nothing to lose. flip_rate: rows whose answer became another one, right or wrong.
    """

    num_rows: int
    changed_share: float
    original_accuracy: float | None
    perturbed_accuracy: float | None
    score: float | None
    flip_rate: float | None


class HardCategory(TypedDict):
    """Hard cases of one kind."""

    num_rows: int
    num_right: int
    accuracy: float


class HardCaseFigures(TypedDict):
    """The hand-written suite; overall is over all cases."""

    overall: HardCategory
    by_category: dict[str, HardCategory]


class RobustnessFigures(TypedDict):
    """overall: over all rewritten rows of all tests. num_rows: rows tried, of the label tasks named."""

    num_rows: int
    tasks: list[str]
    seed: int
    lexicon: str
    overall: RobustnessTest
    tests: dict[str, RobustnessTest]
    hard_cases: NotRequired[HardCaseFigures]


def summarise_tests(
    answered: Sequence[Answered], tests: Sequence[str], num_tried: int
) -> tuple[RobustnessTest, dict[str, RobustnessTest]]:
    """(overall, each test) from the rows that were really changed; num_tried: rows each test was tried on.

    summarise_tests([Answered("typos", "正面", "正面", "负面")], ["typos"], 2) -> typos: changed_share 0.5,
    original_accuracy 1.0, perturbed_accuracy 0.0, score 0.0, flip_rate 1.0
    """
    by_test = {name: _summarise([row for row in answered if row.test == name], num_tried) for name in tests}
    return _summarise(answered, num_tried * len(tests)), by_test


def _summarise(answered: Sequence[Answered], num_tried: int) -> RobustnessTest:
    num_rows = len(answered)
    changed_share = num_rows / num_tried if num_tried else 0.0
    if not answered:
        return {
            "num_rows": 0,
            "changed_share": changed_share,
            "original_accuracy": None,
            "perturbed_accuracy": None,
            "score": None,
            "flip_rate": None,
        }
    original = sum(row.original == row.reference for row in answered)
    perturbed = sum(row.perturbed == row.reference for row in answered)
    return {
        "num_rows": num_rows,
        "changed_share": changed_share,
        "original_accuracy": original / num_rows,
        "perturbed_accuracy": perturbed / num_rows,
        "score": perturbed / original if original else None,
        "flip_rate": sum(row.original != row.perturbed for row in answered) / num_rows,
    }


def summarise_hard_cases(answers: Sequence[HardAnswer]) -> HardCaseFigures:
    """Accuracy over all cases and per category, in the order of the suite. Raises ValueError for no answers."""
    if not answers:
        raise ValueError("no answers to hard cases")
    categories = dict.fromkeys(answer.category for answer in answers)
    return {
        "overall": _count_right(answers),
        "by_category": {name: _count_right([a for a in answers if a.category == name]) for name in categories},
    }


def _count_right(answers: Sequence[HardAnswer]) -> HardCategory:
    num_right = sum(answer.prediction == answer.reference for answer in answers)
    return {"num_rows": len(answers), "num_right": num_right, "accuracy": num_right / len(answers)}
