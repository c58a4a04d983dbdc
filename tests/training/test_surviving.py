"""What may happen to a run while it works: killed while saving, cut anywhere, asked to end, a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft.checkpoints import list_checkpoints, prune_checkpoints
from sft.runs import read_run
from sft.staging import DiskFullError, find_damage
from sft.training.log import read_log
from tests.commands import ROOT

TIMEOUT_S = 600
FIGURES = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def kill_at(points: int, model: Path, rows: Path, folder: Path) -> dict[str, object]:
    command = [sys.executable, "benchmarks/kill_sweep.py", "--model", model, "--rows", rows, "--folder", folder]
    command += ["--points", points]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "said.txt").read_text()[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("points", [2, 30])
def test_a_run_killed_while_it_saves_goes_on_to_the_same_weights(points, tiny_model_folder, rows_file, tmp_path):
    found = kill_at(points, tiny_model_folder, rows_file, tmp_path)
    assert found["survived"] == found["points"] == points
    assert found["most_steps_lost"] <= found["save_interval"]


# Cut anywhere, through the real command


CUTS = {  # 36 rows, 8 a step: 5 steps an epoch; validated and saved every 4
    "before the first checkpoint": (2, signal.SIGKILL),
    "right after a validation": (4, signal.SIGKILL),
    "at the end of an epoch": (5, signal.SIGINT),
    "behind an epoch": (6, signal.SIGTERM),
    "between two checkpoints": (10, signal.SIGKILL),
    "after the best": (13, signal.SIGTERM),
}


@pytest.fixture(scope="module")
def whole(tiny_model_folder, rows_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        command(tiny_model_folder, rows_file), cwd=folder, env=environment(), capture_output=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def command(model: Path, rows: Path) -> list[str]:
    flags = ["--model", model, "--data", rows, "--output_dir", "run", "--method", "lora", "--dtype", "fp32"]
    flags += [
        "--system_prompt",
        "Be brief.",
        "--max_seq_length",
        192,
        "--max_steps",
        14,
        "--eval_steps",
        4,
        "--learning_rate",
        "2e-2",
    ]
    flags += ["--lora_dropout", 0.1, "--micro_batch_tokens", 100, "--save_total_limit", 2]  # several micro-batches
    return [sys.executable, str(ROOT / "train.py"), *map(str, flags)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
def test_a_run_cut_anywhere_resumes_bit_exactly(name, whole, tiny_model_folder, rows_file, tmp_path):
    step, number = CUTS[name]
    cut(command(tiny_model_folder, rows_file), tmp_path, step, number)
    resumed = [sys.executable, str(ROOT / "train.py"), "--output_dir", "run", "--resume_from_checkpoint", "auto"]
    done = subprocess.run(resumed, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr

    logs = [
        [[line.get(key) for key in FIGURES] for line in read_log(folder / "log.jsonl")]
        for folder in (whole, tmp_path / "run")
    ]
    assert logs[0] == logs[1]  # a loss difference of 0.0, every step once
    weights = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (whole, tmp_path / "run")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    for name in ("eval_loss", "best_checkpoint", "steps"):
        assert read_run(whole).metrics[name] == read_run(tmp_path / "run").metrics[name]


def cut(words: list[str], folder: Path, step: int, number: signal.Signals) -> None:
    """Run a command and send it a signal as soon as its log has a step's line."""
    process = subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    log, started = folder / "run/log.jsonl", time.monotonic()
    while not (log.exists() and any(line["step"] >= step for line in read_log(log))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - started < TIMEOUT_S
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=TIMEOUT_S)[1]
    assert process.returncode == (-9 if number is signal.SIGKILL else 130), said
    if number is not signal.SIGKILL:
        assert "Traceback" not in said
        last = list_checkpoints(folder / "run/checkpoints")[-1]
        assert find_damage(last) is None
        # what was done is what is saved: nothing is lost by asking
        assert f"{last.name.rsplit('-')[-1]} of 14 steps done, {last.name.rsplit('-')[-1]} saved" in said


# A full disk


def test_a_full_disk_is_one_line_with_the_bytes_needed_and_the_old_checkpoint_stays(train, tmp_path):
    """A limit on the size of files stands in for the disk: the system's error comes from the real write."""
    train("--max_steps", "2")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFullError) as caught:
            train("--max_steps", "4", "--resume_from_checkpoint", "auto")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = tmp_path / "run/checkpoints"
    assert str(caught.value).startswith(f"{folder}/checkpoint-4: no room: needs ")
    needed = int(str(caught.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    [old] = folder.iterdir()
    assert find_damage(old) is None
    size = sum((old / name).stat().st_size for name in ("adapter_model.safetensors", "optimizer.pt"))
    assert size * 0.8 < needed < size * 1.2
    train("--max_steps", "4", "--resume_from_checkpoint", "auto")  # with room again, it goes on


# Which are kept


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(2, 10, [10, 50]), (3, 10, [10, 40, 50]), (3, None, [30, 40, 50]), (1, 50, [50]), (1, 20, [20, 50])],
)
def test_at_most_so_many_are_kept_the_best_and_the_newest_always_among_them(limit, best, kept, tmp_path):
    for step in (10, 20, 30, 40, 50):
        (tmp_path / f"checkpoint-{step}").mkdir()
    prune_checkpoints(tmp_path, limit=limit, best=tmp_path / f"checkpoint-{best}" if best else None)
    assert [int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)] == kept
