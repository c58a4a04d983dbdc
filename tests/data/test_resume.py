"""Builds that are interrupted and go on, and builds by several processes: always the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from sft.data.building import collection
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.errors import DataError
from sft.files import PROJECT_ROOT, sha256_of
from tests.data.planted import make_near_pairs, make_text


def write_sources(folder: Path, rows: int) -> Path:
    """Three sources of two languages with duplicates, near duplicates and rows that cannot be used; their preset."""
    rng = random.Random(5)
    sources: dict[str, object] = {}
    for name, language in (("a", "zh"), ("b", "en"), ("c", "zh")):
        texts = [make_text(language, rng) for _ in range(rows)]
        texts += [text for pair in make_near_pairs(language, 20, 0.8, 0.95, rng) for text in pair[:2]] + texts[:10]
        lines = [orjson.dumps({"instruction": text, "output": f"answer {name}"}) for text in texts]
        lines[7] = b'{"instruction": "cut off'
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        sources[name] = {
            "kind": "file",
            "path": str(folder / f"{name}.jsonl"),
            "on_bad_row": "quarantine",
            "filters": {"exclude_keywords": ["voltage signal", "经民"]},
        }
    preset = {
        "splits": {split: {"rows": dict.fromkeys(sources, count)} for split, count in (("train", 60), ("test", 30))},
        "sources": sources,
        "near_duplicates": 0.8,
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(preset), encoding="utf-8")  # JSON is YAML
    return path


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def load(preset: Path) -> Preset:
    return Preset.model_validate(json.loads(preset.read_text(encoding="utf-8")))


def command(preset: Path, data_dir: Path, *flags: str) -> list[str]:
    script = str(PROJECT_ROOT / "build_dataset.py")
    return [sys.executable, script, "--preset", str(preset), "--data_dir", str(data_dir), "--seed", "7", *flags]


def test_several_processes_write_the_bytes_of_one(tmp_path, monkeypatch):
    preset = load(write_sources(tmp_path, 3000))
    monkeypatch.setattr("sft.data.files.reader.BLOCK_BYTES", 1 << 16)  # many chunks

    for name, num_proc in (("one", 1), ("three", 3)):
        build_dataset(preset, tmp_path / name, BuildOptions(), num_proc=num_proc)

    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    for line in (tmp_path / "three" / "train.jsonl").read_bytes().splitlines():
        row = orjson.loads(line)
        if row["source"] == "a":  # the id tells the row's place, whichever chunk it was in
            number = int(row["id"].removeprefix("a-"))
            assert row["instruction"] == orjson.loads(lines[number - 1])["instruction"]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_bad_row_ends_the_build_with_the_same_words_whoever_reads_it(num_proc, tmp_path, monkeypatch):
    preset = load(write_sources(tmp_path, 300))
    monkeypatch.setattr("sft.data.files.reader.BLOCK_BYTES", 1 << 14)
    source = preset.sources["a"].model_copy(update={"on_bad_row": "error"})
    preset = preset.model_copy(update={"sources": preset.sources | {"a": source}})

    with pytest.raises(DataError) as caught:
        build_dataset(preset, tmp_path / "mixed", BuildOptions(), num_proc=num_proc)

    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:8: not valid JSON: ")


def test_a_resumed_build_reads_only_what_was_not_read_to_its_end(tmp_path, monkeypatch, capsys):
    preset = load(write_sources(tmp_path, 300))
    build_dataset(preset, tmp_path / "whole", BuildOptions())
    append, calls = collection.SpoolWriter.append, []

    def fail_in_b(self, digest):
        calls.append(digest)
        if len(calls) == 2:
            raise DataError("the line was cut")
        append(self, digest)

    monkeypatch.setattr(collection.SpoolWriter, "append", fail_in_b)
    with pytest.raises(DataError, match="the line was cut"):
        build_dataset(preset, tmp_path / "mixed", BuildOptions())
    monkeypatch.undo()
    capsys.readouterr()

    build_dataset(preset, tmp_path / "mixed", BuildOptions(), resume=True)

    said = capsys.readouterr().err
    assert "a: 350 rows were read before the interruption, and are used" in said
    assert "b: 350 rows were read" not in said
    assert hashes(tmp_path / "mixed") == hashes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir() if "mixed" in path.name) == ["mixed"]


@pytest.mark.parametrize("change", ["file", "filters", "seed", "damage", "keywords"])
def test_what_changed_since_the_interruption_is_read_again(change, tmp_path, capsys):
    terms = tmp_path / "terms.txt"
    terms.write_text("经民\n", encoding="utf-8")
    path = write_sources(tmp_path, 100)
    preset = load(path)
    source = preset.sources["a"]
    filters = source.filters.model_copy(update={"exclude_keywords": str(terms)})
    preset = preset.model_copy(
        update={"sources": preset.sources | {"a": source.model_copy(update={"filters": filters})}}
    )
    short = preset.model_copy(
        update={"splits": {"train": preset.splits["train"].model_copy(update={"rows": {"a": 999}})}}
    )
    with pytest.raises(DataError, match="999 rows asked"):
        build_dataset(short, tmp_path / "mixed", BuildOptions())
    options = BuildOptions()
    if change == "file":
        rows = tmp_path / "a.jsonl"
        rows.write_bytes(rows.read_bytes().replace(b"answer a", b"answer A"))
    elif change == "filters":
        changed = preset.sources["a"].model_copy(update={"filters": filters.model_copy(update={"min_chars": 5})})
        preset = preset.model_copy(update={"sources": preset.sources | {"a": changed}})
    elif change == "seed":
        options = BuildOptions(seed=8)
    elif change == "keywords":
        terms.write_text("的一\n", encoding="utf-8")
    else:
        for rows in (tmp_path / ".mixed.partial" / "sources").glob("*/rows"):
            rows.write_bytes(rows.read_bytes()[:-1] + b" ")
    capsys.readouterr()

    build_dataset(preset, tmp_path / "mixed", options, resume=True)

    assert "a: 150 rows were read before" not in capsys.readouterr().err
    build_dataset(preset, tmp_path / "whole", options)
    assert hashes(tmp_path / "mixed") == hashes(tmp_path / "whole")


@pytest.mark.slow
def test_a_build_killed_at_twenty_random_points_and_resumed_writes_the_same_bytes(tmp_path):
    preset = write_sources(tmp_path, 6000)
    started = time.monotonic()
    subprocess.run(command(preset, tmp_path / "whole"), check=True, capture_output=True)
    duration_s = time.monotonic() - started
    expected = hashes(tmp_path / "whole" / "mixed")
    old = subprocess.run(command(preset, tmp_path / "data", "--seed", "8"), check=True, capture_output=True)
    assert old.returncode == 0
    before = hashes(tmp_path / "data" / "mixed")
    rng, killed = random.Random(6), 0

    while killed < 20:
        flags = ["--resume", "--num_proc", str(1 + killed % 2)]
        build = subprocess.Popen(
            command(preset, tmp_path / "data", *flags), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            build.wait(rng.uniform(0.1, duration_s))
            assert hashes(tmp_path / "data" / "mixed") == expected  # it was faster: begin anew
            subprocess.run(command(preset, tmp_path / "data", "--seed", "8"), check=True, capture_output=True)
        except subprocess.TimeoutExpired:
            os.kill(build.pid, signal.SIGKILL)
            build.wait()
            killed += 1
            whole = tmp_path / "data" / "mixed"
            left = whole if whole.exists() else tmp_path / "data" / ".mixed.old"  # killed between the two renames
            assert hashes(left) in (before, expected)
            if killed % 4 == 0:  # else it is killed again on the way
                subprocess.run(command(preset, tmp_path / "data", "--resume"), check=True, capture_output=True)
                assert hashes(tmp_path / "data" / "mixed") == expected
                subprocess.run(command(preset, tmp_path / "data", "--seed", "8"), check=True, capture_output=True)
    subprocess.run(command(preset, tmp_path / "data", "--resume"), check=True, capture_output=True)
    assert hashes(tmp_path / "data" / "mixed") == expected
