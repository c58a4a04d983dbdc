import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.conftest import train_tiny
from tests.terminal import Screen, Terminal
from tests.tiny import make_reciting_model

SCRIPT = ROOT / "chat.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_without_a_run_it_says_what_to_do_first(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: no finished run yet; run `python train.py` first, or name a run folder with --run, "
        "or talk to an untuned model with --model embedded\n"
    )


@pytest.mark.slow
def test_through_a_pipe_the_answers_are_plain_text(tiny_run, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--run", tiny_run, "--max_new_tokens", "30", "--chats_dir", tmp_path],
        input=b"hello\nhow are you?\nexit\nnever read\n",
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(re.findall(rb"\(\d+ tokens, [\d.]+ tokens/s", done.stderr)) == 2
    text = done.stdout.decode()
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f]|you>", text) == []


@pytest.fixture(scope="module")
def endless_model(tmp_path_factory) -> Path:
    """A model that never ends an answer, so that Ctrl-C always comes in time; it says bytes that steer terminals."""
    return make_reciting_model(tmp_path_factory.mktemp("endless"), "ans\x1b[2J\x9b \x07\x00wer\n", ends=False)


@pytest.fixture
def open_chat(endless_model, tmp_path):
    """open_chat("--seed", "1") starts chat.py with the endless model in tmp_path and waits for its first prompt."""
    opened: list[Terminal] = []

    def open_one(*flags: str) -> Terminal:
        flags = ("--model", str(endless_model), "--decoding", "precise", "--max_new_tokens", "90000", *flags)
        opened.append(Terminal("chat.py", *flags, cwd=tmp_path))
        opened[-1].wait_for("you>")
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_in_a_terminal_one_talks_stops_an_answer_edits_a_line_saves_and_leaves(open_chat, tmp_path):
    chat = open_chat()
    chat.type("你好 hello\r")
    chat.wait_for(r"ans␛\[2J\\x9b ␇␀wer")  # the answer has begun
    chat.type("\x03")
    chat.wait_for(r"\([\d,]+ tokens, [\d.]+ tokens/s, stopped\)")
    chat.wait_for("you>")
    chat.type("/save one\r")
    chat.wait_for(r"saved: outputs/chats/one\.jsonl")
    chat.wait_for("you>")
    chat.type("/unXX\x7f\x7fdo\r")  # backspace twice
    chat.wait_for(r"\(last question forgotten\)")
    chat.wait_for("you>")
    chat.type("\x1b[A\r")  # arrow up: the line typed last
    chat.wait_for(r"\(there is nothing to forget\)")
    chat.wait_for("you>")
    chat.type("/set max_new_tokens 20\r")
    chat.wait_for(r"\(max_new_tokens = 20\)")
    chat.wait_for("you>")
    chat.type("first\x1b\rsecond\r")  # Alt-Enter
    shown = chat.wait_for(r"\(20 tokens, [\d.]+ tokens/s, cut off: raise it with /set max_new_tokens\)")
    screen = Screen()  # raises for a sequence that is not our drawing; what prompt_toolkit sent before is its own
    screen.feed(COLOURS.sub("", shown[shown.index("\x1b[?2026h") : shown.rindex("\x1b[?2026l")]))
    assert screen.lines == ["ans␛[2J\\x9b ␇␀wer", "ans␛", ""]
    chat.wait_for("you>")
    chat.type("\x04")
    assert chat.wait_for_exit() == 0
    assert '{"role": "user", "content": "first\\nsecond"}' in (tmp_path / "outputs/chats/last.jsonl").read_text()


@pytest.mark.slow
def test_in_a_terminal_a_chat_that_was_killed_is_taken_up_again_and_ctrl_c_twice_leaves_with_130(open_chat):
    chat = open_chat()
    chat.type("/set max_new_tokens 20\r")
    chat.wait_for(r"\(max_new_tokens = 20\)")
    chat.wait_for("you>")
    chat.type("remember me\r")
    chat.wait_for("cut off: raise it with /set max_new_tokens")
    chat.wait_for("you>")
    chat.kill()
    chat = open_chat()
    chat.type("/load\r")
    chat.wait_for(r"\(taken up: 1 question and answers\)\r\nlast question: remember me")
    chat.wait_for("you>")
    chat.type("/tokens\r")
    chat.wait_for(r"\(nothing was asked yet\)")
    chat.wait_for("you>")
    chat.type("\x03")
    chat.wait_for(re.escape("(Ctrl-C once more leaves; so do exit and Ctrl-D)"))
    chat.wait_for("you>")
    chat.type("\x03")
    assert chat.wait_for_exit() == 130
    assert chat.shown.endswith("interrupted\r\n")


