"""How many epochs a run takes where nothing says it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.runs.run import read_run
from sft.training.arguments import ENOUGH_STEPS, MOST_EPOCHS, USUAL_EPOCHS, choose_epochs


@pytest.mark.parametrize(("num_rows", "epochs"), [(54, 20), (60, 19), (300, 4), (1000, 3), (200_000, 3), (1, 20)])
def test_few_rows_are_gone_through_more_often(num_rows, epochs):
    assert choose_epochs(num_rows, 8) == epochs


@given(st.integers(1, 100_000), st.integers(1, 512))
def test_a_run_takes_enough_steps_or_as_many_epochs_as_help(num_rows, rows_per_step):
    epochs = choose_epochs(num_rows, rows_per_step)
    steps = -(-num_rows // rows_per_step) * epochs
    assert USUAL_EPOCHS <= epochs <= MOST_EPOCHS
    assert steps >= ENOUGH_STEPS or epochs == MOST_EPOCHS
    assert epochs == USUAL_EPOCHS or steps < 2 * ENOUGH_STEPS


def test_the_plan_prints_the_epochs_and_the_run_keeps_them(train, tmp_path, capsys):
    metrics = train("--dry_run").metrics  # 36 rows, 8 a step
    assert metrics["steps"] == 5 * MOST_EPOCHS
    said = capsys.readouterr().err
    assert re.search(
        r"s per step, 100 steps \(20 epochs of 36 rows\) and 2 validations \(under 1 s each\) in about", said
    )

    train("--num_train_epochs", "0.5", "--eval_steps", "3")
    assert read_run(tmp_path / "run").settings["num_train_epochs"] == 0.5
    assert "3 steps (0.5 epochs of 36 rows)" in capsys.readouterr().err
