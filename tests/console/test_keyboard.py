import signal
import threading

import pytest

from sft.console import on_interrupt, quiet_keyboard


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
