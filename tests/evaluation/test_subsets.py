from dataclasses import dataclass

from sft.evaluation.model_answers import Answers, Measured, Outcome, take_rows


def test_every_list_of_a_measurement_is_taken_at_the_same_rows():
    outcomes = [Outcome(scored=name) for name in "abc"]
    answers = Answers([1.0, 2.0, 3.0], [1, 2, 3], [[0.1], [], [0.3]], ["x", "y", "z"], [True, False, True])
    measured = Measured(answers, outcomes, {"rouge1": [0.1, None, 0.3]})
    assert take_rows(measured, [2, 0]) == Measured(
        Answers([3.0, 1.0], [3, 1], [[0.3], [0.1]], ["z", "x"], [True, True]),
        [outcomes[2], outcomes[0]],
        {"rouge1": [0.3, 0.1]},
    )
    assert take_rows(Measured(answers, outcomes, None), [1]).rouge is None


def test_a_list_that_is_added_later_is_taken_too():
    @dataclass(frozen=True)
    class More(Measured):
        scores: tuple | None = None
        extra: list | None = None

    answers = Answers([1.0, 2.0], [1, 2], [[], []], ["x", "y"], [True, True])
    assert take_rows(More(answers, [Outcome(), Outcome()], None, extra=["p", "q"]), [1]).extra == ["q"]
