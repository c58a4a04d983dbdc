"""A run folder has one writer, and holds nothing where nothing was worth keeping; what is in doubt is said first."""

import json
import threading
from pathlib import Path

import pytest

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError, ModelError, RunError
from sft.files import BusyError, NotWritableError, held
from sft.runs.checkpoints import LOCK_FILE, claimed_run_dir
from sft.runs.run import open_run, read_run
from sft.training.fit import fit

CONTINUE = ("--resume_from_checkpoint", "auto")
TWO_STEPS = ("--max_steps", "2", "--eval_steps", "2", "--warmup_steps", "0")


def settings_of(*flags: object) -> TrainSettings:
    return load_settings(TrainSettings, [str(flag) for flag in flags])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def warnings(capsys: pytest.CaptureFixture) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("WARNING ") for line in lines if line.startswith("WARNING ")]


# One writer


@pytest.mark.parametrize("more", [(), CONTINUE])
def test_a_folder_that_a_training_writes_is_refused_to_a_second_one(train, tmp_path, more):
    with held(tmp_path / "run" / LOCK_FILE, "x", "y"), pytest.raises(BusyError) as caught:
        train(*TWO_STEPS, *more)
    assert str(caught.value).startswith(f"{tmp_path}/run: another training is running (process ")
    assert str(caught.value).endswith("); wait, or choose another --output_dir")
    assert files_of(tmp_path / "run") == {}  # the first one's lock, which is gone with it, was all there was


def test_trainings_that_start_in_the_same_second_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, barrier, taken = settings_of(), threading.Barrier(4), []

    def claim() -> None:
        barrier.wait()
        with claimed_run_dir(settings) as folder:
            taken.append(folder)
            barrier.wait()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 4
    assert list((tmp_path / "outputs").iterdir()) == []  # nothing was written to them


def test_a_folder_that_cannot_be_made_is_refused_before_the_model_is_loaded(tmp_path, rows_file):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        settings = settings_of("--data", rows_file, "--model", "no/such/model", "--output_dir", folder)
        with pytest.raises(NotWritableError, match=r": cannot be written to \("):
            fit(settings, None)


def test_a_dry_run_makes_no_folder_and_may_look_beside_a_training(train, tmp_path):
    with held(tmp_path / "run" / LOCK_FILE, "x", "y"):
        assert train(*TWO_STEPS, "--dry_run").run_dir is None
    assert train(*TWO_STEPS, "--dry_run", folder="other").run_dir is None
    assert not (tmp_path / "other").exists()


# Nothing half-made is in the way


def test_a_command_that_fails_before_its_first_step_leaves_no_folder(train, tmp_path):
    with pytest.raises(ConfigError, match="metric_for_best_model"):
        train(*TWO_STEPS, "--metric_for_best_model", "eval_nonsense")
    with pytest.raises(ModelError):
        train(*TWO_STEPS, "--model", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()
    assert train(*TWO_STEPS).metrics["steps"] == 2


def test_a_command_that_fails_in_a_folder_of_the_users_leaves_what_is_his(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError):
        train(*TWO_STEPS, "--model", tmp_path / "nowhere")
    assert files_of(tmp_path / "run") == {"notes.txt": b"mine"}


def test_a_run_that_ended_before_its_first_checkpoint_makes_way_for_the_corrected_command(train, interrupt, tmp_path):
    with interrupt(2), pytest.raises(KeyboardInterrupt):
        train("--max_steps", "4", "--eval_steps", "4", "--learning_rate", "1e-3", "--num_sample_predictions", "1")
    assert read_run(tmp_path / "run").status == "training"
    (tmp_path / "run" / "samples.jsonl").write_text('{"step": 1}\n')
    assert train(*TWO_STEPS, "--learning_rate", "1e-4", "--num_sample_predictions", "1").metrics["steps"] == 2
    run = open_run(tmp_path / "run")
    assert run.settings["learning_rate"] == 1e-4
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 2]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [2]


def test_a_run_with_a_checkpoint_is_kept_even_where_it_never_finished(train, interrupt, tmp_path):
    with interrupt(3), pytest.raises(KeyboardInterrupt):
        train("--max_steps", "4", "--eval_steps", "2")
    before = files_of(tmp_path / "run")
    with pytest.raises(RunError, match=r"already contains a run; choose another --output_dir, or --resume"):
        train(*TWO_STEPS)
    assert files_of(tmp_path / "run") == before


# A finished run with nothing left to do


def test_a_finished_run_with_no_step_left_keeps_every_file_and_figure(train, tmp_path, capsys):
    flags = ("--max_steps", "4", "--eval_steps", "2", "--learning_rate", "1e-1", "--save_total_limit", "1")
    first = train(*flags)
    before = files_of(tmp_path / "run")
    for steps in ("4", "3"):
        assert train(*flags, "--max_steps", steps, *CONTINUE).metrics == first.metrics
        assert "is complete and has no step left to make" in capsys.readouterr().err
    assert files_of(tmp_path / "run") == before


def test_a_run_that_stopped_early_resumes_only_with_more_patience(train, tmp_path):
    flags = ("--max_steps", "8", "--eval_steps", "1", "--learning_rate", "1e-9", "--early_stopping_threshold", "1")
    first = train(*flags, "--early_stopping_patience", "2")
    assert first.metrics["steps"] < 8
    before = files_of(tmp_path / "run")
    assert train(*flags, "--early_stopping_patience", "2", *CONTINUE).metrics == first.metrics
    assert files_of(tmp_path / "run") == before
    assert train(*flags, "--early_stopping_patience", "4", *CONTINUE).metrics["steps"] > first.metrics["steps"]


# Said before it is too late


def test_few_steps_and_a_warm_up_longer_than_the_run_are_warned_of_before_the_first_step(train, capsys):
    train("--max_steps", "3", "--dry_run", "--warmup_steps", "5")
    assert warnings(capsys) == [
        "only 3 optimizer steps, and in fewer than about 50 a model learns little: raise --num_train_epochs, or lower "
        "--gradient_accumulation_steps",
        "the warm-up takes 5 steps and the run has 3, so the learning rate never reaches 0.0002: lower --warmup_steps",
    ]
    train("--max_steps", "60", "--dry_run", "--warmup_ratio", "0.1")
    assert warnings(capsys) == []


def test_a_split_whose_answers_are_all_the_same_is_warned_of(train, tmp_path, capsys):
    rows = [{"text": f"第{number}间房很好", "label": "正面"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train("--max_steps", "60", "--dry_run", "--data", tmp_path / "rows.jsonl")
    told = warnings(capsys)
    assert len(told) == 2
    for line, split in zip(told, ("training", "validation"), strict=True):
        assert f" {split} rows have the same answer, '正面', so that to know it is to be right: mix in" in line


def test_others_may_read_every_file_of_a_run_where_the_umask_lets_them(train, tmp_path):
    train(*TWO_STEPS)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "usual").touch()
    assert modes == {(tmp_path / "usual").stat().st_mode & 0o777}
