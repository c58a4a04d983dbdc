"""Building a dataset folder: the books balance, the same comes out twice, and an old dataset survives a kill."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions, summary_table
from sft.data.building.preset import Preset
from sft.data.folder import Manifest, read_manifest, stage_folder
from sft.errors import DataError
from sft.files import BusyError
from tests.data.samples import instruct_rows

SPLIT_NAMES = ("train", "validation", "test")
GOOD_ROW = {"instruction": "Q", "input": "", "output": "A"}


def preset_of(splits: dict[str, dict[str, int]], **sources: dict[str, object]) -> Preset:
    """preset_of({"train": {"own": 3}}, own={"path": ...})"""
    return Preset.model_validate(
        {
            "splits": {name: {"rows": rows} for name, rows in splits.items()},
            "sources": {name: {"kind": "file"} | keys for name, keys in sources.items()},
        }
    )


def read_rows(folder: Path, name: str) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]


def assert_balanced(folder: Path, manifest: Manifest) -> None:
    """Every row read is kept or stands in the ledger once, and what is written is what the manifest says."""
    ledger = read_rows(folder, "ledger")
    for name, entry in manifest["sources"].items():
        left_out = [line for line in ledger if line["source"] == name]
        assert entry["read"] == entry["kept"] + len(left_out)
        assert Counter(line["reason"] for line in left_out) == Counter(entry["dropped"]) + Counter(entry["quarantined"])
        for split in SPLIT_NAMES:
            rows = [row for row in read_rows(folder, split) if row["source"] == name]
            assert len(rows) == entry["written"][split]


def test_every_row_read_is_kept_or_is_in_the_ledger_with_its_line(write_rows, tmp_path):
    rows = write_rows(
        "own.jsonl",
        GOOD_ROW,
        '{"instruction": "cut off',
        GOOD_ROW,  # the same again
        {"instruction": "Q", "input": "", "output": "another answer"},
        {"instruction": "q?", "input": "", "output": "a third answer"},
        {"instruction": "much too long", "input": "", "output": "A"},
        {"instruction": "R", "input": "", "output": ""},
        {"instruction": "S", "input": "", "output": "A"},
        {"instruction": "T", "input": "", "output": "A"},
    )
    source = {"path": str(rows), "filters": {"max_chars": 5}, "max_rows_per_text": 2}

    folder = tmp_path / "mixed"
    options = BuildOptions(on_bad_row="quarantine")
    manifest = build_dataset(preset_of({"train": {"own": 3}}, own=source), folder, options)

    chosen = {row["id"] for row in read_rows(folder, "train")}
    surplus = ({"own-1", "own-4", "own-8", "own-9"} - chosen).pop()
    assert {
        (line["where"], line["bucket"], line["reason"], line["detail"]) for line in read_rows(folder, "ledger")
    } == {
        (
            f"{rows}:2",
            "quarantined",
            "not_json",
            "not valid JSON: Unterminated string starting at column 17 (cut off?)",
        ),
        (f"{rows}:3", "dropped", "duplicate", "same as own-1"),
        (f"{rows}:5", "dropped", "same_text", ""),
        (f"{rows}:6", "dropped", "too_long", ""),
        (f"{rows}:7", "quarantined", "empty_answer", "'output' is empty"),
        (f"{rows}:{surplus.removeprefix('own-')}", "dropped", "over_quota", ""),
    }
    assert_balanced(folder, manifest)
    assert summary_table(manifest).splitlines()[2:] == [
        "own         3     9     3        4    2  1 duplicate, 1 over_quota, 1 same_text, 1 too_long, 1 empty_answer, "
        "1 not_json",
        "all         3     9     3        4    2  written: train 3, validation 0, test 0",
    ]


def test_a_bad_row_ends_the_build_unless_it_is_quarantined(write_rows, tmp_path):
    rows = write_rows("own.jsonl", GOOD_ROW, {"instruction": "Q", "output": ""})

    with pytest.raises(DataError) as caught:
        build_dataset(preset_of({"train": {"own": 1}}, own={"path": str(rows)}), tmp_path / "mixed", BuildOptions())

    assert str(caught.value) == f"{rows}:2: 'output' is empty; fix the row, or pass --on_bad_row quarantine"
    assert not (tmp_path / "mixed").exists()


def test_too_many_bad_rows_fail_the_build_and_are_named(write_rows, tmp_path):
    rows = write_rows("own.jsonl", "{", GOOD_ROW, "[]", "17")
    preset = preset_of({"train": {"own": 1}}, own={"path": str(rows)})

    build_dataset(preset, tmp_path / "three", BuildOptions(on_bad_row="quarantine", max_bad_rows=3))
    with pytest.raises(DataError) as caught:
        build_dataset(preset, tmp_path / "two", BuildOptions(on_bad_row="quarantine", max_bad_rows=2))

    assert str(caught.value).startswith(f"more than 2 bad rows (--max_bad_rows); the first: {rows}:1: not valid JSON")
    assert str(caught.value).endswith(f"; {rows}:4: a number, expected an object")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_choice(write_rows, tmp_path):
    rows = write_rows("own.jsonl", *instruct_rows(60))
    preset = preset_of({"train": {"own": 30}, "test": {"own": 10}}, own={"path": str(rows)})

    def build(name: str, seed: int) -> dict[str, bytes]:
        build_dataset(preset, tmp_path / name, BuildOptions(seed=seed))
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    first, second, third = build("a", 1), build("b", 1), build("c", 2)

    assert sorted(first) == ["ledger.jsonl", "manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    assert first == second
    assert first["train.jsonl"] != third["train.jsonl"]
    assert {row["id"] for row in read_rows(tmp_path / "a", "test")} != {
        r["id"] for r in read_rows(tmp_path / "c", "test")
    }


def test_texts_that_differ_in_width_case_or_punctuation_stay_on_one_side(write_rows, tmp_path):
    forms = ("{n} What is LoRA?", "{n} what is ＬＯＲＡ", "{n}, what is “LoRA”")
    rows = [
        {"instruction": form.format(n=number), "input": "", "output": f"answer {position}"}
        for number in range(40)
        for position, form in enumerate(forms)
    ]
    quotas = {"train": {"own": 60}, "validation": {"own": 15}, "test": {"own": 30}}

    build_dataset(
        preset_of(quotas, own={"path": str(write_rows("own.jsonl", *rows))}), tmp_path / "mixed", BuildOptions()
    )

    sides: dict[str, set[str]] = {}
    for split in SPLIT_NAMES:
        for row in read_rows(tmp_path / "mixed", split):
            number = str(row["instruction"]).replace(",", "").split()[0]
            sides.setdefault(number, set()).add(split)
    assert {len(side) for side in sides.values()} == {1}


def test_no_text_of_one_source_is_on_another_side_in_another_source(write_rows, tmp_path):
    first = write_rows("a.jsonl", *instruct_rows(40))
    second = write_rows("b.jsonl", *(row | {"output": "other"} for row in instruct_rows(40)))
    quotas = {"train": {"a": 20, "b": 20}, "test": {"a": 10, "b": 10}}

    build_dataset(
        preset_of(quotas, a={"path": str(first)}, b={"path": str(second)}), tmp_path / "mixed", BuildOptions()
    )

    questions = {split: {row["instruction"] for row in read_rows(tmp_path / "mixed", split)} for split in SPLIT_NAMES}
    assert questions["train"] & questions["test"] == set()


def test_a_text_with_two_labels_is_left_out_and_counted(write_rows, tmp_path):
    labelled = [("很好", 1), ("很好。", 0), ("不错", 1), ("差", 0)]
    rows = write_rows("own.jsonl", *({"text": text, "label": label} for text, label in labelled))

    manifest = build_dataset(
        preset_of({"train": {"own": 2}}, own={"path": str(rows)}), tmp_path / "mixed", BuildOptions()
    )

    assert manifest["sources"]["own"]["dropped"] == {"conflicting_label": 2}
    assert {row["text"] for row in read_rows(tmp_path / "mixed", "train")} == {"不错", "差"}


def test_labels_are_balanced_to_the_row_in_every_split(write_rows, tmp_path):
    texts = [{"text": f"酒店{number}", "label": int(number % 5 == 0)} for number in range(100)]
    source = {
        "path": str(write_rows("own.jsonl", *texts)),
        "strata": {"by": "label", "shares": {"正面": 0.5, "负面": 0.5}},
    }

    manifest = build_dataset(
        preset_of({"train": {"own": 20}, "validation": {"own": 7}, "test": {"own": 10}}, own=source),
        tmp_path / "mixed",
        BuildOptions(),
    )

    labels = [Counter(row["label"] for row in read_rows(tmp_path / "mixed", split)) for split in SPLIT_NAMES]
    assert labels == [{"正面": 10, "负面": 10}, {"正面": 4, "负面": 3}, {"正面": 5, "负面": 5}]
    assert manifest["sources"]["own"]["strata"] == {"正面": 19, "负面": 18}


def test_upsampled_rows_get_ids_of_their_own_and_stay_out_of_the_test_split(write_rows, tmp_path):
    rows = write_rows("own.jsonl", *instruct_rows(6))
    preset = preset_of({"train": {"own": 8}, "test": {"own": 4}}, own={"path": str(rows)})

    manifest = build_dataset(preset, tmp_path / "mixed", BuildOptions(on_shortage="upsample"))

    train = read_rows(tmp_path / "mixed", "train")
    assert len({row["id"] for row in train}) == 8
    assert sorted(str(row["id"]).partition("#")[2] for row in train) == ["", "", "", "", "2", "2", "2", "2"]
    assert {row["instruction"] for row in train} & {
        r["instruction"] for r in read_rows(tmp_path / "mixed", "test")
    } == set()
    assert manifest["sources"]["own"]["repeated"] == 4
    assert_balanced(tmp_path / "mixed", manifest)


def test_the_manifest_has_the_counts_and_the_hashes(write_rows, tmp_path):
    rows = write_rows("own.jsonl", *instruct_rows(5))
    preset = preset_of({"train": {"own": 3}, "validation": {"own": 1}}, own={"path": str(rows)})

    manifest = build_dataset(preset, tmp_path / "mixed", BuildOptions(seed=7))

    assert read_manifest(tmp_path / "mixed") == manifest
    own = manifest["sources"]["own"]
    revision = own.pop("revision")  # type: ignore[misc]
    assert own == {
        "kind": "file",
        "id": str(rows),
        "files": {str(rows): revision},
        "asked": {"train": 3, "validation": 1},
        "read": 5,
        "kept": 4,
        "dropped": {"over_quota": 1},
        "quarantined": {},
        "repeated": 0,
        "written": {"train": 3, "validation": 1, "test": 0},
        "strata": {},
        "examples": {"over_quota": own["examples"]["over_quota"]},
    }
    example = own["examples"]["over_quota"]
    number = int(example["text"].removeprefix("question "))
    assert example == {"where": f"{rows}:{number + 1}", "detail": "", "text": f"question {number}"}
    assert manifest["seed"] == 7
    assert manifest["splits"] == {"train": 3, "validation": 1, "test": 0}
    assert sorted(manifest["files"]) == ["ledger.jsonl", "test.jsonl", "train.jsonl", "validation.jsonl"]


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from sft.data.building import build, collection
from sft.data import folder
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import load_preset

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

place, preset, target = sys.argv[1:]
if place == "reading":
    collection.SpoolWriter.append = die
elif place == "writing":
    build.CandidateStore.read_lines = die
elif place == "manifest":
    build.make_manifest = die
elif place == "flushing":
    folder.flush = die
else:  # between the two renames: the old folder is away, the new one not yet there
    rename, calls = Path.rename, []
    Path.rename = lambda path, to: die() if calls else (calls.append(1), rename(path, to))
build.build_dataset(load_preset(preset), Path(target), BuildOptions(seed=2))
"""


