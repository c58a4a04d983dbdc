"""Opening data: dataset folders, single files, and what is said where there is none."""

import hashlib
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.files.reader import read_records
from sft.errors import ConfigError, DataError
from sft.text import normalise_text
from tests.data.samples import instruct_rows
from tests.hub_lookalikes import write_jsonl


@pytest.fixture
def folder(write_rows, tmp_path):
    """A built dataset of 6 training, 2 validation and 2 test rows."""
    source = {"kind": "file", "path": str(write_rows("own.jsonl", *instruct_rows(10)))}
    splits = {"train": {"rows": {"own": 6}}, "validation": {"rows": {"own": 2}}, "test": {"rows": {"own": 2}}}
    build_dataset(
        Preset.model_validate({"splits": splits, "sources": {"own": source}}), tmp_path / "mixed", BuildOptions()
    )
    return tmp_path / "mixed"


def test_a_folder_opens_as_it_was_built(folder):
    dataset = open_dataset(folder)

    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (6, 2, 2)
    assert {row["id"] for row in dataset.train + dataset.validation + dataset.test} == {
        f"own-{n}" for n in range(1, 11)
    }
    assert dataset.split == "as built"
    assert dataset.sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_a_changed_file_is_refused(folder):
    path = folder / "validation.jsonl"
    path.write_bytes(path.read_bytes().replace(b"answer", b"Answer"))

    with pytest.raises(DataError) as caught:
        open_dataset(folder)

    assert str(caught.value) == f"{path}: missing or changed since the dataset was built; build it again"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 9}', b'{"format": 1, "files": {"../x": {}}}'])
def test_an_invalid_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)

    with pytest.raises(DataError, match="not a dataset's manifest"):
        open_dataset(folder)


