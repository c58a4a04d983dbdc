import os
import signal
import subprocess
import sys

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


def test_a_reader_that_goes_away_ends_the_command_quietly():
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
