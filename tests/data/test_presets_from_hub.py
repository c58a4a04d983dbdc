"""The shipped presets, built from look-alikes of the data sets they name, over HTTP with the real clients."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import load_preset
from sft.data.folder import Manifest
from sft.data.rows.canonical import Row
from sft.errors import DataError
from sft.files import sha256_of
from sft.text import normalise_text
from tests.hub_clients import hub_environment
from tests.hub_lookalikes import add_lookalikes, words_of, write_jsonl
from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with 60 rows of one's own where the presets look for them."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"instruction": f"question {n}: {words_of(n + 5000)}", "input": "", "output": f"answer {n}"} for n in range(60)
    ]
    write_jsonl(tmp_path / "data" / "reports.jsonl", rows)
    return tmp_path


def build(preset: str, total: int | None, *, num_proc: int = 1, resume: bool = False) -> tuple[list[Row], Manifest]:
    """Build into data/<preset>; all rows, and the manifest."""
    target = Path("data") / preset
    manifest = build_dataset(load_preset(preset, total=total), target, BuildOptions(), num_proc=num_proc, resume=resume)
    dataset = open_dataset(target)
    return dataset.train + dataset.validation + dataset.test, manifest


def count_sources(rows: list[Row]) -> dict[str, int]:
    return dict(Counter(row["source"] for row in rows))


def test_small_is_half_own_a_quarter_instructions_a_quarter_biomedical(lookalikes, workplace):
    rows, manifest = build("small", 80)

    assert manifest["splits"] == {"train": 72, "validation": 8, "test": 0}
    assert count_sources(rows) == {"own": 40, "orca": 20, "pubmed": 20}
    assert manifest["sources"]["orca"]["written"] == {"train": 18, "validation": 2, "test": 0}
    assert {name: entry["revision"] for name, entry in manifest["sources"].items()} == {
        "own": manifest["sources"]["own"]["files"]["data/reports.jsonl"],
        "orca": "ce9ed009ef3292bac33d3520afaf5ec804066120",
        "pubmed": lookalikes.repositories["datasets", "qiaojin/PubMedQA"].branches["main"],
    }
    assert {row["instruction"] for row in rows if row["source"] == "pubmed"} == {
        "作为生物医学专家，请基于提供的背景信息详细回答问题。"
    }
    assert all(row["id"].startswith(f"{row['source']}-") for row in rows)


def test_small_and_large_ask_what_their_systems_did():
    small, large = load_preset("small"), load_preset("large")

    assert [plan.rows for plan in small.plans()] == [
        {"own": 900, "orca": 450, "pubmed": 450},
        {"own": 100, "orca": 50, "pubmed": 50},
    ]
    assert [plan.rows for plan in large.plans()] == [
        {"own": 54000, "orca": 32400, "pubmed": 43200, "stack_exchange": 86400},
        {"own": 6000, "orca": 3600, "pubmed": 4800, "stack_exchange": 9600},
    ]
    assert [(cell.stratum, str(cell.share)) for cell in large.cells()[-3:]] == [
        ("ai", "3/8"),
        ("ic", "3/8"),
        ("biomed", "1/4"),
    ]


def test_large_scaled_down_meets_every_quota_and_reads_stack_exchange_once(lookalikes, workplace):
    rows, manifest = build("large", 200)

    assert count_sources(rows) == {"own": 50, "orca": 30, "pubmed": 40, "stack_exchange": 80}
    assert manifest["sources"]["stack_exchange"]["strata"] == {"ai": 30, "ic": 30, "biomed": 20}
    assert manifest["sources"]["stack_exchange"]["dropped"] == {"no_quota": 30, "over_quota": 10}
    assert manifest["splits"] == {"train": 180, "validation": 20, "test": 0}
    topics = Counter(word for row in rows for word in ("pytorch", "fpga", "plasmid", "sourdough") if word in str(row))
    assert topics == {"pytorch": 30, "fpga": 30, "plasmid": 20}
    slices = [row for row in rows if row["source"] == "stack_exchange"]
    assert all("; answer by Ada, https://example" in row["attribution"] for row in slices)
    assert all(row["output"].startswith("Best answer") for row in slices)


@pytest.mark.slow
def test_more_processes_and_a_hub_that_failed_midway_give_the_same_bytes(tmp_path_factory, hub, workplace, monkeypatch):
    add_lookalikes(hub, tmp_path_factory.mktemp("lookalikes"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    build("large", 80)
    whole = {path.name: path.read_bytes() for path in Path("data/large").iterdir()}

    hub.fail("train-00001-of-00003.parquet", "503", times=1000)
    with pytest.raises(DataError, match="stack-exchange-preferences: the hub fails"):
        build("large", 80)
    assert {path.name: path.read_bytes() for path in Path("data/large").iterdir()} == whole
    hub.heal()
    hub.requests.clear()
    build("large", 80, num_proc=2, resume=True)

    assert {path.name: path.read_bytes() for path in Path("data/large").iterdir()} == whole
    assert not [request for request in hub.requests if "sharegpt.jsonl" in request.path]  # read before the failure


def test_sentiment_keeps_the_publishers_splits_and_drops_what_train_shares_with_them(lookalikes, workplace):
    preset = load_preset("sentiment")
    sizes = {"train": {"train": 30}, "validation": {"validation": 18}, "test": {"test": 20}}
    smaller = preset.model_validate(
        preset.model_dump(exclude_defaults=True) | {"splits": {name: {"rows": rows} for name, rows in sizes.items()}}
    )

    manifest = build_dataset(smaller, Path("data/sentiment"), BuildOptions())

    dataset = open_dataset("data/sentiment")
    texts = [{normalise_text(row["text"]) for row in split} for split in (dataset.train, dataset.test)]
    assert texts[0] & texts[1] == set()
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (30, 18, 20)
    assert {row["label"] for row in dataset.train} == {"正面", "负面"}
    assert sum(manifest["sources"]["train"]["dropped"].values()) == 10
    assert manifest["sources"]["test"]["dropped"] == {}


def test_news_and_entities_build(lookalikes, workplace):
    news, news_manifest = build("news", 24)
    entities, _ = build("ner", 20)

    assert (len(news), len(entities)) == (24, 20)
    assert {row["source"] for row in open_dataset("data/news").test} == {"fudan_test"}
    assert {row["task"] for row in news + entities} == {"news", "ner"}
    assert all(row["output"] in row["category"] for row in news)
    assert news_manifest["sources"]["fudan"]["id"] == "swift/zh_cls_fudan-news"


def test_moderation_takes_the_requested_rows_of_every_label(workplace):
    labels = ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗")
    rows = [
        {"text_cn": f"{label}文本{words_of(n)}{label}", "extracted_label": label} for label in labels for n in range(34)
    ]
    write_jsonl(workplace / "mine.jsonl", rows)
    text = (
        (ROOT / "recipes" / "data" / "moderation.yaml").read_text("utf-8").replace("data/moderation.xlsx", "mine.jsonl")
    )
    (workplace / "mine.yaml").write_text(text, encoding="utf-8")

    manifest = build_dataset(load_preset("mine.yaml", total=102), Path("data/mine"), BuildOptions())

    assert manifest["splits"] == {"train": 90, "validation": 6, "test": 6}
    assert Counter(row["label"] for row in open_dataset("data/mine").train) == {
        "正常": 30,
        "歧视": 12,
        "违法违规": 12,
        "政治安全": 12,
        "暴恐": 12,
        "色情低俗": 12,
    }


def run_script(hub: HubServer, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build_dataset.py"), *arguments]
    environment = hub_environment(hub, folder / "home")
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_builds_from_the_hub_and_says_what_is_missing(lookalike_hub, workplace):
    done = run_script(lookalike_hub, workplace, "--preset", "small", "--name", "small", "--total", "40", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"] == {"train": 36, "validation": 4, "test": 0}
    assert json.loads(done.stdout) == orjson.loads((workplace / "data/small/manifest.json").read_bytes())
    assert "Open-Orca/SlimOrca: 60 rows, recognised as conversations" in done.stderr
    orca = json.loads(done.stdout)["sources"]["orca"]
    assert (orca["read"], orca["kept"], orca["dropped"]) == (60, 10, {"over_quota": 50})

    (workplace / "data" / "reports.jsonl").unlink()
    missing = run_script(lookalike_hub, workplace, "--preset", "small")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.splitlines()[-1] == (
        "error: data/reports.jsonl: no such file; it needs your own rows, one per line: "
        '{"instruction": "...", "input": "", "output": "..."}'
    )


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "total"), [("small", 40), ("large", 200)])
def test_a_build_from_the_hub_killed_at_twenty_random_points_and_resumed_writes_the_same_bytes(
    preset, total, lookalike_hub, workplace
):
    flags = ["--preset", preset, "--total", str(total)]
    started = time.monotonic()
    assert run_script(lookalike_hub, workplace, *flags, "--name", "whole").returncode == 0
    duration_s = time.monotonic() - started
    expected = {path.name: sha256_of(path) for path in (workplace / "data/whole").glob("*.jsonl")}
    assert set(expected) == {"train.jsonl", "validation.jsonl", "test.jsonl", "ledger.jsonl"}
    command = [sys.executable, str(ROOT / "build_dataset.py"), *flags, "--name", "cut", "--resume"]
    environment, rng, killed = hub_environment(lookalike_hub, workplace / "home"), random.Random(7), 0

    def build_until(seconds: float | None) -> bool:
        """Whether it was killed before it had ended."""
        build = subprocess.Popen(
            command, cwd=workplace, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert build.wait(seconds) == 0
            return False
        except subprocess.TimeoutExpired:
            os.kill(build.pid, signal.SIGKILL)
            build.wait()
            return True

    while killed < 20:
        was_killed = build_until(rng.uniform(0.1, duration_s))
        killed += was_killed
        if was_killed and killed % 4:
            continue  # it is killed again on the way
        build_until(None)
        assert {path.name: sha256_of(path) for path in (workplace / "data/cut").glob("*.jsonl")} == expected
