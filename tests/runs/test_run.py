"""Run folders: run.json is whole or not there, only finished runs are opened, outputs/latest is the newest of them."""

import json
import os
import threading
from datetime import datetime
from pathlib import Path

import pytest

from prompts import Fingerprint
from sft.errors import RunError
from sft.files import NotWritableError
from sft.runs.run import COMPLETE, Run, continue_command, make_run_dir, open_run, read_run, write_atomically


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(folder: str = "outputs/a", **values) -> Run:
    """A run that has begun, its run.json written."""
    Path(folder).mkdir(parents=True)
    run = Run(
        path=Path(folder),
        status="training",
        settings={"lora_r": 8, "target_modules": ["q_proj"], "config": "recipes/demo.yaml", "dry_run": False},
        origins={"lora_r": "flag"},
        base={"name": "embedded", "weights": "sha256 1f3a"},
        system_prompt="简短回答。",
        fingerprint=Fingerprint({"system prompt": "'简短回答。'"}),
        data={"path": "data/mixed", "sha256": "ab", "split": "as built", "tasks": ["ner"]},
        created="2026-11-22T12:00:00+00:00",
        **values,
    )
    run.save()
    return run


def refusal(path: str | Path | None = None) -> str:
    with pytest.raises(RunError) as caught:
        open_run(path)
    line = str(caught.value)
    assert line.splitlines() == [line]
    return line


# run.json


def test_a_run_comes_back_as_it_was_saved():
    run = make_run()
    assert read_run(Path("outputs/a")) == Run(**{**vars(run), "path": Path("outputs/a").resolve()})
    assert "简短回答" in Path("outputs/a/run.json").read_text(encoding="utf-8")  # for people, too


def test_a_finished_run_opens_with_its_metrics_from_wherever_it_is_named(tmp_path):
    make_run().finish({"eval_loss": 1.5})
    for name in ("outputs/a", Path("outputs/a"), tmp_path / "outputs" / "a", None):
        run = open_run(name)
        assert (run.status, run.metrics, run.path) == (COMPLETE, {"eval_loss": 1.5}, (tmp_path / "outputs/a").resolve())
    assert (run.adapter_dir, run.evaluation_dir) == (run.path / "adapter", run.path / "evaluation")


def test_the_settings_a_continued_run_keeps_are_those_of_the_run_not_of_the_call():
    run = make_run()
    assert run.began_with() == {"lora_r": 8, "target_modules": ["q_proj"], "config": "recipes/demo.yaml"}
    settings = run.train_settings()
    assert (settings.lora_r, settings.target_modules) == (8, ("q_proj",))


# What is refused


def test_an_unfinished_run_is_refused_with_the_command_that_continues_it():
    make_run("outputs/a b")
    assert refusal("outputs/a b") == (
        "outputs/a b: this run has status 'training'; continue it with "
        "`python train.py --output_dir 'outputs/a b' --resume_from_checkpoint auto`"
    )
    assert continue_command(Path("outputs/a")) == "python train.py --output_dir outputs/a --resume_from_checkpoint auto"


def test_where_there_is_no_run_it_says_what_to_run_first():
    assert refusal() == "no finished run yet; run `python train.py` first, or name a run folder with --run"
    make_run()  # begun, so it is not the latest finished one
    assert refusal() == "no finished run yet; run `python train.py` first, or name a run folder with --run"
    assert refusal("outputs/b") == (
        "no run.json in outputs/b; run `python train.py` first, or name a run folder with --run"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b'{"status": "comp', b"[]", b'"text"', b"3", b"null", b"{}", b'{"fingerprint": {}}', b"\xff\xfe", b"\x00"],
)
def test_a_broken_run_json_is_one_line_that_names_the_file(content):
    Path("outputs/a").mkdir(parents=True)
    Path("outputs/a/run.json").write_bytes(content)
    line = refusal("outputs/a")
    assert line.startswith("outputs/a/run.json: not a run of this version (")
    assert line.endswith("); train again")


