"""Choosing rows: quotas, splits, duplicates, and sources that run dry."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.building.candidates import CandidateIndex
from sft.data.building.mixing import Mixture, OnShortage, mix
from sft.data.building.selection import NOT_CHOSEN, find_conflicts, find_duplicates, find_surplus
from sft.data.quotas import SPLITS, Cell, SplitPlan
from sft.errors import DataError


def index_of(group: list[int], cell: list[int], label: list[int] | None = None) -> CandidateIndex:
    """Candidates of these groups and cells; rows without a label where none is given."""
    return CandidateIndex(
        group=np.array(group, dtype=np.uint64),
        exact=np.arange(len(group), dtype=np.uint64),
        task=np.full(len(group), 0 if label is None else 1, dtype=np.uint8),
        label=np.array(label or [0] * len(group), dtype=np.uint16),
        cell=np.array(cell, dtype=np.uint16),
    )


def mix_sources(
    index: CandidateIndex, quotas: dict[str, list[int]], on_shortage: OnShortage = "error", seed: int = 42
) -> Mixture:
    """Mix with one cell per source: {"train": [3, 2]} asks 3 rows of s0 and 2 of s1."""
    names = [f"s{number}" for number in range(len(next(iter(quotas.values()))))]
    plans = []
    for split, counts in quotas.items():
        rows = dict(zip(names, counts, strict=True))
        plans.append(SplitPlan(split, rows, {name: Fraction(count) for name, count in rows.items()}))
    alive = np.ones(len(index), dtype=bool)
    cells = [Cell(name, "", Fraction(1)) for name in names]
    return mix(index, alive, cells, plans, on_shortage, random.Random(seed))


candidates = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=120)
three_quotas = st.lists(st.integers(0, 15), min_size=3, max_size=3)


@settings(max_examples=150)
@given(candidates, three_quotas, three_quotas, three_quotas, st.sampled_from(["accept", "rescale", "upsample"]))
def test_quotas_hold_no_text_is_in_two_splits_and_a_build_is_repeatable(rows, train, validation, test, on_shortage):
    index = index_of([group for group, _ in rows], [cell for _, cell in rows])
    quotas = {"train": train, "validation": validation, "test": test}
    try:
        mixture = mix_sources(index, quotas, on_shortage)
    except DataError:
        return  # a split without any row, or nothing to repeat

    for name, quota in quotas.items():
        assert all(has <= asked for has, asked in zip(mixture.written[name], quota, strict=True))
    sides: dict[int, set[int]] = {}
    for group, split in zip(index.group.tolist(), mixture.split_of.tolist(), strict=True):
        if split != NOT_CHOSEN:
            sides.setdefault(group, set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    again = mix_sources(index, quotas, on_shortage)
    assert again.copies == mixture.copies


@settings(max_examples=100)
@given(three_quotas, three_quotas, three_quotas, st.randoms(use_true_random=False))
def test_quotas_are_met_to_the_row_where_there_is_just_enough(train, validation, test, rng):
    cells = [cell for cell in range(3) for _ in range(train[cell] + validation[cell] + test[cell])]
    index = index_of(rng.sample(range(10**6), len(cells)), cells)
    quotas = {"train": train, "validation": validation, "test": test}

    mixture = mix_sources(index, quotas)

    assert mixture.written == quotas
    assert mixture.shortages == []
    chosen = sorted(number for name in SPLITS for number, _ in mixture.copies[name])
    assert chosen == list(range(len(cells)))


def test_a_group_too_large_for_test_goes_to_train_as_a_whole():
    index = index_of([5, 5, 5, 9], [0, 0, 0, 0])

    mixture = mix_sources(index, {"train": [3], "test": [1]})

    assert mixture.split_of.tolist() == [0, 0, 0, 2]


def test_a_larger_train_split_leaves_the_test_rows_as_they_were():
    index = index_of(random.Random(1).sample(range(10**6), 50), [0] * 50)

    small = mix_sources(index, {"train": [10], "test": [5]})
    large = mix_sources(index, {"train": [40], "test": [5]})

    assert np.flatnonzero(small.split_of == 2).tolist() == np.flatnonzero(large.split_of == 2).tolist()


def test_a_source_that_runs_dry_is_an_error_that_names_it():
    index = index_of([1, 2, 3, 4], [0, 0, 1, 1])

    with pytest.raises(DataError) as caught:
        mix_sources(index, {"train": [2, 5]})

    assert str(caught.value) == (
        "s1: 5 rows asked, 2 found; ask for fewer, or pass --on_shortage rescale|upsample|accept"
    )


def test_upsampling_repeats_training_rows_alike_and_never_evaluation_rows():
    index = index_of([1, 2, 3, 4], [0, 0, 0, 0])

    mixture = mix_sources(index, {"train": [9], "test": [3]}, "upsample")

    assert mixture.written == {"train": [9], "validation": [0], "test": [1]}
    counts: dict[int, int] = {}
    for number, _ in mixture.copies["train"]:
        counts[number] = counts.get(number, 0) + 1
    assert sorted(counts.values()) == [3, 3, 3]
    assert sorted(copy for _, copy in mixture.copies["train"]) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [shortage.describe() for shortage in mixture.shortages] == ["s0: 12 rows asked, 4 found"]


def test_accepting_leaves_the_other_sources_their_quota():
    index = index_of(list(range(10)), [0] * 2 + [1] * 8)

    mixture = mix_sources(index, {"train": [4, 5], "test": [0, 3]}, "accept")

    assert mixture.written == {"train": [2, 5], "validation": [0, 0], "test": [0, 3]}


def test_rescaling_keeps_the_shares_exact():
    index = index_of(list(range(40)), [0] * 5 + [1] * 35)

    mixture = mix_sources(index, {"train": [10, 30]}, "rescale")

    assert mixture.written["train"] == [5, 15]


def test_rescaling_lowers_the_quotas_again_if_groups_leave_rows_unfilled():
    index = index_of([3, 4, 2, 3, 3, 3], [0, 1, 1, 1, 0, 0])  # four rows that go to one split together

    mixture = mix_sources(index, {"train": [1, 4], "test": [3, 0]}, "rescale")

    assert mixture.written == {"train": [0, 1], "validation": [0, 0], "test": [1, 0]}


def test_rescaling_again_takes_nothing_from_a_source_that_was_not_short():
    index = index_of(group=[4, 5, 4, 3, 4], cell=[0, 0, 0, 1, 1])

    mixture = mix_sources(index, {"train": [6, 5], "test": [3, 2]}, "rescale")

    assert mixture.written == {"train": [1, 1], "validation": [0, 0], "test": [1, 0]}


def test_a_split_that_would_be_empty_is_an_error():
    with pytest.raises(DataError, match=r"test would have no rows \(s0: 3 rows asked, 1 found\)"):
        mix_sources(index_of([1], [0]), {"train": [2], "test": [1]}, "accept")


def test_the_first_of_equal_rows_stays():
    assert find_duplicates(np.array([7, 8, 7, 8, 7], dtype=np.uint64)).tolist() == [-1, -1, 0, 1, 0]


def test_a_text_with_two_labels_loses_all_its_rows_and_rows_without_labels_keep_theirs():
    labelled = index_of([1, 1, 2, 2], [0, 0, 0, 0], label=[0, 1, 1, 1])
    unlabelled = index_of([1, 1], [0, 0])

    assert find_conflicts(labelled, np.ones(4, dtype=bool)).tolist() == [True, True, False, False]
    assert find_conflicts(unlabelled, np.ones(2, dtype=bool)).tolist() == [False, False]


def test_labels_of_two_tasks_do_not_conflict():
    index = index_of([1, 1], [0, 0], label=[0, 1])
    index.task[1] = 2

    assert find_conflicts(index, np.ones(2, dtype=bool)).tolist() == [False, False]


def test_a_text_keeps_its_first_rows_up_to_the_limit_of_its_source():
    index = index_of([1, 1, 1, 1, 2], [0, 0, 1, 1, 0])
    source = np.array([0, 0, 1, 1, 0])
    limit = np.array([1, 1, 0, 0, 1])  # source 0: one row a text; source 1: any number

    assert find_surplus(index, np.ones(5, dtype=bool), source, limit).tolist() == [False, True, False, False, False]
