"""Parquet as `datasets` writes it: columns of JSON texts come back as the values that were written."""

from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from sft.data import open_dataset
from sft.data.files.reader import read_records
from sft.data.rows.canonical import GoodRecord
from sft.errors import DataError

# A text that is JSON itself, such as "35", is kept as it is by `datasets` and read back as 35, there as here.
VALUES = ["text", 'with "quotes"\nand lines', "35", 35, 1.5, True, None, ["a", {"b": "c"}], {"k": "v"}, "{no JSON"]


def write(path: Path, rows: list[dict[str, object]], features: datasets.Features) -> Path:
    """Rows as `datasets` writes them into Parquet."""
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return path


def test_a_column_of_json_texts_is_read_as_datasets_reads_it(tmp_path):
    features = datasets.Features({"value": datasets.Json(), "plain": datasets.Value("string")})
    path = write(tmp_path / "rows.parquet", [{"value": value, "plain": '"x"'} for value in VALUES], features)

    expected = [35 if value == "35" else value for value in VALUES]
    assert list(datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))["value"]) == expected
    assert list(read_records(path)) == [
        GoodRecord(number, {"value": value, "plain": '"x"'}) for number, value in enumerate(expected, start=1)
    ]


def test_json_texts_within_turns_are_decoded_and_the_odd_row_is_named(tmp_path):
    features = datasets.Features({"messages": [{"role": datasets.Value("string"), "content": datasets.Json()}]})
    rows = [
        {"messages": [{"role": "user", "content": '6 x 7 "?"'}, {"role": "assistant", "content": "forty\ntwo"}]},
        {"messages": [{"role": "user", "content": "5 x 7?"}, {"role": "assistant", "content": 35}]},
    ]
    path = write(tmp_path / "rows.parquet", rows, features)

    with pytest.raises(DataError, match=r"rows\.parquet:2: turn 2: content is a number, expected text"):
        open_dataset(path)
    (row,) = open_dataset(path, eval_ratio=0, on_bad_row="quarantine").train
    assert row["messages"] == rows[0]["messages"]


def test_class_numbers_in_a_list_have_their_declared_names(tmp_path):
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [names]})
    path = write(tmp_path / "rows.parquet", [{"tokens": ["张", "华", "笑"], "ner_tags": [1, 2, 0]}], features)

    assert [record.fields["ner_tags"] for record in read_records(path)] == [["B-PER", "I-PER", "O"]]


def test_decimal_numbers_are_numbers(tmp_path):
    values = [Decimal("1"), Decimal("0.5"), None]
    parquet.write_table(
        pyarrow.table({"label": pyarrow.array(values, pyarrow.decimal128(10, 2))}), tmp_path / "a.parquet"
    )

    assert [record.fields["label"] for record in read_records(tmp_path / "a.parquet")] == [1, 0.5, None]
