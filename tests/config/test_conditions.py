"""--fail_if: what it understands, what it refuses, and that it can do nothing but compare."""

from typing import NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.config.conditions import look_up, parse_condition, spell
from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.errors import ConfigError

METRICS = {
    "classification": {"accuracy": 0.85, "by_task": {"sentiment": {"f1": 0.5}}},
    "comparison": {"outcome": "hurt", "metrics": {"ner f1": {"difference": -0.25, "finding": "worse"}}},
    "leaks": {"checked": True, "near": 3, "share": None, "ids": ["r1"]},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classification.accuracy < 0.9", True),
        ("classification.accuracy < 0.85", False),
        ("0.8 <= classification.accuracy <= 0.9", True),
        ("0.86 <= classification.accuracy <= 0.9", False),
        ('comparison.outcome == "hurt"', True),
        ('comparison.outcome != "hurt"', False),
        ('comparison.metrics["ner f1"].difference < -0.2', True),
        ("classification.accuracy > 0.9 or leaks.near >= 3", True),
        ("classification.accuracy > 0.9 and leaks.near >= 3", False),
        ("leaks.near > -1", True),
        ("leaks.checked == True and (leaks.near == 2 or leaks.near == 3)", True),
    ],
)
def test_a_condition_holds_as_it_reads(text, expected):
    assert parse_condition(text).holds(METRICS) is expected


