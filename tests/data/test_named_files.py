"""Rows in several files: folders, patterns, lists, packed ones, and splits that are given or named."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pytest

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import open_dataset, open_dataset_of
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.named_files import by_split, find_files, split_of_name
from sft.errors import ConfigError, DataError
from tests.data.bad_inputs import sheet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(*names: str) -> bytes:
    """JSONL of a question for each name."""
    return "".join(json.dumps({"instruction": name, "output": f"answer {name}"}) + "\n" for name in names).encode()


def write(name: str, *questions: str) -> Path:
    """A file of those questions, in a folder made for it."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows(*questions))
    return path


def asked(data: str, **how: object) -> list[str]:
    """The questions of a dataset's training rows, where nothing is held out."""
    return [row["instruction"] for row in open_dataset(data, eval_ratio=0, **how).train]  # type: ignore[arg-type]


def test_folder_pattern_and_list_read_every_file_once_in_order(capsys):
    write("shards/b.jsonl", "b1", "b2")
    write("shards/a.jsonl", "a1")
    write("shards/deep/c.jsonl", "c1")
    write("more.jsonl", "m1")
    write("nested/data/train-0.jsonl", "n1")
    Path("shards/dataset_info.json").write_text("{}")
    Path("shards/.hidden.jsonl").write_text("{}")
    Path("shards/README.md").write_text("no rows")

    assert asked("shards") == ["a1", "b1", "b2"]
    assert "shards: 1 files in folders below it are not read; name those: shards/**" in capsys.readouterr().err
    assert asked("shards/**") == ["a1", "b1", "b2", "c1"]
    assert asked("nested") == ["n1"]
    assert asked("shards/*.jsonl") == ["a1", "b1", "b2"]
    assert asked("shards/**/*.jsonl") == ["a1", "b1", "b2", "c1"]
    assert asked("more.jsonl, shards/a.jsonl,shards,shards/deep") == ["m1", "a1", "b1", "b2", "c1"]


def test_a_file_whose_name_holds_a_comma_or_a_bracket_is_that_file():
    write("a,b[1].jsonl", "x")

    assert asked("a,b[1].jsonl") == ["x"]


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_packed_files_are_read_as_what_they_hold(packing):
    codec = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    for name, content in {"rows.jsonl": rows("q1", "q2"), "rows.csv": b"instruction,output\nq1,a\nq2,NA\n"}.items():
        packed = codec[packing](content) if packing in codec else pyarrow.compress(content, "zstd", asbytes=True)
        Path(name + packing).write_bytes(packed)

    dataset = open_dataset(f"rows.jsonl{packing}", eval_ratio=0)
    assert [(row["id"], row["instruction"]) for row in dataset.train] == [("rows-1", "q1"), ("rows-2", "q2")]
    assert [row["output"] for row in open_dataset(f"rows.csv{packing}", eval_ratio=0).train] == ["a", "NA"]


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_packed_file_is_named(packing):
    Path(f"rows.jsonl{packing}").write_bytes(b"\x1f\x8b\x08\x00no gzip at all, nor any other")

    with pytest.raises(DataError, match=rf"^rows\.jsonl\{packing}: "):
        open_dataset(f"rows.jsonl{packing}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("rows.jsonl#500", "for 500 rows of it: --data rows.jsonl --max_samples 500"),
        ("rows.jsonl,nope.jsonl", "^nope.jsonl: no such file or folder"),
        ("no*.jsonl", "no file matches"),
        ("rows.jsonl,demo", "^demo: no such file or folder; .* are mixed by a preset"),
    ],
)
def test_what_names_no_files_is_answered_with_what_works(data, said):
    write("rows.jsonl", "a", "b")

    with pytest.raises(DataError, match=said):
        open_dataset(data)


def test_splits_are_read_from_the_flags_and_the_rows_keep_them():
    write("t.jsonl", "a", "b")
    write("v.jsonl", "c")
    write("test_1.jsonl", "d")
    settings = load_settings(
        TrainSettings, ["--train_data", "t.jsonl", "--val_data", "v.jsonl", "--test_data", "test_1.jsonl"]
    )

    dataset = open_dataset_of(settings)

    found = [[row["instruction"] for row in part] for part in (dataset.train, dataset.validation, dataset.test)]
    assert found == [["a", "b"], ["c"], ["d"]]
    alone = open_dataset("t.jsonl", test_data="test_1.jsonl", eval_ratio=0.5)
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (1, 1, 1)
    assert len({dataset.sha256, alone.sha256, open_dataset("t.jsonl").sha256}) == 3