@pytest.mark.parametrize("place", ["reading", "writing", "manifest", "flushing", "renaming"])
def test_a_build_killed_at_any_point_leaves_the_old_dataset_whole_and_the_next_one_succeeds(
    place, write_rows, tmp_path
):
    rows = write_rows("own.jsonl", *instruct_rows(20))
    preset = preset_of({"train": {"own": 10}}, own={"path": str(rows)})
    target = tmp_path / "data" / "mixed"
    old = build_dataset(preset, target, BuildOptions(seed=1))
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(orjson.dumps(preset.model_dump(mode="json", exclude_defaults=True)))  # JSON is YAML

    died = subprocess.run([sys.executable, "-c", KILLED_BUILD, place, str(recipe), str(target)], check=False)

    assert died.returncode == -signal.SIGKILL
    assert [row["id"] for row in open_dataset(target).train] == [row["id"] for row in read_rows(target, "train")]
    assert read_manifest(target) == old
    build_dataset(preset, target, BuildOptions(seed=2))
    assert read_manifest(target)["seed"] == 2
    assert sorted(path.name for path in target.parent.iterdir()) == ["mixed"]


def test_two_builds_of_one_name_do_not_mix(write_rows, tmp_path):
    rows = write_rows("own.jsonl", *instruct_rows(3))
    preset = preset_of({"train": {"own": 3}}, own={"path": str(rows)})

    line = rf"^{tmp_path}/mixed: another build is writing it \(process .*\); wait for it, or pass another --name$"
    with stage_folder(tmp_path / "mixed"), pytest.raises(BusyError, match=line):
        build_dataset(preset, tmp_path / "mixed", BuildOptions())