def test_it_says_what_it_looked_at():
    condition = parse_condition('classification.accuracy < 0.9 or comparison.metrics["ner f1"].finding == "worse"')
    assert condition.values(METRICS) == (
        "classification.accuracy is 0.85, comparison.metrics[\"ner f1\"].finding is 'worse'"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no condition"),
        ("classification.accuracy <", "is no condition"),
        ("classification.accuracy", "compares nothing"),
        ("1 < 2", "names no figure of metrics.json"),
        ("x" * 1001, "is longer than 1000 characters"),
        ("a.b < __import__('os').system('true')", r"`__import__\('os'\).* is not part of a condition"),
        ("a.b < [1][0]", "is not part of a condition"),
        ("a.b < (lambda: 1)()", "is not part of a condition"),
        ("(c := a.b) < 1", "is not part of a condition"),
        ("a.b in 'abc'", "is not part of a condition"),
        ("a.b < 2 ** 99", "is not part of a condition"),
        ("a.b < 1 if a.c else 2", "is not part of a condition"),
        ("a[b] < 1", "is not part of a condition"),
        ("a.b + 1 < 2", "`a.b [+] 1` is not part of a condition"),
        ("not a.b < 1", "is not part of a condition"),
        ("a.b < 1 or a.c", "compares nothing"),
        ("a.b < None", "is not part of a condition"),
    ],
)
def test_what_is_no_condition_is_refused_before_anything_is_measured(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classification.acuracy < 1", r"--fail_if: classification has no 'acuracy'; did you mean 'accuracy'\?"),
        ("clasification.accuracy < 1", r"metrics.json has no 'clasification'; did you mean 'classification'\?"),
        ('comparison.metrics["ner f2"].low < 1', r"comparison.metrics has no 'ner f2'; did you mean 'ner f1'\?"),
        ("leaks.zzz < 1", "leaks has no 'zzz'; it has checked, near, share, ids"),
        ("leaks.near.far < 1", "leaks.near has no 'far'; it is a single value"),
        ("classification.by_task < 1", "classification.by_task is no single value; choose one of sentiment"),
        ("comparison.outcome < 1", "compares a text with a number"),
        ("leaks.near > 1 or leaks.far > 1", "leaks has no 'far'"),
        ("leaks.share < 1", "leaks.share is null: these rows give no such figure"),
        ("leaks.ids[0] < 1", "leaks.ids has no '0'; it is a list"),
    ],
)
def test_a_name_that_is_not_there_is_an_error_with_the_nearest_one(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_condition(text).holds(METRICS)


class Inner(TypedDict):
    accuracy: float
    by_task: NotRequired[dict[str, dict[str, float]]]


class Outer(TypedDict):
    classification: NotRequired[Inner]
    anything: object


def test_names_are_checked_against_the_declared_shape_before_there_are_figures():
    for text in ("classification.accuracy < 1", "classification.by_task.ner.f1 < 1", "anything.at.all < 1"):
        parse_condition(text).check_names(Outer)
    with pytest.raises(ConfigError, match=r"classification has no 'acuracy'; did you mean 'accuracy'\?"):
        parse_condition("classification.acuracy < 1").check_names(Outer)
    with pytest.raises(ConfigError, match=r"metrics\.json has no 'x'; it may have classification, anything"):
        parse_condition("x < 1").check_names(Outer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classification < 0.9", "classification is no single value; choose one of accuracy, num_rows, by_task"),
        ("comparison.metrics == 1", "comparison.metrics is not a single value; name one inside it"),
        ("confusion_matrix[0] < 1 or leaks.ids == 1", "leaks.ids is a list; conditions are over single values"),
        # would never hold: a gate that is always open
        ('comparison.outcome == "hurtt"', "comparison.outcome is never 'hurtt'; did you mean 'hurt'?"),
        ('"wrose" == comparison.metrics["ner f1"].finding', """finding is never 'wrose'; did you mean 'worse'?"""),
        ('comparison.outcome != "x"', "is never 'x'; it is one of helped, hurt, mixed, loss_only, unclear, too_few"),
    ],
)
def test_a_name_that_metrics_json_cannot_contain_is_refused_before_anything_is_measured(text, message):
    from sft.evaluation import Metrics

    with pytest.raises(ConfigError) as caught:
        parse_condition(text).check_names(Metrics)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        (
            "--no-baseline",
            'comparison.outcome == "hurt"',
            "comparison.outcome will not be there; comparison needs a base",
        ),
        ("--no-baseline", "base.ner.f1 > ner.f1", "base.ner.f1 will not be there; base needs a baseline, and --no-"),
        ("", "base.generation.rouge.rougeL < 0.2", "rougeL will not be there; base.generation.rouge needs --rouge"),
        ("", "comparison.metrics.rougeL.low < 0", "comparison.metrics.rougeL.low will not be there"),
        ("", 'generation.other["m/x"].figures.x < 1', "generation.other needs --metric"),
        ("", "robustness.overall.score < 0.9", "robustness needs --robustness"),
        ("--no-yardsticks", "yardsticks.by_task.ner.dictionary.value < 1", "yardsticks is left out by --no-yardsticks"),
        ("--no-leak_check", "without_overlaps.ner.f1 < 0.9", "without_overlaps needs the leak check"),
    ],
)
def test_a_group_that_the_flags_leave_out_is_refused_before_anything_is_measured(flags, text, message):
    from sft.evaluation import Metrics

    condition = parse_condition(text)
    with pytest.raises(ConfigError) as caught:
        condition.check_names(Metrics, load_settings(EvaluateSettings, flags.split()).not_measured)
    assert message in str(caught.value)
    everything = ["--rouge", "--metric", "m/x", "--robustness"]
    condition.check_names(Metrics, load_settings(EvaluateSettings, everything).not_measured)


def test_the_shape_of_metrics_json_knows_its_own_figures():
    from sft.evaluation import Metrics

    for text in ("classification.accuracy < 1", "teacher_forcing.eval_loss > 1", 'comparison.outcome == "hurt"'):
        parse_condition(text).check_names(Metrics)
    with pytest.raises(ConfigError, match="did you mean 'eval_loss'"):
        parse_condition("teacher_forcing.evalloss > 1").check_names(Metrics)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_path_spelled_is_the_path_read(names):
    first = "root"
    path = (first, *(name for name in names if '"' not in name and "\\" not in name and name.isprintable()))
    condition = parse_condition(f"{spell(path)} < 1")
    nested: object = 0.5
    for name in reversed(path):
        nested = {name: nested}
    assert condition.holds(nested)  # type: ignore[arg-type]
    assert look_up(condition.paths[0], nested) == 0.5  # type: ignore[arg-type]


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_a_value_error(text):
    try:
        parse_condition(text)
    except ValueError:
        return