def test_files_named_by_split_are_those_splits_as_an_extraction_writes_them():
    Path("out").mkdir()
    for split, text in (("train", "好"), ("validation", "坏"), ("test", "新")):
        Path(f"out/reviews.{split}.xlsx").write_bytes(sheet(["text", "label"], [text, 1]))
    Path("out/reviews.manifest.json").write_text("{}")

    dataset = open_dataset("out")

    found = [[row["text"] for row in part] for part in (dataset.train, dataset.validation, dataset.test)]
    assert found == [["好"], ["坏"], ["新"]]
    assert open_dataset("out/reviews.*.xlsx").sha256 == dataset.sha256


def test_names_of_files_say_their_split():
    names = ["train-00000-of-00002.parquet", "dev.tsv", "a.val.csv", "TEST.jsonl", "x_eval_2.json", "latest.jsonl"]
    names += ["train_test.jsonl", "contest.jsonl"]

    assert [split_of_name(Path(name)) for name in names] == [
        "train", "validation", "validation", "test", "validation", None, None, None,
    ]  # fmt: skip
    assert by_split([Path("train-0.jsonl"), Path("train-1.jsonl")]) == {}
    with pytest.raises(DataError, match="this one is not"):
        by_split([Path("train.jsonl"), Path("test.jsonl"), Path("more.jsonl")])


def test_a_file_in_two_splits_is_refused_and_rows_in_two_are_reported(capsys):
    write("a.jsonl", "a", "b")
    write("b.jsonl", "b", "c")

    with pytest.raises(DataError, match="given for train and for validation"):
        open_dataset("a.jsonl", validation_data="a.jsonl,b.jsonl")
    open_dataset("a.jsonl", validation_data="b.jsonl")

    assert "1 of 2 validation rows ask the same as a training row" in capsys.readouterr().err


def test_max_samples_draws_from_each_side_of_the_same_split():
    write("rows.jsonl", *(f"q{number}" for number in range(40)))

    whole, few = open_dataset("rows.jsonl", eval_ratio=0.25), open_dataset("rows.jsonl", eval_ratio=0.25, max_samples=5)

    assert (len(few.train), len(few.validation), few.sha256) == (5, 5, whole.sha256)
    assert [row for row in whole.train if row in few.train] == few.train
    assert [row for row in whole.validation if row in few.validation] == few.validation
    assert few == open_dataset("rows.jsonl", eval_ratio=0.25, max_samples=5)


def test_a_preset_reads_a_folder_and_names_each_file_in_manifest_and_ledger():
    write("shards/a.jsonl", "a1", "a2", "a1")
    write("shards/b.jsonl", "b1")
    preset = {"splits": {"train": {"rows": {"mine": 3}}}, "sources": {"mine": {"kind": "file", "path": "shards"}}}

    manifest = build_dataset(Preset.model_validate(preset), Path("mixed"), BuildOptions())

    assert list(manifest["sources"]["mine"]["files"]) == ["shards/a.jsonl", "shards/b.jsonl"]
    assert sorted(asked("mixed")) == ["a1", "a2", "b1"]
    assert "shards/a.jsonl" in Path("mixed/ledger.jsonl").read_text()
    with pytest.raises(ConfigError, match="is a built dataset, which has its splits"):
        open_dataset("mixed", test_data="shards")
    with pytest.raises(DataError, match="a built dataset; several are mixed by a preset"):
        find_files("mixed,shards")


@pytest.mark.parametrize(
    "content",
    [
        rows("a", "b").replace(b"\n", b"\r"),
        rows("a", "b").replace(b"\n", b",\n"),
        rows("a", "b").replace(b"\n", b"\r\n"),
    ],
    ids=["carriage returns", "commas behind the lines", "both"],
)
def test_jsonl_with_other_ends_of_lines_is_read(content):
    Path("rows.jsonl").write_bytes(content)

    assert asked("rows.jsonl") == ["a", "b"]


def test_a_line_above_the_header_of_a_csv_file_is_named():
    Path("rows.csv").write_text("# exported 2024\ninstruction,output\na,b\n")

    with pytest.raises(DataError, match="the first line names one column; it must name all: remove lines above it"):
        open_dataset("rows.csv")


@pytest.mark.parametrize(
    ("name", "split"),
    [("my_training_set.csv", "train"), ("训练集.csv", "train"), ("testing.csv", "test"), ("测试集_2.csv", "test"),
     ("development.csv", "validation"), ("验证.csv", "validation"), ("latest.csv", None)],
)  # fmt: skip
def test_a_split_is_named_by_the_words_people_use(name, split):
    assert split_of_name(Path(name)) == split
