"""Calls scored against the reference's: what counts as right, over which rows, and where the figures appear."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import Encoded
from prompts.tasks import get_task
from prompts.tools import spell_answer
from sft.evaluation.compare import compare_models
from sft.evaluation.figures import measure_intervals
from sft.evaluation.model_answers import Answers, Measured, Outcome, call_units, read_outcomes, spell_as_reference
from sft.evaluation.rows import EvalRow
from sft.evaluation.tool_calls import NAMES, CallOutcome, score_calls, summarise_calls
from sft.report.figures import tool_table

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


def test_figures_cover_only_the_rows_that_can_show_them():
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


def make_rows(count: int) -> list[EvalRow]:
    """Rows of which every other one is to be answered with a call."""
    rows = []
    for number in range(count):
        question = f"question {number}"
        row = {"id": f"r{number}", "source": "made", "task": "chat", "tools": [TOOL],
               "messages": [{"role": "user", "content": question}]}  # fmt: skip
        reference = spell_answer("", [call(a=number)]) if number % 2 else "Hello!"
        rows.append(EvalRow(row, get_task("chat"), question, reference, (Encoded([1, 2], [0, 1]),), [1], ()))
    return rows


def measure(rows: list[EvalRow], texts: list[str]) -> Measured:
    answers = Answers([1.0] * len(rows), [1] * len(rows), [[] for _ in rows], texts, [True] * len(rows))
    return Measured(answers, read_outcomes(rows, answers, None))


def test_calls_are_compared_and_have_intervals_and_a_table():
    rows = make_rows(80)
    tuned = measure(rows, [row.reference for row in rows])
    base = measure(rows, [spell_answer("", [call("g")])] * len(rows))

    found = compare_models(rows, base, tuned, seed=1)["metrics"]
    assert {name: (figure["base"], figure["tuned"], figure["num_rows"]) for name, figure in found.items()
            if name in NAMES.values()} == {
        "calls valid": (1.0, 1.0, 40), "calls right function": (0.0, 1.0, 40), "calls exact": (0.0, 1.0, 40),
        "calls arguments f1": (0.0, 1.0, 40), "no-call accuracy": (0.0, 1.0, 40),
    }  # fmt: skip
    assert found["calls exact"]["finding"] == found["no-call accuracy"]["finding"] == "better"
    assert (found["calls exact"]["test"], found["calls arguments f1"]["test"]) == ("mcnemar", "permutation")
    intervals = measure_intervals(rows, tuned)
    assert {name: intervals[name]["num_units"] for name in NAMES.values()} == dict.fromkeys(NAMES.values(), 40)
    assert 0.85 < intervals["calls exact"]["low"] < intervals["calls exact"]["high"] == 1.0
    metrics = {"tool_calls": summarise_calls([outcome.calls for outcome in tuned.outcomes]),
               "base": {"tool_calls": summarise_calls([outcome.calls for outcome in base.outcomes])},
               "run": {"baseline": None}}  # fmt: skip
    assert tool_table(metrics) == (
        ["tool calls", "rows", "base", "tuned"],
        [["calls valid", 40, 1.0, 1.0], ["calls right function", 40, 0.0, 1.0], ["calls exact", 40, 0.0, 1.0],
         ["calls arguments f1", 40, 0.0, 1.0], ["no-call accuracy", 40, 0.0, 1.0]],
    )  # fmt: skip


def test_the_form_of_a_models_calls_is_no_difference():
    (row,) = make_rows(2)[1:]
    xml = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"

    assert spell_as_reference(xml, row) == row.reference
    assert spell_as_reference("<tool_call>\n{", row) == "<tool_call>\n{"
