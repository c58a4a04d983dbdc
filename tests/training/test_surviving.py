"""What may happen to a run while it works: killed while saving, cut anywhere, asked to end, a full disk."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft.files import DiskFullError, find_damage
from sft.runs.checkpoints import list_checkpoints, prune_checkpoints, step_of
from sft.runs.run import read_run
from sft.training import fit as flow
from sft.training.log import read_log
from tests.commands import ROOT

TIMEOUT_S = 600
FIGURES = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_run_killed_at_thirty_points_of_saving_resumes_to_the_same_weights(tmp_path):
    words = [sys.executable, "benchmarks/kill_sweep.py", "--folder", str(tmp_path), "--points", "30"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + (tmp_path / "said.txt").read_text()[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["survived"] == found["points"] == 30
    assert found["most_steps_lost"] <= found["save_interval"]


# Cut anywhere, through the real command

# 36 rows, 8 a step: 5 steps an epoch; validated and saved every 4; several micro-batches a step
RECIPE = "--method lora --dtype fp32 --max_seq_length 192 --max_steps 14 --eval_steps 4 --learning_rate 2e-2 "
RECIPE += "--lora_dropout 0.1 --micro_batch_tokens 100 --save_total_limit 2"
STOPS_EARLY = "--early_stopping_patience 2 --early_stopping_threshold 100"  # nothing is better by 100: over at step 12
MICRO_BATCH, SAVE = (
    "sft.training.trainer.RowTrainer.collate",
    "sft.training.saving.CheckpointedTrainer._save_checkpoint",
)
CUTS = {  # signal, function, after how many steps, at which call
    "before the first checkpoint": ("SIGKILL", MICRO_BATCH, 2, 1),
    "between the micro-batches of a step": ("SIGKILL", MICRO_BATCH, 6, 2),
    "asked to end between the micro-batches of a step": ("SIGTERM", MICRO_BATCH, 6, 2),
    "asked to end at the end of an epoch": ("SIGINT", "sft.training.log.StepLog.on_step_end", 5, 1),
    "when the best is chosen and not yet saved": ("SIGKILL", SAVE, 8, 1),
    "when a checkpoint is written and not yet on the disk": ("SIGKILL", "sft.training.saving.publish", 12, 1),
    "behind the last step, before its weights are saved": ("SIGKILL", "sft.training.fit.save_tuned", 14, 1),
    "when it stops early": ("SIGKILL", SAVE, 12, 1),
}


def command(model: Path, rows: Path, more: str = "") -> list[str]:
    flags = ["--model", model, "--data", rows, "--output_dir", "run", "--system_prompt", "Be brief."]
    return ["train.py", *map(str, flags), *RECIPE.split(), *more.split()]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / words[0]), *words[1:]]
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def whole_runs(tiny_model_folder, rows_file, tmp_path_factory) -> dict[str, Path]:
    """The folders of the run that nobody cuts, and of one that stops early."""
    found = {}
    for more, steps in (("", 14), (STOPS_EARLY, 12)):
        folder = tmp_path_factory.mktemp("whole")
        done = run(command(tiny_model_folder, rows_file, more), folder)
        assert done.returncode == 0, done.stderr
        assert read_run(folder / "run").metrics["steps"] == steps
        found[more] = folder / "run"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
def test_a_run_cut_anywhere_resumes_bit_exactly(name, whole_runs, tiny_model_folder, rows_file, tmp_path):
    number, *_ = place = CUTS[name]
    more = STOPS_EARLY if "early" in name else ""
    whole = whole_runs[more]
    words = ["tests/cut_command.py", *map(str, place), *command(tiny_model_folder, rows_file, more)]
    ended = run(words, tmp_path)
    assert ended.returncode == (-signal.SIGKILL if number == "SIGKILL" else 130), ended.stderr
    assert not (tmp_path / "run/adapter").exists()
    if number != "SIGKILL":  # what was done is what is saved: nothing is lost by asking
        last = list_checkpoints(tmp_path / "run/checkpoints")[-1]
        assert find_damage(last) is None
        assert f"{step_of(last)} of 14 steps done, {step_of(last)} saved" in ended.stderr
        assert "Traceback" not in ended.stderr
    resumed = run(["train.py", "--output_dir", "run", "--resume_from_checkpoint", "auto"], tmp_path)
    assert resumed.returncode == 0, resumed.stderr

    logs = [
        [[line.get(key) for key in FIGURES] for line in read_log(folder / "log.jsonl")]
        for folder in (whole, tmp_path / "run")
    ]
    assert logs[0] == logs[1]  # a loss difference of 0.0, every step once
    weights = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (whole, tmp_path / "run")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    for figure in ("eval_loss", "best_checkpoint", "steps"):
        assert read_run(whole).metrics[figure] == read_run(tmp_path / "run").metrics[figure]
    kept = [[path.name for path in list_checkpoints(folder / "checkpoints")] for folder in (whole, tmp_path / "run")]
    assert number != "SIGKILL" or kept[0] == kept[1]  # one that was asked for is saved at a step of its own


# A full disk


@pytest.mark.slow
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


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of 4 MiB can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a run that failed left its log open


@pytest.mark.slow
@pytest.mark.parametrize(("room", "told"), [(0.5, 0.5), (1.04, 0)], ids=["before it writes", "while it writes"])
def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_resumes_once_there_is_room(room, told, train, small_disk):
    """room: what is left free, in checkpoints' tensors; told: what the message says is left."""
    output = small_disk / "run"
    train("--max_steps", "2", folder=str(output))
    old = output / "checkpoints/checkpoint-2"
    size = sum((old / name).stat().st_size for name in ("adapter_model.safetensors", "optimizer.pt"))
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - int(room * size))
    with pytest.raises(DiskFullError) as caught:
        train("--max_steps", "4", "--resume_from_checkpoint", "auto", folder=str(output))
    needed, free = (
        int(text.replace(",", "")) for text in re.findall(r"([0-9,]+)(?: bytes, | are free)", str(caught.value))
    )
    assert size * 0.8 < needed < size * 1.04
    assert free == pytest.approx(told * size, abs=10_000)
    assert list((output / "checkpoints").iterdir()) == [old]
    assert find_damage(old) is None
    filler.unlink()
    assert train("--max_steps", "4", "--resume_from_checkpoint", "auto", folder=str(output)).metrics["steps"] == 4


