"""The command itself, as a user types it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT

TIMEOUT_S = 300  # a busy machine is slow to import torch
Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def environment() -> dict[str, str]:
    """The machine's environment without settings, offline, one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SFT_", "HF_ENDPOINT"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def run_script(environment, tmp_path):
    """run_script("--max_steps", 2, HF_HUB_OFFLINE="0") -> the finished `python train.py --max_steps 2`."""

    def run(*flags: object, **variables: str) -> Finished:
        command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
        env = {**environment, **variables}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)

    return run


@pytest.fixture
def small(tiny_model_folder, rows_file) -> list[object]:
    """Flags of a run on the tiny model."""
    flags = ["--model", str(tiny_model_folder), "--data", str(rows_file), "--method", "lora", "--dtype", "fp32"]
    return [*flags, "--system_prompt", "Be brief.", "--max_seq_length", 192]


# What is refused


def test_without_data_it_says_in_one_line_what_to_run_first(run_script):
    done = run_script()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: data/mixed: no such dataset; build it: python build_dataset.py --preset demo; or pass your own rows: "
        "--data rows.csv\n"
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--learning_rte 1e-4", "--learning_rte: unknown flag; did you mean --learning_rate?"),
        ("--config nowhere.yaml", "nowhere.yaml: no such file; . has no *.yaml"),
        (
            "--output_dir x --resume_from_checkpoint no/such",
            "no/such: no checkpoint; name a folder like outputs/demo/checkpoints/checkpoint-50, or auto",
        ),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(flags, line, run_script):
    done = run_script(*flags.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


@pytest.fixture
def closed_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_model_that_cannot_be_had_is_one_line_and_exit_code_2_at_once(
    offline, run_script, rows_file, closed_port, tmp_path
):
    hub = {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": f"http://127.0.0.1:{closed_port}", "HF_HOME": str(tmp_path / "hf")}
    done = run_script("--model", "Qwen/Nope", "--data", rows_file, **hub)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [  # no word of a retry, and none of a library
        f"{rows_file}: 40 rows, recognised as instruction/input/output",
        "error: Qwen/Nope: no such folder here, not in the local cache, and the hub cannot be reached "
        "(LocalEntryNotFoundError); check the network or HF_ENDPOINT, or use a folder or `--model embedded`",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == []


@pytest.mark.parametrize("flags", [(), ("--on_bad_row", "quarantine")])
def test_a_bad_row_ends_the_command_or_is_left_out_by_the_flag_that_the_message_names(flags, run_script, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Q", "output": "A"}\n{"instruction": "R", "output": "B"}\n{', encoding="utf-8")
    done = run_script("--data", path, "--model", "Qwen/Nope", *flags)  # a model that ends it after the data is read
    said = done.stderr.splitlines()
    bad = f"{path}:3: not valid JSON: Expecting property name enclosed in double quotes at column 2 (cut off?)"
    if flags:
        assert said[:2] == [f"warning: left out {bad}", f"{path}: 2 rows, recognised as instruction/input/output"]
        assert said[2].startswith("error: Qwen/Nope: ")
    else:
        assert said == [f"error: {bad}; fix the row, or pass --on_bad_row quarantine"]


# What it prints, and how it ends


GREETER = """
import sys

class Greeter:
    @staticmethod
    def find_spec(name, *_):
        if name == "trl":
            print("TRL greets you")

sys.meta_path.insert(0, Greeter)
"""


@pytest.mark.slow
def test_what_libraries_print_when_they_are_imported_is_not_mixed_with_the_result(run_script, small, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GREETER, encoding="utf-8")  # Python imports it before anything else
    done = run_script(*small, "--dry_run", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "TRL greets you" in done.stderr.splitlines()
    assert json.loads(done.stdout)["run"] is None
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "command"),
    [
        ({"text": "很好{}", "label": "正面"}, "evaluate.py --run"),
        ({"instruction": "翻译{}", "output": "hello"}, "evaluate.py --rouge --run"),
    ],
)
def test_rouge_is_proposed_where_there_is_free_text_to_measure_and_not_for_labels(
    row, command, run_script, small, tmp_path
):
    rows = [{name: value.format(number) for name, value in row.items()} for number in range(8)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    done = run_script(*small, "--data", path, "--max_steps", 1, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"next: python {command} run, or python chat.py --run run" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_a_line_that_really_continues_the_run(environment, run_script, small, tmp_path):
    flags = ["--max_steps", 400, "--eval_steps", 4, "--learning_rate", "1e-3", "--output_dir", "outputs/my run"]
    command = [sys.executable, str(ROOT / "train.py"), *map(str, [*small, *flags])]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "outputs/my run/checkpoints/checkpoint-4/trainer_state.json", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 130
    assert "Traceback" not in said
    *_, how, last = said.splitlines()
    assert last == "interrupted"
    done, command = how.split("; resume with: python ")
    assert re.fullmatch(r"[0-9]+ of 400 steps done, [0-9]+ saved", done)
    assert not (tmp_path / "outputs/latest").is_symlink()

    # word for word, it takes the model, the data and the recipe from the run; two flags more, so that the test ends
    script, *words = shlex.split(command)
    resumed = run_script(*words, "--max_steps", 5, "--json")
    assert (script, resumed.returncode) == ("train.py", 0), resumed.stderr
    assert re.search(r"^outputs/my run/run\.json: .*(\n  .*)*learning_rate=0\.001", resumed.stderr, re.MULTILINE)
    assert "Traceback" not in resumed.stderr

    result = json.loads(resumed.stdout)  # --json: one object and nothing else
    assert resumed.stdout.count("\n") == 1
    run = json.loads((tmp_path / "outputs/my run/run.json").read_text(encoding="utf-8"))
    assert {"run": "outputs/my run", **run["metrics"]} == result
    assert (run["status"], run["settings"]["data"]) == ("complete", small[3])
    assert os.readlink(tmp_path / "outputs/latest") == "my run"


def wait_for(path: Path, process: subprocess.Popen[str], limit_s: float = TIMEOUT_S) -> None:
    """Until a file is there; fails where the process ends before."""
    started = time.monotonic()
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - started < limit_s
        time.sleep(0.02)
