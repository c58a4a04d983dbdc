"""What was planted is found: exact and near duplicates, Chinese and English, and texts of an evaluation file."""

import random
from pathlib import Path

import orjson
import pytest

from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.errors import DataError
from tests.data.planted import make_near_pairs, make_text

PLANTED = 300


def instruct(text: str, output: str = "an answer") -> dict[str, object]:
    return {"instruction": text, "input": "", "output": output}


def build(rows: list[dict[str, object]], folder: Path, **keys: object) -> dict[str, str]:
    """Build of these rows; what the ledger says: {"own-17": "near_duplicate"}, by the row's number in the file."""
    path = folder / "own.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    preset = {
        "splits": {"train": {"rows": {"own": len(rows)}}},
        "sources": {"own": {"kind": "file", "path": str(path)}},
        **keys,
    }
    build_dataset(Preset.model_validate(preset), folder / "mixed", BuildOptions(on_shortage="accept"))
    ledger = [orjson.loads(line) for line in (folder / "mixed" / "ledger.jsonl").read_bytes().splitlines()]
    return {f"own-{line['where'].rpartition(':')[2]}": line["reason"] for line in ledger}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_planted_exact_duplicates_are_found_and_nothing_else(language, tmp_path):
    rng = random.Random(1)
    originals = [instruct(make_text(language, rng)) for _ in range(PLANTED)]

    left_out = build([*originals, *originals], tmp_path)

    assert left_out == {f"own-{number}": "duplicate" for number in range(PLANTED + 1, 2 * PLANTED + 1)}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_planted_near_duplicates_are_found_and_texts_half_alike_are_left_alone(language, tmp_path):
    rng = random.Random(2)
    near = list(make_near_pairs(language, PLANTED, 0.8, 0.9, rng))
    alike = list(make_near_pairs(language, PLANTED, 0.55, 0.75, rng))
    rows = [instruct(text) for pair in (*near, *alike) for text in (pair.text, pair.edited)]

    left_out = build(rows, tmp_path, near_duplicates=0.8)

    planted = {f"own-{2 * number}" for number in range(1, PLANTED + 1)}
    found = {row for row, reason in left_out.items() if reason == "near_duplicate"}
    assert len(found & planted) >= 0.95 * PLANTED
    assert len(found - planted) <= 0.01 * PLANTED
    assert set(left_out.values()) == {"near_duplicate"}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_near_duplicates_never_straddle_the_split_and_the_evaluation_side_keeps_its_row(language, tmp_path):
    rng = random.Random(3)
    pairs = list(make_near_pairs(language, 100, 0.82, 0.95, rng))
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"".join(orjson.dumps(instruct(text)) + b"\n" for pair in pairs for text in pair[:2]))
    splits = {"train": {"rows": {"own": 60}}, "test": {"rows": {"own": 60}}}
    preset = {"splits": splits, "sources": {"own": {"kind": "file", "path": str(path)}}}

    def straddling(threshold: float | None, name: str) -> int:
        folder = tmp_path / name
        keys = {"near_across_splits": threshold}
        manifest = build_dataset(Preset.model_validate(preset | keys), folder, BuildOptions(on_shortage="accept"))
        assert manifest["splits"]["test"] == 60
        sides = {
            orjson.loads(line)["instruction"]: split
            for split in ("train", "test")
            for line in (folder / f"{split}.jsonl").read_bytes().splitlines()
        }
        pairs_of_both = [(sides.get(pair.text), sides.get(pair.edited)) for pair in pairs]
        dropped = manifest["sources"]["own"]["dropped"].get("near_other_split", 0)
        assert dropped == 0 if threshold is None else dropped > 0
        return sum({"train", "test"} == set(sides) for sides in pairs_of_both)

    assert straddling(None, "unguarded") > 10
    assert straddling(0.8, "guarded") == 0


@pytest.mark.parametrize("language", ["zh", "en"])
def test_planted_contamination_is_found_and_other_rows_are_left_alone(language, tmp_path):
    rng = random.Random(4)
    held_out = [make_text(language, rng) for _ in range(PLANTED)]
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_bytes(b"".join(orjson.dumps(instruct(text)) + b"\n" for text in held_out))
    clean = [instruct(make_text(language, rng)) for _ in range(PLANTED)]
    # within a longer question, in the answer, in other punctuation and case
    planted = [
        instruct(f"{make_text(language, rng)} {text}")
        if number % 3 == 0
        else instruct(f"Number {number}?", f"{make_text(language, rng)}\n{text.upper()}")
        if number % 3 == 1
        else instruct(text.replace(" ", ", ") + "!")
        for number, text in enumerate(held_out)
    ]

    left_out = build([*clean, *planted], tmp_path, decontaminate=[str(benchmark)])

    found = {row for row, reason in left_out.items() if reason == "contaminated"}
    expected = {f"own-{number}" for number in range(PLANTED + 1, 2 * PLANTED + 1)}
    assert len(found & expected) >= 0.99 * PLANTED
    assert found - expected == set()


def test_near_texts_with_other_labels_answers_or_inputs_are_no_near_duplicates(tmp_path):
    pair = next(make_near_pairs("zh", 1, 0.9, 0.95, random.Random(5)))
    rows = [
        {"text": pair.text, "label": 1},
        {"text": pair.edited, "label": 0},
        instruct(pair.text, "an answer"),
        instruct(pair.edited, "another"),
        instruct(pair.text) | {"input": "北京"},
        instruct(pair.edited) | {"input": "上海"},
        instruct(pair.edited) | {"input": "北京！"},
    ]

    assert build(rows, tmp_path, near_duplicates=0.8) == {"own-7": "near_duplicate"}


def test_a_source_that_is_short_for_its_near_duplicates_says_so(tmp_path):
    texts = [text for pair in make_near_pairs("zh", 10, 0.85, 0.95, random.Random(6)) for text in pair[:2]]
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"".join(orjson.dumps(instruct(text)) + b"\n" for text in texts))
    preset = {
        "splits": {"train": {"rows": {"own": 10}}, "test": {"rows": {"own": 10}}},
        "sources": {"own": {"kind": "file", "path": str(path)}},
    }

    with pytest.raises(
        DataError, match=r"own: 20 rows asked, 1\d found; .* \(\d rows were left out as nearly the same"
    ):
        build_dataset(Preset.model_validate(preset), tmp_path / "mixed", BuildOptions())
