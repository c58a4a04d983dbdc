import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.evaluation.rows import prepare_rows
from sft.evaluation.slices import LENGTH_EDGES, language_of, length_bucket, places_in_slices
from tests.evaluation.conftest import ROWS


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("房间很干净", "zh"),
        ("我用 python 写代码", "zh"),
        ("What is LoRA?", "latin"),
        ("Où est-ce? Größe", "latin"),
        ("什么是 LoRA adapter", "mixed"),
        ("これは何ですか", "other"),
        ("Что это такое", "other"),
        ("Что такое LoRA и зачем", "other"),
        ("12 + 7 = ?", "other"),
        ("", "other"),
    ],
)
def test_the_language_is_told_by_script(text, language):
    assert language_of(text) == language


def test_length_buckets_are_named_by_their_bounds():
    names = [length_bucket(length) for length in (1, 64, 65, 128, 129, 4096, 4097, 99999)]
    assert names == ["1-64", "1-64", "65-128", "65-128", "129-256", "2049-4096", "4097+", "4097+"]


@given(st.integers(1, 10_000))
def test_every_length_is_inside_the_bucket_it_falls_into(length):
    low, _, high = length_bucket(length).rstrip("+").partition("-")
    assert int(low) <= length <= int(high or 10**9)
    assert int(high or LENGTH_EDGES[-1]) in LENGTH_EDGES


def test_every_row_is_in_one_slice_of_each_kind(run, loaded):
    rows = prepare_rows(ROWS, loaded.chat, run.system_prompt, run.train_settings(), 512).rows
    found = places_in_slices(rows)
    assert {
        kind: sorted(place for places in slices.values() for place in places) for kind, slices in found.items()
    } == {kind: list(range(10)) for kind in ("source", "task", "length", "language")}
    assert {name: len(places) for name, places in found["source"].items()} == {"reviews": 4, "press": 3, "qa": 3}
    assert found["language"]["latin"] == [7]  # "What is LoRA?", its Chinese prompt aside
    starts = [int(name.partition("-")[0]) for name in found["length"]]
    assert starts == sorted(starts)
