from collections import Counter

import pytest

from sft.robustness import flips
from sft.robustness.flips import HardCase, load_hard_cases


def test_the_suite_is_balanced_and_holds_every_kind_of_difficulty():
    cases = load_hard_cases()
    assert Counter(case.label for case in cases) == {"正面": 77, "负面": 79}
    assert Counter(case.category for case in cases) == {
        "very_short": 16,
        "negation": 16,
        "double_negation": 12,
        "sarcasm": 14,
        "mixed_turning_good": 6,
        "mixed_turning_bad": 6,
        "comparison": 12,
        "wish_and_condition": 8,
        "question": 8,
        "slang": 12,
        "emoji_with_meaning": 8,
        "facts_without_feeling_words": 12,
        "quoted_opinion": 8,
        "english_and_mixed_script": 12,
        "very_long": 6,
    }
    assert len({case.case_id for case in cases}) == len(cases)
    assert cases[0] == HardCase("very_short-1", "very_short", "赞", "正面")


def test_very_short_ones_are_short_and_very_long_ones_long_and_without_seams():
    by_category = {
        name: [c.text for c in load_hard_cases() if c.category == name] for name in ("very_short", "very_long")
    }
    assert max(map(len, by_category["very_short"])) <= 4
    assert min(map(len, by_category["very_long"])) > 200
    assert [text for text in by_category["very_long"] if " " in text or "\n" in text] == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sarcasm: {正面: [好], 中性: [一般]}", "sarcasm must map 负面 and 正面 to lists of sentences"),
        ("a: {正面: [好]}\nb: {负面: [好]}", "'好' occurs twice"),
    ],
)
def test_a_broken_suite_is_refused(content, complaint, tmp_path, monkeypatch):
    path = tmp_path / "hard_cases.yaml"
    path.write_text(content, encoding="utf-8")
    monkeypatch.setattr(flips, "FILE", path)
    with pytest.raises(ValueError, match=complaint):
        load_hard_cases()
