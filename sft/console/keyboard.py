"""The keyboard while a model answers: Ctrl-C is a request, not an exception in the middle of something."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[threading.Event]:
    """Inside this context the first Ctrl-C calls `action` and sets the event that is given; the second raises.

    with on_interrupt(pieces.stop) as interrupted: ...

    Outside the main thread, where Python handles no signals, nothing is changed.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        action()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Keys that are pressed inside this context are kept for later and not shown: they would tear an answer apart."""
    try:
        import termios  # not on Windows

        if sys.stdin is None or not sys.stdin.isatty():
            raise OSError
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (ImportError, OSError):
        yield
        return
    silent = list(before)
    silent[3] = before[3] & ~termios.ECHO  # [3]: local modes
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
