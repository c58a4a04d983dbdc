"""Several processes are one run: the same rows, losses and weights as one process, one writer, no row twice."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft.runs.run import open_run
from sft.training.log import read_log
from tests.commands import ROOT

TIMEOUT_S = 600
RECIPE = "--gradient_accumulation_steps 1 --lora_dropout 0 --neftune_noise_alpha 0 --learning_rate 1e-2 "
RECIPE += "--warmup_steps 0 --eval_steps 3 --dtype fp32"


def flags_of(model: Path, rows: Path, folder: str) -> list[str]:
    flags = ["--model", model, "--data", rows, "--output_dir", folder, "--method", "lora", "--max_seq_length", 192]
    # 36 training rows, 8 a step: 5 steps an epoch, the last of 4 rows; 4 validation rows
    return [*map(str, flags), "--system_prompt", "Be brief.", "--max_steps", "7", *RECIPE.split()]


def launch(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.fixture
def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["lm", "classification"])
def test_two_processes_with_gloo_equal_one_on_the_same_rows(
    tiny_model_folder, rows_file, reviews_file, tmp_path, port, head
):
    script, rows = str(ROOT / "train.py"), rows_file if head == "lm" else reviews_file
    own = ["--head", head, "--head_dropout", "0"]
    alone = launch([script, *flags_of(tiny_model_folder, rows, "one"), *own, "--batch_size", "8"], tmp_path)
    assert alone.returncode == 0, alone.stderr
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", script]
    flags = [*flags_of(tiny_model_folder, rows, "two"), *own, "--batch_size", "4"]
    both = launch([*torchrun, *flags, "--micro_batch_tokens", "90", "--json"], tmp_path)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("\n") == 1  # one result, from the first process
    assert json.loads(both.stdout)["run"] == "two"
    assert both.stderr.count("plan: 8 rows per step") == 1  # one narrator
    assert "Traceback" not in both.stderr

    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 7]
    for one, two in zip(*logs, strict=True):
        for figure in ("loss", "eval_loss", "eval_accuracy", "eval_macro_f1", "grad_norm"):
            assert two.get(figure, 0) == pytest.approx(one.get(figure, 0), abs=1e-5, rel=1e-4), (figure, one["step"])
    weights = [load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=1e-3)  # each moves by up to 0.07
    run = open_run(tmp_path / "two")
    assert (run.processes, run.rows_per_step, run.metrics["steps"]) == (2, 8, 7)
    checkpoint = tmp_path / "two/checkpoints/checkpoint-7"
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= {path.name for path in checkpoint.iterdir()}


def test_a_single_process_needs_no_launcher():
    from sft.training.processes import any_process, from_first, gather_parts, is_first, largest, world_size

    assert (world_size(), is_first(), largest(3), any_process(False), gather_parts([1, 2])) == (
        1,
        True,
        3,
        False,
        [1, 2],
    )
    assert from_first(lambda: "here") == "here"
