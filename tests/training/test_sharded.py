"""Weights in pieces over two processes: the same run as one process makes; what cannot be done with them is refused."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.training.log import read_log
from sft.training.processes import check_settings
from tests.commands import ROOT
from tests.training.test_methods import loss_of

TIMEOUT_S = 600
RECIPE = "--dtype fp32 --max_seq_length 192 --lora_dropout 0 --neftune_noise_alpha 0 --learning_rate 1e-2 "
RECIPE += "--lr_scheduler_type constant --warmup_steps 0 --eval_steps 3 --gradient_accumulation_steps 1"


def launch(config: str, flags: list[str], folder: Path) -> None:
    """Two processes of train.py under a shipped configuration of accelerate, in fp32."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    words = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "recipes/accelerate" / config)]
    words += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", str(port)]
    words += [str(ROOT / "tests/pieces_on_cpu.py"), "train.py", *flags]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("config", ["fsdp2.yaml", "zero3.yaml"])
def test_two_processes_with_weights_in_pieces_train_save_resume_and_evaluate_as_one(
    config, method, train, tiny_model_folder, rows_file, tmp_path
):
    if config == "zero3.yaml" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed, which ZeRO-3 needs, is an optional package and not installed")
    # 36 training rows, 8 a step; 4 validation rows
    train(*RECIPE.split(), "--method", method, "--batch_size", "8", "--max_steps", "7", folder="one")
    flags = ["--model", tiny_model_folder, "--data", rows_file, "--output_dir", "two", "--method", method]
    flags = [*map(str, flags), "--system_prompt", "Be brief.", *RECIPE.split(), "--batch_size", "4"]
    launch(config, [*flags, "--max_steps", "5"], tmp_path)
    launch(config, ["--output_dir", "two", "--resume_from_checkpoint", "auto", "--max_steps", "7"], tmp_path)

    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert [line["step"] for line in logs[1]] == [1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 7]
    for one in logs[0]:
        [two] = [line for line in logs[1] if line["step"] == one["step"] and ("loss" in line) == ("loss" in one)]
        for figure in ("loss", "eval_loss"):
            assert two.get(figure, 0) == pytest.approx(one.get(figure, 0), abs=1e-4), (figure, one["step"])
    runs = [open_run(tmp_path / name) for name in ("one", "two")]
    weights = [load_file(next(run.weights_dir.glob("*.safetensors"))) for run in runs]
    assert {name: value.shape for name, value in weights[0].items()} == {n: v.shape for n, v in weights[1].items()}
    assert runs[1].processes == 2
    assert loss_of(load_run(runs[1])) == pytest.approx(loss_of(load_run(runs[0])), abs=1e-3)


@pytest.mark.parametrize(
    ("launcher", "flags", "message"),
    [
        ("FSDP", "--method qlora", "method qlora: 4-bit weights cannot be sharded; use --method lora"),
        ("DEEPSPEED", "--method lora --num_sample_predictions 2", "num_sample_predictions: one process cannot"),
        ("FSDP", "--method lora --metric_for_best_model eval_macro_f1", "metric_for_best_model: labels are not scored"),
        ("DEEPSPEED", "--method lora --dry_run", "dry_run: DeepSpeed's engine cannot undo a step"),
    ],
)
def test_a_setting_that_needs_whole_weights_is_refused(launcher, flags, message, monkeypatch):
    settings = load_settings(TrainSettings, flags.split())
    check_settings(settings)  # launched as one process
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(ConfigError) as caught:
        check_settings(settings)
    assert str(caught.value).startswith(message)


def test_missing_weight_sharding_is_warned_of(train, monkeypatch, capsys):
    told = "WARNING weights are sharded over several GPUs only: here each process has all of them"
    train("--max_steps", "1", folder="whole")
    assert told not in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    train("--max_steps", "1")
    assert told in capsys.readouterr().err.splitlines()
