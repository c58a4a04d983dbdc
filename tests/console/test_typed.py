import signal
import sys
import threading
from pathlib import Path

import pytest

from sft.console import LineReader, on_interrupt, quiet_keyboard, read_standard_input
from sft.errors import DataError


@pytest.fixture
def pipe_in(tmp_path, monkeypatch):
    """pipe_in(b"text") makes these bytes the standard input, as from a file or a pipe."""

    def give(raw: bytes) -> None:
        path = tmp_path / "input"
        path.write_bytes(raw)
        monkeypatch.setattr(sys, "stdin", path.open(encoding="utf-8"))

    return give


def test_lines_of_a_pipe_come_without_their_ends_and_without_a_prompt(pipe_in, capsys):
    pipe_in("hello\r\n\n你好".encode())
    reader = LineReader("you> ")
    assert [reader.read() for _ in range(4)] == ["hello", "", "你好", None]
    assert capsys.readouterr() == ("", "")


def test_a_stray_byte_does_not_end_a_chat(pipe_in):
    pipe_in(b"caf\xe9\nexit\n")
    reader = LineReader("you> ")
    assert [reader.read(), reader.read()] == ["caf\ufffd", "exit"]


def test_a_closed_standard_input_is_its_end(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert LineReader("you> ").read() is None
    assert read_standard_input() is None


def test_a_text_is_read_whole_without_byte_order_mark_and_outer_blanks(pipe_in):
    pipe_in("\ufeff第一行\n\nline 3\n".encode())
    assert read_standard_input() == "第一行\n\nline 3"


def test_the_null_device_is_no_input_at_all(monkeypatch):
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert read_standard_input() is None


def test_an_empty_pipe_is_an_error_and_not_an_example(pipe_in):
    pipe_in(b" \n")
    with pytest.raises(DataError, match=r"^standard input is empty; pipe a text into it, or give --text$"):
        read_standard_input()


def test_other_encodings_are_named_with_the_position(pipe_in):
    pipe_in("ab你好".encode("gb18030"))
    with pytest.raises(DataError, match=r"^standard input: byte 3 is not UTF-8; convert it first, e.g. iconv"):
        read_standard_input()


def test_the_first_ctrl_c_calls_the_action_and_the_second_raises():
    calls: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(lambda: calls.append("stop")) as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert (calls, interrupted.is_set()) == (["stop"], True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert calls == ["stop"]
    assert signal.getsignal(signal.SIGINT) == before


def test_without_ctrl_c_nothing_is_called_and_the_signal_is_as_before():
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(lambda: pytest.fail("called")) as interrupted:
        pass
    assert (interrupted.is_set(), signal.getsignal(signal.SIGINT)) == (False, before)


def test_other_threads_have_no_signals_to_handle():
    seen = []

    def work() -> None:
        with on_interrupt(lambda: None) as interrupted:
            seen.append(interrupted.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_without_a_terminal_the_keyboard_is_left_alone(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with quiet_keyboard():
        pass