def test_a_disk_that_is_full_when_the_weights_are_saved_is_one_line_too(train, small_disk, monkeypatch):
    save = flow.save_tuned

    def fill_and_save(*arguments: object, **more: object) -> str:
        with (small_disk / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
        return save(*arguments, **more)

    monkeypatch.setattr(flow, "save_tuned", fill_and_save)
    with pytest.raises(DiskFullError) as caught:
        train("--max_steps", "2", folder=str(small_disk / "run"))
    assert re.fullmatch(r".*/run: no room on the disk; what was .* and resume: python train\.py .*", str(caught.value))
    (small_disk / "filler").unlink()
    monkeypatch.setattr(flow, "save_tuned", save)
    train("--max_steps", "2", "--resume_from_checkpoint", "auto", folder=str(small_disk / "run"))
    assert read_run(small_disk / "run").status == "complete"


# Which are kept


@pytest.mark.parametrize(
    ("limit", "best", "is_complete", "kept"),
    [
        (2, 10, False, [10, 50]),
        (3, 10, False, [10, 40, 50]),
        (3, None, False, [30, 40, 50]),
        (1, 50, False, [50]),
        (1, 20, False, [20, 50]),  # a crash would need the newest
        (1, 20, True, [20]),
        (1, None, True, [50]),
        (3, 10, True, [10, 40, 50]),
    ],
)
def test_save_total_limit_keeps_the_best_and_the_newest_checkpoint(limit, best, is_complete, kept, tmp_path):
    for step in (10, 20, 30, 40, 50):
        (tmp_path / f"checkpoint-{step}").mkdir()
    best_one = tmp_path / f"checkpoint-{best}" if best else None
    prune_checkpoints(tmp_path, limit=limit, best=best_one, is_complete=is_complete)
    assert [int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)] == kept
