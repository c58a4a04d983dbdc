"""Folders that one process at a time works in.

with held(Path("outputs/demo/.evaluation.lock"), RunError("outputs/demo: another evaluation is at work")):
    ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sft.errors import RunError, UserError


@contextmanager
def held(path: Path, refusal: UserError, *, timeout_s: float = 0) -> Iterator[None]:
    """Hold the lock file inside this context; the system lets go of it however the process ends.

    Raises `refusal` where another process holds it for longer than timeout_s, RunError where it cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        raise refusal from None
    except OSError as error:
        raise RunError(f"{path.parent}: cannot be written to ({error.strerror}); free it, or copy it") from None
    try:
        yield
    finally:
        lock.release()
