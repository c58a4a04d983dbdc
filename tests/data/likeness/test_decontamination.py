"""Evaluation texts in training rows: shared runs of 13 characters, most of them."""

import orjson
import pytest

from sft.data.likeness import EvaluationTexts
from sft.data.rows.canonical import Row
from sft.errors import DataError
from tests.data.sources.test_filters import row_of

LONG = "How many electrons does a neutral carbon atom hold in its outer shell?"


def read(tmp_path, *questions: str) -> EvaluationTexts:
    path = tmp_path / "benchmark.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"instruction": q, "output": "x"}) + b"\n" for q in questions))
    return EvaluationTexts.read([str(path)])


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (row_of(LONG, "Four."), "100%"),
        (row_of("Quiz", f"First: {LONG.upper()} Four."), "100%"),
        (row_of("how many electrons does a neutral carbon atom hold in its outer?", "Four."), "89%"),
        (row_of("How many electrons does a neutral carbon atom hold?", "Six."), None),
        (row_of("Which country is the largest?", "Russia."), None),
        (row_of("2+2?", "4"), "100%"),
        (row_of("What is 2+2?", "4"), None),
    ],
)
def test_a_row_that_holds_most_of_an_evaluation_text_is_found(row: Row, share, tmp_path):
    held_out = read(tmp_path, "Which of the planets is the largest one?", LONG, "2+2?")

    found = held_out.find(row)

    line = 3 if row["instruction"] == "2+2?" else 2
    assert found == (share and f"holds {share} of {tmp_path}/benchmark.jsonl:{line}")


def test_a_phrase_of_many_evaluation_texts_gives_nobody_away(tmp_path):
    task = "Answer the following question about chemistry in one word: "
    held_out = read(tmp_path, *(f"{task}{name}" for name in "abcdefghijklmnop"))

    assert held_out.find(row_of(f"{task}helium", "x")) is None
    assert held_out.find(row_of(f"{task}c", "x")) == f"holds 100% of {tmp_path}/benchmark.jsonl:3"


def test_an_evaluation_file_that_cannot_be_read_ends_the_build(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    path.write_text('{"instruction": "cut off\n', encoding="utf-8")

    with pytest.raises(DataError, match=r"--decontaminate: .*benchmark\.jsonl:1: not valid JSON"):
        EvaluationTexts.read([str(path)])
    with pytest.raises(DataError, match="no such file"):
        EvaluationTexts.read(["nowhere.jsonl"])
