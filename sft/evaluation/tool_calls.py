"""Calls of tools, scored against the reference's: the group tool_calls of metrics.json.

Over the rows whose reference calls something: is the answer a call that can be carried out, of the right functions,
with the right arguments. Over the rows that offer tools and whose reference calls nothing: does the answer call
nothing.

    score_calls("<tool_call>\\n{...}\\n</tool_call>", "Hello!", tools)     # CallOutcome(num_expected=1, ...)

Calls are compared as sets, since several may be carried out in any order. Values are equal as JSON has them: 2 is 2.0,
and true is not 1.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from prompts import Tool, ToolCall
from prompts.tools import CALL, BrokenCall, read_answer_text


@dataclass(frozen=True)
class CallOutcome:
    """Scores of one answer's calls, for a row that offers tools or whose reference calls.

    tries: the answer holds a call, or what should have been one; is_call: and it can be read. The arguments are counted
    over the calls of the reference and those of the answer that name the same function.
    """

    num_expected: int
    tries: bool
    is_call: bool
    has_right_functions: bool
    is_exact: bool
    arguments_right: int
    arguments_expected: int
    arguments_written: int


class ToolFigures(TypedDict):
    """Shares of rows; None if there are no such rows. arguments_f1 is over single arguments, by name and value."""

    num_calling: int  # rows whose reference calls something
    valid: float | None
    right_function: float | None
    exact: float | None
    arguments_f1: float | None
    num_plain: int  # rows that offer tools and whose reference calls nothing
    no_call: float | None


# The figures of rows that call, and what of an outcome each is the mean of.
SHARES = {"valid": "is_call", "right_function": "has_right_functions", "exact": "is_exact"}
NAMES = {
    "valid": "calls valid",
    "right_function": "calls right function",
    "exact": "calls exact",
    "arguments_f1": "calls arguments f1",
    "no_call": "no-call accuracy",
}


def score_calls(reference: str, answer: str, tools: Sequence[Tool]) -> CallOutcome:
    """Compare an answer with its reference, both as texts whose calls are spelled out."""
    expected, written = _read_calls(reference, tools) or [], _read_calls(answer, tools)
    calls = written or []
    pairs = _pair_calls(expected, calls)
    right = sum(_count_right(ours["arguments"], theirs["arguments"]) for ours, theirs in pairs)
    is_exact = len(pairs) == len(expected) == len(calls) and all(
        _is_same(ours["arguments"], theirs["arguments"]) for ours, theirs in pairs
    )
    names = [Counter(call["name"] for call in side) for side in (expected, calls)]
    return CallOutcome(
        num_expected=len(expected),
        tries=CALL in answer,
        is_call=bool(calls),
        has_right_functions=bool(calls) and names[0] == names[1],
        is_exact=bool(calls) and is_exact,
        arguments_right=right,
        arguments_expected=sum(len(call["arguments"]) for call in expected),
        arguments_written=sum(len(call["arguments"]) for call in calls),
    )


def summarise_calls(outcomes: Sequence[CallOutcome]) -> ToolFigures:
    """The figures of a model's answers; there is at least one."""
    num_calling = sum(outcome.num_expected > 0 for outcome in outcomes)
    return {
        "num_calling": num_calling,
        "valid": _figure("valid", outcomes),
        "right_function": _figure("right_function", outcomes),
        "exact": _figure("exact", outcomes),
        "arguments_f1": _figure("arguments_f1", outcomes),
        "num_plain": len(outcomes) - num_calling,
        "no_call": _figure("no_call", outcomes),
    }


def _figure(figure: str, outcomes: Sequence[CallOutcome]) -> float | None:
    units = [unit for outcome in outcomes if (unit := units_of(figure, outcome)) is not None]
    size = sum(size for _, size in units)
    return sum(share for share, _ in units) / size if size else None


def units_of(figure: str, outcome: CallOutcome) -> tuple[float, float] | None:
    """Numerator and denominator that a row adds to a figure; None: nothing."""
    if (figure == "no_call") == bool(outcome.num_expected):
        return None
    if figure == "no_call":
        return float(not outcome.tries), 1.0
    if figure == "arguments_f1":
        # twice the right arguments, and those of both sides, whose ratio is F1
        return 2.0 * outcome.arguments_right, float(outcome.arguments_expected + outcome.arguments_written)
    return float(getattr(outcome, SHARES[figure])), 1.0


def row_score(figure: str, outcome: CallOutcome) -> float:
    """The row's own score for a figure: its ratio, 1 for a call that needs no arguments."""
    right, size = units_of(figure, outcome) or (0.0, 0.0)
    return right / size if size else float(outcome.is_call)


def _read_calls(text: str, tools: Sequence[Tool]) -> list[ToolCall] | None:
    """The calls of a text; None if one cannot be read."""
    try:
        return read_answer_text(text, tools)[1]
    except BrokenCall:
        return None


def _pair_calls(expected: Sequence[ToolCall], written: Sequence[ToolCall]) -> list[tuple[ToolCall, ToolCall]]:
    """Each call of the reference with the answer's call of the same function that has most of its arguments."""
    left = list(written)
    pairs = []
    for call in expected:
        same = [other for other in left if other["name"] == call["name"]]
        if same:
            best = max(same, key=lambda other: _rank(call["arguments"], other["arguments"]))
            left = [other for other in left if other is not best]
            pairs.append((call, best))
    return pairs


def _rank(expected: dict[str, object], written: dict[str, object]) -> tuple[bool, int]:
    return _is_same(expected, written), _count_right(expected, written)


def _count_right(expected: dict[str, object], written: dict[str, object]) -> int:
    return sum(name in written and _is_same(value, written[name]) for name, value in expected.items())


def _is_same(ours: object, theirs: object) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_is_same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_is_same, ours, theirs))
    return isinstance(ours, bool) == isinstance(theirs, bool) and ours == theirs
