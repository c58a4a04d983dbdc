"""Exact quotas."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.quotas import (
    Cell,
    SplitPlan,
    asked_of,
    divide_over_cells,
    largest_remainder,
    parse_label_quota,
    rescale_plans,
    scale_plans,
)

shares = st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any)


@given(st.integers(0, 10**6), shares)
def test_parts_sum_to_the_total_and_differ_from_the_ideal_by_less_than_one(total, parts):
    result = largest_remainder(total, parts)

    assert sum(result) == total
    assert all(abs(size - Fraction(total * part, sum(parts))) < 1 for size, part in zip(result, parts, strict=True))


def test_ties_between_remainders_go_to_the_first():
    assert largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert largest_remainder(2000, [Fraction("0.5"), Fraction("0.25"), Fraction("0.25")]) == [1000, 500, 500]
    assert largest_remainder(7, [0, 0]) == [0, 0]


def test_strata_divide_the_rows_of_their_source_only():
    cells = [Cell("a", "正面", Fraction(1, 2)), Cell("a", "负面", Fraction(1, 2)), Cell("b", "", Fraction(1))]
    plans = [plan("train", {"a": 7, "b": 3}), plan("test", {"a": 2, "b": 0})]

    assert divide_over_cells(plans, cells) == {"train": [4, 3, 3], "test": [1, 1, 0]}


@given(st.integers(1, 5000), st.integers(0, 500), shares, st.data())
def test_a_rescaled_mixture_fits_what_there_is_and_keeps_its_shares(train, test, weights, data):
    names = [f"s{number}" for number in range(len(weights))]
    cells = [Cell(name, "", Fraction(1)) for name in names]
    weighted = {name: Fraction(weight) for name, weight in zip(names, weights, strict=True)}
    plans = [SplitPlan("train", {}, weighted).scaled_to(train), SplitPlan("test", {}, weighted).scaled_to(test)]
    available = data.draw(st.lists(st.integers(0, 5000), min_size=len(names), max_size=len(names)))

    shrunk = rescale_plans(plans, cells, available)

    quotas = divide_over_cells(shrunk, cells)
    assert all(asked_of(quotas, number) <= has for number, has in enumerate(available))
    for split in shrunk:
        assert list(split.rows.values()) == largest_remainder(split.total, weights)


def test_rescaling_by_a_source_with_two_thirds_of_its_rows_leaves_two_thirds():
    plans = [plan("train", {"own": 18, "reviews": 882})]
    cells = [Cell("own", "", Fraction(1)), Cell("reviews", "", Fraction(1))]

    assert rescale_plans(plans, cells, [12, 9999])[0].rows == {"own": 12, "reviews": 588}


@given(st.dictionaries(st.text("正常暴恐ab :", min_size=1).filter(str.strip), st.integers(0, 10**6), min_size=1))
def test_a_quota_per_label_is_read_as_it_was_written(quota):
    quota = {label.strip(): rows for label, rows in quota.items()}

    assert parse_label_quota(",".join(f" {label} : {rows}" for label, rows in quota.items())) == quota
    assert parse_label_quota("，".join(f"{label}：{rows}" for label, rows in quota.items())) == quota


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("正常", "'正常' does not say how many; write 正常:15000,暴恐:6000"),
        ("正常:1,暴恐:", "'暴恐:' does not say how many"),
        ("正常:-1", "正常:-1: '-1' is no number of rows; write 正常:15000"),
        ("正常:²", "正常:²: '²' is no number of rows"),
        (":3", "':3' does not say how many"),
        ("正常:1,正常:2", "'正常' is given twice"),
    ],
)
def test_a_quota_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_label_quota(text)


@given(
    st.integers(1, 10**5),
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 500)), min_size=1, max_size=3),
)
def test_quotas_of_labels_are_met_in_every_split_also_when_it_is_scaled(total, quotas):
    quotas = [quota for quota in quotas if sum(quota.values())]
    cells = [Cell("own", label, Fraction(1, 3)) for label in "abc"]
    plans = [label_plan(f"split{number}", quota) for number, quota in enumerate(quotas)]

    exact = divide_over_cells(plans, cells)
    scaled = scale_plans(plans, total) if plans else []

    assert list(exact.values()) == [[quota.get(label, 0) for label in "abc"] for quota in quotas]
    assert sum(split.total for split in scaled) == (total if plans else 0)
    for split, quota, parts in zip(scaled, quotas, divide_over_cells(scaled, cells).values(), strict=True):
        assert parts == largest_remainder(split.total, [quota.get(label, 0) for label in "abc"])


def label_plan(name: str, quota: dict[str, int]) -> SplitPlan:
    rows = {"own": sum(quota.values())}
    shares = {"own": {label: Fraction(count) for label, count in quota.items()}}
    return SplitPlan(name, rows, {"own": Fraction(rows["own"])}, shares)


def plan(name: str, rows: dict[str, int]) -> SplitPlan:
    return SplitPlan(name, rows, {source: Fraction(count) for source, count in rows.items()})
