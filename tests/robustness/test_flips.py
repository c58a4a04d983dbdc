import pytest

from sft.robustness.flips import Answered, HardAnswer, summarise_hard_cases, summarise_tests


def test_all_figures_of_two_tests_one_of_which_changed_a_row_less():
    answered = [
        Answered("typos", "正面", "正面", "正面"),
        Answered("typos", "正面", "正面", "负面"),
        Answered("typos", "负面", "正面", "负面"),  # right only after the change: flipped, too
        Answered("width", "正面", "正面", "正面"),
        Answered("width", "正面", "正面", "负面"),
    ]
    overall, tests = summarise_tests(answered, ["typos", "width", "case"], 3)
    assert tests == {
        "typos": {
            "num_rows": 3,
            "changed_share": 1.0,
            "original_accuracy": pytest.approx(2 / 3),
            "perturbed_accuracy": pytest.approx(2 / 3),
            "score": 1.0,
            "flip_rate": pytest.approx(2 / 3),
        },
        "width": {
            "num_rows": 2,
            "changed_share": pytest.approx(2 / 3),
            "original_accuracy": 1.0,
            "perturbed_accuracy": 0.5,
            "score": 0.5,
            "flip_rate": 0.5,
        },
        "case": {
            "num_rows": 0,
            "changed_share": 0.0,
            "original_accuracy": None,
            "perturbed_accuracy": None,
            "score": None,
            "flip_rate": None,
        },
    }
    assert (overall["num_rows"], overall["changed_share"]) == (5, pytest.approx(5 / 9))
    assert (overall["original_accuracy"], overall["score"]) == (0.8, 0.75)


def test_a_model_that_was_never_right_has_no_score():
    overall, _ = summarise_tests([Answered("typos", "正面", "负面", "正面")], ["typos"], 1)
    assert (overall["original_accuracy"], overall["perturbed_accuracy"], overall["score"]) == (0.0, 1.0, None)


def test_hard_cases_are_counted_by_category():
    answers = [
        HardAnswer("sarcasm", "真厉害", "负面", "正面", 0.9),
        HardAnswer("sarcasm", "太棒了", "负面", "负面", 0.6),
        HardAnswer("slang", "真香", "正面", "正面", 0.8),
    ]
    assert summarise_hard_cases(answers) == {
        "overall": {"num_rows": 3, "num_right": 2, "accuracy": pytest.approx(2 / 3)},
        "by_category": {
            "sarcasm": {"num_rows": 2, "num_right": 1, "accuracy": 0.5},
            "slang": {"num_rows": 1, "num_right": 1, "accuracy": 1.0},
        },
    }
    with pytest.raises(ValueError, match="no answers to hard cases"):
        summarise_hard_cases([])
