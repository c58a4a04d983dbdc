"""Layers in pieces, their inputs put away: losses and gradients are those of layers computed whole."""

import re
from pathlib import Path

import pytest

from sft.training.log import read_log

FLAGS = ("--max_steps", "4", "--eval_steps", "2", "--learning_rate", "1e-2", "--warmup_steps", "0")


def losses(folder: Path) -> list[float]:
    """Of every step and every validation."""
    lines = read_log(folder / "log.jsonl")
    return [line[key] for line in lines for key in ("loss", "eval_loss", "grad_norm") if key in line]


def test_a_run_in_pieces_has_the_losses_of_one_without(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sft.training.long_rows.PIECE", 100)
    train(*FLAGS, folder="usual")
    train(*FLAGS, "--activation_offloading", folder="pieces")
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "usual"), rel=1e-4)
    plans = re.findall(r"^plan: .*", capsys.readouterr().err, re.MULTILINE)
    assert ["layers in pieces" in plan for plan in plans] == [False, True]