@pytest.mark.parametrize(
    "change",
    [{"data": []}, {"data": {}}, {"data": {"tasks": "ner"}}, {"settings": []}, {"base": "embedded"}, {"metrics": 3}],
)
def test_a_field_of_another_shape_is_refused(change):
    make_run()
    path = Path("outputs/a/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))
    assert refusal("outputs/a").startswith("outputs/a/run.json: not a run of this version (")


def test_a_run_json_of_lists_in_lists_is_refused():
    Path("outputs/a").mkdir(parents=True)
    Path("outputs/a/run.json").write_text("[" * 100_000)
    assert refusal("outputs/a").startswith("outputs/a/run.json: not a run of this version (")


def test_an_unknown_or_missing_field_and_an_edited_fingerprint_are_refused():
    make_run()
    path = Path("outputs/a/run.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    edited = {**content["fingerprint"], "parts": {"system prompt": "'Sing.'"}}
    without = {name: value for name, value in content.items() if name != "settings"}
    for broken, word in [({**content, "x": 1}, "'x'"), (without, "'settings'"), ({"fingerprint": edited}, "edited")]:
        path.write_text(json.dumps(broken))
        assert word in refusal("outputs/a")


# outputs/latest


def test_latest_is_the_newest_finished_run_and_nothing_else_is_left_beside_it():
    first, second = make_run("outputs/a"), make_run("outputs/b")
    first.finish({})
    assert os.readlink("outputs/latest") == "a"  # relative: outputs/ can be moved
    assert open_run().path.name == "a"
    second.finish({})
    assert open_run().path.name == "b"
    make_run("outputs/c")
    assert open_run().path.name == "b"
    assert sorted(os.listdir("outputs")) == ["a", "b", "c", "latest"]
    assert os.listdir("outputs/a") == ["run.json"]


def test_latest_follows_a_run_in_another_folder(tmp_path):
    make_run("outputs/a").finish({})
    make_run("elsewhere/b").finish({})
    assert os.readlink("outputs/latest") == str(tmp_path / "elsewhere/b")
    assert (open_run().path.name, open_run("outputs/a").status) == ("b", COMPLETE)
    assert os.listdir("elsewhere") == ["b"]


def test_a_run_is_complete_where_latest_cannot_be_set_and_says_its_name(tmp_path, capsys):
    Path("outputs").touch()
    make_run("elsewhere/b").finish({})
    assert open_run("elsewhere/b").status == COMPLETE
    assert capsys.readouterr().err == (
        f"WARNING outputs/latest does not point at this run (File exists); name it: --run {tmp_path}/elsewhere/b\n"
    )


def test_complete_is_what_is_written_last_and_latest_only_then(monkeypatch):
    run = make_run()
    monkeypatch.setattr(Run, "save", lambda self: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.finish({})
    assert read_run(Path("outputs/a")).status == "training"
    assert not os.path.lexists("outputs/latest")


def test_a_new_folder_is_named_after_date_and_recipe():
    name = make_run_dir("recipes/demo.yaml")
    assert name.parent == Path("outputs")
    assert [len(part) for part in name.name.split("-")] == [8, 6, 4]
    assert name.name.endswith("-demo")


def test_runs_that_start_in_the_same_second_get_a_folder_each(monkeypatch):
    class StoppedClock(datetime):
        """A clock that stands still."""

        @classmethod
        def now(cls, tz=None) -> datetime:
            return cls(2026, 11, 30, 12, 0, 0, tzinfo=tz)

    monkeypatch.setattr("sft.runs.run.datetime", StoppedClock)
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(make_run_dir(None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8
    assert sorted(os.listdir("outputs")) == sorted(folder.name for folder in made)


def test_where_no_folder_can_be_made_it_is_one_line():
    Path("outputs").touch()
    with pytest.raises(NotWritableError, match=r"^outputs: "):
        make_run_dir(None)


# Writing


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(monkeypatch):
    path = Path("run.json")
    write_atomically(path, "old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            broken.setattr(Path, "replace", lambda *_: os.replace(*_))
            with pytest.raises(OSError, match="disk full"):
                write_atomically(path, "new")
        assert (path.read_text(), os.listdir()) == ("old", ["run.json"])


def test_the_content_is_on_disk_before_it_gets_its_name(monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (calls.append("replace"), replace(self, target)))
    write_atomically(Path("run.json"), "x")
    assert calls == ["fsync", "replace"]


def test_a_reader_never_sees_half_a_file():
    path, contents, seen = Path("run.json"), ["a" * 200_000, "b" * 300_000], set()
    write_atomically(path, contents[0])
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        write_atomically(path, contents[number % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert seen


def test_leftovers_of_a_killed_write_are_removed_by_the_next_and_files_being_written_stay(tmp_path):
    import fcntl

    left, busy = (tmp_path / f".a.json.{letter * 32}" for letter in "ab")
    left.write_text("half")
    with busy.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.json", "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == [busy.name, "a.json"]
