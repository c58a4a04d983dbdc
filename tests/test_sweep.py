"""The studies of benchmarks/sweep.py: what they make trials of, and how long they are taken to be."""

from pathlib import Path

import pytest
import yaml

from benchmarks.real_data import table_of, write_rows
from benchmarks.sweep import expected_steps, list_trials
from sft.config.layers import load_settings
from sft.config.train import TrainSettings

STUDIES = sorted((Path(__file__).parents[1] / "benchmarks" / "studies").glob("*.yaml"))


def test_a_grid_becomes_every_combination_with_every_seed():
    study = {
        "study": "tried", "data": ["a", "b"], "rows": [60], "seeds": [1, 2], "flags": {"method": "lora"},
        "grid": {"learning_rate": [1e-3, 2e-3]},
    }  # fmt: skip
    trials = list(list_trials([study]))
    assert [(one["data"], one["seed"], one["flags"]["learning_rate"]) for one in trials] == [
        (name, seed, rate) for seed in (1, 2) for rate in (1e-3, 2e-3) for name in ("a", "b")
    ]
    assert {one["rows"] for one in trials} == {60}
    assert expected_steps({"rows": 60, "flags": {"num_train_epochs": 10}}) == 75
    assert expected_steps({"rows": None, "flags": {"max_steps": 4}}) == 4


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_holds_settings_of_train(path):
    for study in yaml.safe_load(path.read_text(encoding="utf-8")):
        for trial in list_trials([study]):
            flags = {**trial["flags"], **study.get("by_method", {}).get(trial["flags"].get("method"), {})}
            load_settings(TrainSettings, [part for name, value in flags.items() for part in (f"--{name}", str(value))])


def test_the_table_has_the_mean_and_the_range_of_the_seeds():
    lines = [
        {"study": "reviews", "method": "lora", "accuracy": value, "train_s": 10.0, "peak_gb": 1.5}
        for value in (0.8, 0.9)
    ]
    assert table_of(lines).splitlines()[-1] == (
        "| reviews, lora | 2 | accuracy 0.850 (0.800 to 0.900) | 10 s | 1.5 GB |"
    )


def test_texts_are_held_out_by_their_hash(tmp_path):
    rows = "".join(f'{{"text": "text {number}", "entities": []}}\n' for number in range(200))
    (tmp_path / "all.jsonl").write_text(rows)
    write_rows(tmp_path, None, tmp_path / "all.jsonl", None)
    counts = [len((tmp_path / f"ccfbdci.{part}.jsonl").read_text().splitlines()) for part in ("train", "test")]
    assert sum(counts) == 200
    assert 8 < counts[1] < 40