def test_a_folder_without_manifest_is_no_dataset(folder):
    (folder / "manifest.json").unlink()

    with pytest.raises(DataError, match=r"no manifest\.json, so no finished dataset"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("data/mixed", "python build_dataset.py --preset demo"),
        ("data/small", "python build_dataset.py --preset small --name small"),
        ("sets/small", "python build_dataset.py --preset small --name small --data_dir sets"),
        ("far/off/mine", "python build_dataset.py --preset demo --name mine --data_dir far/off"),
    ],
)
def test_missing_data_says_what_to_run_first(path, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()

    with pytest.raises(DataError) as caught:
        open_dataset(path)

    assert str(caught.value) == f"{path}: no such dataset; build it: {command}; or pass your own rows: --data rows.csv"


@pytest.mark.parametrize("asked", ["reviews", "Reviews.csv", "review.csv", "reviews.jsonl", "other.csv,reviews"])
def test_data_named_without_its_ending_or_mistyped_gets_the_file_beside_it(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "other.csv", "notes.txt"):
        Path(name).write_text("text,label\ngood,1\nbad,0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no such file.*; did you mean 'reviews\.csv'\?$"):
        open_dataset(asked)


def test_a_mistyped_file_to_answer_gets_the_nearest_name(tmp_path):
    (tmp_path / "reviews.csv").write_text("text\ngood\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no such file; did you mean '.*/reviews\.csv'\?$"):
        list(read_records(tmp_path / "reviews"))


def test_a_data_set_of_the_hub_is_brought_through_the_registry(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        open_dataset("owner/rows.v1")
    assert str(caught.value) == (
        "owner/rows.v1: no such folder here; if it is a data set of the Hugging Face hub, name it in datasets.yaml "
        "(rows.v1: {kind: hub, id: owner/rows.v1}) and pass --data rows.v1; one of ModelScope is named "
        "--data modelscope:owner/rows.v1"
    )

    with pytest.raises(DataError) as caught:
        open_dataset("slimorka")
    assert str(caught.value) == (
        "slimorka: no such folder, file or name of recipes/datasets.yaml; did you mean 'slimorca'?"
    )

    for part in ("a", "b"):
        write_jsonl(tmp_path / "d" / f"{part}.jsonl", [{"text": f"{part}{n}", "label": n % 2} for n in range(10)])
    commit = hub.add("datasets", "owner/rows.v1", tmp_path / "d")
    (tmp_path / "datasets.yaml").write_text("rows.v1: {kind: hub, id: owner/rows.v1, files: '*.jsonl'}\n")
    dataset = open_dataset("rows.v1", eval_ratio=0.2)

    assert (len(dataset.train), len(dataset.validation), dataset.path) == (16, 4, "rows.v1")
    assert sorted(row["id"] for row in dataset.train + dataset.validation) == sorted(
        f"rows.v1-{n}" for n in range(1, 21)
    )
    assert dataset.split == f"owner/rows.v1 at {commit}, by content hash, eval_ratio 0.2, seed 42"
    assert dataset == open_dataset("rows.v1", eval_ratio=0.2)


def test_a_mistake_in_the_registry_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.yaml").write_text("mine: {kind: hub, id: owner/rows, flies: x}\n")

    with pytest.raises(ConfigError) as caught:
        open_dataset("mine")

    assert str(caught.value) == "the registry's sources.mine.flies: no such key; did you mean 'files'?"


def test_a_single_file_is_split_by_content_and_the_same_texts_stay_together(write_rows):
    rows = instruct_rows(50) + [row | {"output": "another"} for row in instruct_rows(50)]
    path = write_rows("own.jsonl", *rows)

    dataset = open_dataset(path)

    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 0)
    sides = [{normalise_text(row["instruction"]) for row in side} for side in (dataset.train, dataset.validation)]
    assert sides[0] & sides[1] == set()
    assert dataset == open_dataset(path)
    assert dataset.validation != open_dataset(path, seed=43).validation
    assert dataset.split == "by content hash, eval_ratio 0.1, seed 42"
    assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_split_does_not_depend_on_the_order_of_the_file(write_rows):
    forward = open_dataset(write_rows("a.jsonl", *instruct_rows(30)))
    backward = open_dataset(write_rows("b.jsonl", *reversed(instruct_rows(30))))

    assert {row["instruction"] for row in forward.validation} == {row["instruction"] for row in backward.validation}


def test_two_rows_leave_one_to_train_on_and_one_row_is_refused(write_rows):
    dataset = open_dataset(write_rows("two.jsonl", *instruct_rows(2)))

    assert (len(dataset.train), len(dataset.validation)) == (1, 1)
    with pytest.raises(DataError, match="1 rows of 1 different texts leave none to train on"):
        open_dataset(write_rows("one.jsonl", *instruct_rows(1)))


def test_a_split_far_larger_than_requested_is_warned_of(write_rows, capsys):
    rows = [{"group": "a" if number < 9 else str(number), **row} for number, row in enumerate(instruct_rows(12))]

    for seed in range(20):
        held_out = open_dataset(write_rows("groups.jsonl", *rows), seed=seed).validation
        told = "12 rows of 4 groups: whole ones are held out, 9 rows where 1 were asked for" in capsys.readouterr().err
        assert told == (len(held_out) == 9)


def test_a_ratio_of_zero_holds_nothing_out(write_rows):
    assert len(open_dataset(write_rows("own.jsonl", *instruct_rows(3)), eval_ratio=0).train) == 3


def test_rows_of_a_single_file_are_named_after_it_and_their_line(write_rows):
    dataset = open_dataset(write_rows("reports.jsonl", *instruct_rows(2)), eval_ratio=0)

    assert dataset.train[0] == {
        "id": "reports-1",
        "source": "reports",
        "task": "instruct",
        "instruction": "question 0",
        "input": "",
        "output": "answer 0",
    }


def test_a_split_file_of_a_dataset_keeps_its_ids(folder):
    dataset = open_dataset(folder / "train.jsonl", eval_ratio=0)

    assert {row["source"] for row in dataset.train} == {"own"}
    assert dataset.train == open_dataset(folder).train


def test_a_bad_row_of_a_single_file_is_an_error_or_left_out_aloud(write_rows, capsys):
    path = write_rows("own.jsonl", *instruct_rows(3), "{", {"instruction": "Q", "output": ""})

    with pytest.raises(
        DataError, match=r"own\.jsonl:4: not valid JSON.*; fix the row, or pass --on_bad_row quarantine"
    ):
        open_dataset(path)
    assert len(open_dataset(path, eval_ratio=0, on_bad_row="quarantine").train) == 3

    said = capsys.readouterr().err
    assert f"{path}: 3 rows, recognised as instruction/input/output" in said
    assert f"warning: left out {path}:5: 'output' is empty" in said


def test_an_id_given_twice_is_a_bad_row(write_rows):
    row = {"id": "a-1", "source": "a", "task": "instruct", "instruction": "Q", "input": "", "output": "A"}

    with pytest.raises(DataError, match=r"own\.jsonl:2: id 'a-1' is given twice"):
        open_dataset(write_rows("own.jsonl", row, row | {"instruction": "R"}))
