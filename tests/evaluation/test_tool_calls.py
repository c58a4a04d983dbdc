"""Calls scored against the reference's: what counts as right, over which rows, and where the figures appear."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.tools import spell_answer
from sft.evaluation.outcomes import Outcome, call_units
from sft.evaluation.tool_calls import NAMES, CallOutcome, score_calls, summarise_calls

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}


def call(name: str = "f", **arguments: object) -> dict:
    return {"name": name, "arguments": arguments}


def score(expected: list[dict], written: list[dict] | str) -> CallOutcome:
    answer = written if isinstance(written, str) else spell_answer("", written)
    return score_calls(spell_answer("", expected), answer, [TOOL])


@pytest.mark.parametrize(
    ("expected", "written", "figures"),
    [  # is_call, right functions, exact, arguments: right, expected, written
        ([call(a=1, b="x")], [call(b="x", a=1.0)], (True, True, True, 2, 2, 2)),
        ([call(a=1, b="x")], [call(a=2, b="x")], (True, True, False, 1, 2, 2)),
        ([call(a=1)], [call(a=1, b=2)], (True, True, False, 1, 1, 2)),
        ([call(a=1)], [call(a=True)], (True, True, False, 0, 1, 1)),
        ([call(a=1)], [call("g", a=1)], (True, False, False, 0, 1, 1)),
        ([call(), call("g")], [call("g"), call()], (True, True, True, 0, 0, 0)),
        ([call(a=1)], [call(a=1), call(a=1)], (True, False, False, 1, 1, 2)),
        ([call(a=1), call(a=2)], [call(a=2), call(a=1)], (True, True, True, 2, 2, 2)),
        ([call(a=1)], "It is warm.", (False, False, False, 0, 1, 0)),
        ([call(a=1)], '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>', (False, False, False, 0, 1, 0)),
        ([call(a=1)], "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
         (True, True, True, 1, 1, 1)),
    ],
)  # fmt: skip
def test_a_call_is_right_where_functions_and_arguments_are(expected, written, figures):
    found = score(expected, written)

    assert (found.is_call, found.has_right_functions, found.is_exact) == figures[:3]
    assert (found.arguments_right, found.arguments_expected, found.arguments_written) == figures[3:]


def test_a_row_that_calls_nothing_is_right_where_the_answer_calls_nothing_and_tries_nothing():
    answers = ["Hello!", spell_answer("", [call()]), "<tool_call>\n{"]

    outcomes = [score_calls("Hi!", answer, [TOOL]) for answer in answers]

    assert [outcome.tries for outcome in outcomes] == [False, True, True]
    assert summarise_calls(outcomes) == {
        "num_calling": 0, "valid": None, "right_function": None, "exact": None, "arguments_f1": None,
        "num_plain": 3, "no_call": 1 / 3,
    }  # fmt: skip


def test_the_figures_are_over_the_rows_that_can_tell_them():
    outcomes = [
        score([call(a=1, b=2)], [call(a=1, b=3)]),
        score([call(a=1)], "No."),
        score([call()], [call()]),
        score_calls("Hi", "Hi", [TOOL]),
    ]

    assert summarise_calls(outcomes) == {
        "num_calling": 3, "valid": 2 / 3, "right_function": 2 / 3, "exact": 1 / 3, "arguments_f1": 2 / 5,
        "num_plain": 1, "no_call": 1.0,
    }  # fmt: skip
    rows = [Outcome(), *(Outcome(calls=outcome) for outcome in outcomes)]
    assert {name: call_units(figure, rows)[0] for figure, name in NAMES.items()} == {
        "calls valid": [1, 2, 3],
        "calls right function": [1, 2, 3],
        "calls exact": [1, 2, 3],
        "calls arguments f1": [1, 2, 3],
        "no-call accuracy": [4],
    }
    assert call_units("arguments_f1", rows)[2].tolist() == [0.5, 0.0, 1.0]


VALUES = st.recursive(st.integers(-3, 3) | st.booleans() | st.text("ab", max_size=2) | st.none(),
                      lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner),
                      max_leaves=3)  # fmt: skip
ARGUMENTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
CALLS = st.lists(st.builds(lambda name, values: {"name": name, "arguments": values}, st.sampled_from("fg"), ARGUMENTS),
                 min_size=1, max_size=3)  # fmt: skip


@given(CALLS, CALLS, st.randoms())
def test_every_figure_agrees_with_every_other(expected, written, rng):
    found, shuffled = score(expected, written), rng.sample(expected, len(expected))
    right = score(expected, shuffled)

    assert right.is_exact
    assert right.arguments_right == right.arguments_expected == right.arguments_written
    assert found.is_exact <= found.has_right_functions <= found.is_call
    assert found.arguments_right <= min(found.arguments_expected, found.arguments_written)