@pytest.fixture(scope="module")
def endless_run(endless_model, rows_file, tmp_path_factory) -> Path:
    """A run tuned from the endless model: four steps do not make it stop."""
    return train_tiny(tmp_path_factory.mktemp("endless_run") / "run", "lora", endless_model, rows_file)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("columns", [80, 120])
def test_in_tmux_a_person_sees_answers_comparison_and_the_conversation_after_a_restart(endless_run, tmp_path, columns):
    pane = Tmux(tmp_path, columns)
    command = f"{sys.executable} {SCRIPT} --run {endless_run} --decoding precise --max_new_tokens 90000"
    try:
        pane.start(command)
        pane.wait_for(r"you>")
        pane.type("/help")
        pane.wait_for(
            r"/system \[TEXT\]       show the system prompt, or set another; /system none(\n {20})? leaves it to the"
        )
        pane.type("你好 hello")
        pane.wait_for(r"you> 你好 hello\nmodel>\nans␛\[2J\\x9b ␇␀wer\nans")
        pane.press("C-c")
        pane.wait_for(r"\(\d+ tokens, [\d.]+ tokens/s, stopped\)\n\(Ctrl-C once more leaves")
        pane.type("/set max_new_tokens 30")
        pane.wait_for(r"\(max_new_tokens = 30\)")
        pane.type("/compare")
        half = (columns - 4) // 2
        pane.wait_for(
            rf"base +│ tuned\n─{{{half}}} │ ─{{{half}}}\n(ans␛\[2J\\x9b ␇␀wer +│ ans␛\[2J\\x9b ␇␀wer\n)+"
            r"(.*\n)*\(asked for this comparison only"
        )
        pane.type("/undo")
        pane.wait_for(r"\(last question forgotten\)")
        pane.type("again")
        pane.wait_for(r"you> again\n(.*\n)+.*tokens/s")
        pane.type("/save mine")
        pane.wait_for(r"saved: outputs/chats/mine\.jsonl")
        pane.type("exit")
        pane.wait_for(r"ended 0")
        pane.start(command)
        pane.wait_for(r"you>")
        pane.type("/load mine")
        pane.wait_for(r"\(taken up: 1 question and answers\)\nlast question: again\nlast answer:\nans␛")
        pane.press("C-c")
        pane.wait_for(r"\(Ctrl-C once more leaves")
        pane.press("C-c")
        pane.wait_for(r"interrupted\nended 130")
    finally:
        pane.close()


class Tmux:
    """A window of so many columns and 40 lines, and what a person sees in it."""

    def __init__(self, folder: Path, columns: int) -> None:
        self.socket, self.folder = str(folder / "tmux"), folder
        self._run("new-session", "-d", "-s", "chat", "-x", str(columns), "-y", "40", "-c", str(folder), "sh")

    def start(self, command: str) -> None:
        self._run("clear-history", "-t", "chat")
        here = "env -u COLUMNS -u LINES OMP_NUM_THREADS=1"  # the window's own size, not that of who runs the tests
        self._run("send-keys", "-t", "chat", f"clear; {here} {command}; echo ended $?", "Enter")

    def type(self, line: str) -> None:
        self._run("send-keys", "-t", "chat", "-l", line)
        self.press("Enter")

    def press(self, key: str) -> None:
        self._run("send-keys", "-t", "chat", key)

    def wait_for(self, pattern: str, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, shown := self._run("capture-pane", "-t", "chat", "-p", "-S", "-200")):
            assert time.monotonic() < deadline, f"never saw {pattern!r}, but:\n{shown}"
            time.sleep(0.2)

    def close(self) -> None:
        self._run("kill-server")

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-S", self.socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_embedded_model_says_hello_through_a_pipe(embedded_folder, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--model",
            "embedded",
            "--decoding",
            "precise",
            "--max_new_tokens",
            "4",
            "--chats_dir",
            tmp_path,
        ],
        input=b"hello\nexit\n",
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"Hello! How can\n"), done.stderr.decode()
