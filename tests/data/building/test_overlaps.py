"""Data that comes split by its publisher: texts in two splits are counted, named, and never in both at the end."""

import csv
import random
from pathlib import Path

import orjson
import pytest

from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.folder import Manifest
from tests.data.planted import make_near_pairs, make_text

TRAIN, TEST, VERBATIM = 900, 400, 331


def write_reviews(path: Path, texts: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        writer.writerows([index % 2, text] for index, text in enumerate(texts))
    return path


def publish(folder: Path) -> tuple[Path, Path, list[str]]:
    """A train and a test file like ChnSentiCorp's: 331 rows of test stand in train, 12 more nearly."""
    rng = random.Random(7)
    train = [make_text("zh", rng) for _ in range(TRAIN)]
    near = list(make_near_pairs("zh", 12, 0.85, 0.95, rng))
    copied = train[:VERBATIM]
    copied = [f"{text[:5]}，{text[5:]}。" if number % 3 == 0 else text for number, text in enumerate(copied)]
    fresh = [make_text("zh", rng) for _ in range(TEST - VERBATIM - len(near))]
    test = [*copied, *fresh, *(pair.edited for pair in near)]
    train += [pair.text for pair in near]
    return write_reviews(folder / "train.csv", train), write_reviews(folder / "test.csv", test), test


def build(folder: Path, target: str, **keys: object) -> Manifest:
    train, test, _ = publish(folder)
    preset = {
        "splits": {"train": {"rows": {"train": TRAIN + 12}}, "test": {"rows": {"test": TEST}}},
        "sources": {
            "train": {"kind": "file", "path": str(train), "task": "sentiment", "split": "train"},
            "test": {"kind": "file", "path": str(test), "task": "sentiment", "split": "test"},
        },
        **keys,
    }
    return build_dataset(Preset.model_validate(preset), folder / target, BuildOptions(on_shortage="accept"))


def read_rows(path: Path) -> list[dict[str, str]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_the_331_verbatim_rows_are_reported_and_train_gives_way(tmp_path, capsys):
    manifest = build(tmp_path, "mixed")

    (overlap,) = manifest["overlaps"]
    first = overlap.pop("first")  # type: ignore[misc]
    assert overlap == {"split": "test", "other_split": "train", "rows": 400, "exact": 331, "near": 12}
    assert first == [f"test-{number} = train-{number}" for number in range(1, 6)]
    said = "test: 331 of 400 rows stand in train word for word, 12 more nearly: test-1 = train-1, test-2 = train-2"
    assert said in capsys.readouterr().err
    pairs = read_rows(tmp_path / "mixed" / "overlaps.jsonl")
    assert [pair["kind"] for pair in pairs] == ["exact"] * 331 + ["near"] * 12
    assert pairs[0] == {
        "split": "test",
        "row": "test-1",
        "where": f"{tmp_path}/test.csv:2",
        "other_split": "train",
        "other": "train-1",
        "other_where": f"{tmp_path}/train.csv:2",
        "kind": "exact",
        "similarity": 1.0,
    }
    assert {(pair["row"], pair["other"]) for pair in pairs[331:]} == {
        (f"test-{TEST - 11 + number}", f"train-{TRAIN + 1 + number}") for number in range(12)
    }
    assert manifest["splits"] == {"train": TRAIN - VERBATIM, "validation": 0, "test": TEST}
    train = manifest["sources"]["train"]
    # rows whose text and label are test's are duplicates, others ask what a test row asks
    assert train["dropped"]["near_other_split"] == 12
    assert train["dropped"]["duplicate"] + train["dropped"]["other_split"] == VERBATIM
    assert manifest["sources"]["test"]["dropped"] == {}
    assert train["examples"]["near_other_split"]["detail"].startswith("near test-")


def test_published_splits_stay_as_published_if_that_is_wanted(tmp_path):
    manifest = build(tmp_path, "mixed", on_overlap="keep")

    assert manifest["overlaps"][0]["exact"] == 331
    assert manifest["splits"] == {"train": TRAIN + 12, "validation": 0, "test": TEST}
    assert [entry["dropped"] for entry in manifest["sources"].values()] == [{}, {}]


def test_near_overlaps_are_not_looked_for_where_the_guard_is_off(tmp_path):
    manifest = build(tmp_path, "mixed", near_across_splits=None)

    assert (manifest["overlaps"][0]["exact"], manifest["overlaps"][0]["near"]) == (331, 0)
    assert manifest["splits"]["train"] == TRAIN + 12 - VERBATIM


def test_rows_of_other_sources_give_way_to_a_published_test_split(tmp_path):
    _, test, texts = publish(tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(orjson.dumps({"text": text + "！", "label": 1}) + b"\n" for text in texts[:50]))
    preset = {
        "splits": {"train": {"rows": {"other": 50}}, "test": {"rows": {"test": TEST}}},
        "sources": {
            "other": {"kind": "file", "path": str(other), "task": "sentiment"},
            "test": {"kind": "file", "path": str(test), "task": "sentiment", "split": "test"},
        },
    }
    preset["splits"]["train"]["rows"]["other"] = 1
    other.write_bytes(other.read_bytes() + orjson.dumps({"text": "全新的一条评论，和别的都不一样", "label": 1}) + b"\n")

    manifest = build_dataset(Preset.model_validate(preset), tmp_path / "mixed", BuildOptions())

    assert manifest["sources"]["other"]["dropped"] == {"other_split": 50}
    assert manifest["sources"]["other"]["examples"]["other_split"]["detail"] == "asks the same as test-1"
    assert manifest["splits"] == {"train": 1, "validation": 0, "test": TEST}


def test_rows_of_a_published_split_cannot_be_used_for_another_split(tmp_path):
    preset = {
        "splits": {"train": {"rows": {"own": 3}}, "test": {"rows": {"own": 2}}},
        "sources": {"own": {"kind": "file", "path": "own.csv", "split": "test"}},
    }

    with pytest.raises(ValueError, match=r"its split is test, but splits\.train asks for 3 of its rows"):
        Preset.model_validate(preset)


@pytest.mark.parametrize("published", ["train", "test"])
def test_what_is_kept_as_published_is_no_excuse_for_near_rows_of_another_source(published, tmp_path):
    near = list(make_near_pairs("zh", 12, 0.85, 0.95, random.Random(3)))
    new = "全新的一条评论"
    train, test = [pair.text for pair in near] + [new], [pair.edited for pair in near]
    paths = {"train": write_reviews(tmp_path / "a.csv", train), "test": write_reviews(tmp_path / "b.csv", test)}
    sources = {name: {"kind": "file", "path": str(path)} for name, path in paths.items()}
    sources[published]["split"] = published
    preset = {
        "splits": {"train": {"rows": {"train": 13}}, "test": {"rows": {"test": 12}}},
        "sources": sources,
        "on_overlap": "keep",
    }

    manifest = build_dataset(Preset.model_validate(preset), tmp_path / "mixed", BuildOptions(on_shortage="accept"))

    assert manifest["splits"] == {"train": 1, "validation": 0, "test": 12}
    assert [row["text"] for row in read_rows(tmp_path / "mixed" / "train.jsonl")] == [new]
    assert manifest["sources"]["train"]["dropped"] == {"near_other_split": 12}
