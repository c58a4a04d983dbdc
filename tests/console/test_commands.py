import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sft.console import run_command
from sft.errors import DataError


def run_python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, **options)


def ending_of(error: BaseException | None) -> int | str | None:
    def main() -> None:
        if error is not None:
            raise error

    try:
        run_command(main)
    except SystemExit as end:
        return end.code
    return 0


def test_a_command_that_ends_well_says_nothing(capsys):
    assert ending_of(None) == 0
    assert capsys.readouterr() == ("", "")


def test_what_the_user_can_mend_is_one_safe_line_and_exit_code_2(capsys):
    assert ending_of(DataError("a.jsonl:17: no 'output';\nfix \x1b[2Jthe row")) == 2
    assert capsys.readouterr() == ("", "error: a.jsonl:17: no 'output'; fix ␛[2Jthe row\n")


def test_an_error_of_the_prompt_code_is_the_users_too(capsys):
    from prompts import PromptError

    assert ending_of(PromptError("no such task")) == 2
    assert capsys.readouterr().err == "error: no such task\n"


def test_an_interruption_is_one_line_and_exit_code_130(capsys):
    assert ending_of(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def refused(number: int, name: str | None = "data/x") -> OSError:
    """What the system raises: refused(errno.EROFS) -> OSError(30, "Read-only file system", "data/x")."""
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (refused(errno.EACCES), "data/x: Permission denied; give access to it, or name another"),
        (refused(errno.EROFS), "data/x: Read-only file system; give access to it, or name another"),
        (refused(errno.ENOTDIR), "data/x: Not a directory; name another path"),
        (refused(errno.EEXIST), "data/x: File exists; name another path"),
        (refused(errno.EIO), "data/x: Input/output error; see to the disk or the network share"),
        (
            refused(errno.ENOSPC, None),
            "no room on the disk (No space left on device); make room, and run the same command again",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
            "no room on the disk (I/O error: No space left on device (os error 28)); make room, and run the same "
            "command again",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_code_2(error, line, capsys):
    assert ending_of(error) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_a_link_that_leads_to_itself_is_one_line_wherever_a_path_is_resolved(tmp_path, capsys):
    (link := tmp_path / "link").symlink_to(link)
    with pytest.raises(SystemExit, match="2"):
        run_command((link / "run").resolve)
    assert capsys.readouterr().err.endswith("link/run: Too many levels of symbolic links; name another path\n")


def test_a_file_that_is_missing_unasked_for_is_a_bug_of_ours():
    with pytest.raises(FileNotFoundError):
        ending_of(refused(errno.ENOENT))


PRINT = "from sft.console import run_command\nrun_command(lambda: print('the result'))"


@pytest.mark.parametrize(
    ("unbuffered", "line"),
    [
        ("", b"error: standard output: No space left on device; the result could not be printed\n"),
        (
            "1",
            b"error: no room on the disk (No space left on device); make room, and run the same command again\n",
        ),
    ],
)
def test_a_result_that_cannot_be_printed_is_one_line_and_exit_code_2(unbuffered, line):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", PRINT]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (2, line)


def test_closed_streams_end_a_command_before_it_starts():
    code = PRINT.replace("print('the result')", "open('made', 'w')")
    for closing, said in ((">&-", True), (">&- 2>&-", False)):
        command = f'"{sys.executable}" -c "$CODE" {closing}'
        environment = {**os.environ, "CODE": code}
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("error: standard output is closed") is said
    assert not Path("made").exists()


def test_a_python_without_docstrings_is_refused_before_anything_is_imported():
    code = "from sft.console import run_command\nrun_command(print)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Python's -OO (PYTHONOPTIMIZE=2) drops docstrings")


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly():
    code = "from sft.console import run_command\nrun_command(lambda: [print('x' * 100) for _ in range(10000)])"
    command = f'"{sys.executable}" -c "$CODE" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "CODE": code}, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("x" * 100 + "\n1\n", "")


def test_chinese_in_a_locale_without_it_is_escaped_not_a_traceback():
    code = "from sft.console import run_command\nrun_command(lambda: print('正面'))"
    done = run_python(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u6b63\\u9762\n", b"")


def test_a_real_ctrl_c_while_working_exits_with_130():
    code = (
        "import os, signal, time\nfrom sft.console import run_command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell begin without it
        f"run_command(lambda: (os.kill(os.getpid(), {int(signal.SIGINT)}), time.sleep(30)))"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (130, b"interrupted\n")
