"""The hard cases of sentiment: sentences written for this project, each with its overall label, in hard_cases.yaml.

for case in load_hard_cases(): print(case.category, case.text, case.label)
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
        raise ValueError(f"{FILE.name}: {repeated[0]!r} stands twice")
    return cases
