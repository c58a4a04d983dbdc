"""One writer at a time: a folder or file that a process writes is locked, and who comes second is told who holds it.

with held(Path("outputs/demo/.lock"), "outputs/demo: another training is at work", "wait for it"):
    ...

The lock is flock(2) on a file, which the system releases however the process ends; a file left behind by a kill locks
nothing. On a network file system flock is as good as its server: where there is none, a line says so and the work
goes on unlocked.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sft.console.narration import say
from sft.errors import UserError

POLL_S = 0.1
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # are what file systems without locks answer


class BusyError(UserError):
    """What another process writes: `outputs/demo: another training is at work (process 7 on ada, since ...); wait`."""


class NotWritableError(UserError):
    """A folder that nothing can be written to: `outputs: cannot be written to (Permission denied); free it, or ...`"""

    @classmethod
    def of(cls, folder: Path, error: OSError) -> "NotWritableError":
        """What is said where a folder, or a file in it, cannot be made."""
        return cls(f"{folder}: cannot be written to ({error.strerror}); free it, or name another place")


@contextmanager
def held(path: Path, busy: str, advice: str, *, timeout_s: float = 0) -> Iterator[None]:
    """Hold the lock file `path` inside this context; its folder is made where there is none, and it goes at the end.

    busy: what is said to whoever comes second, followed by who holds the lock and by the advice. Raises BusyError where
    another process holds it for longer than timeout_s, NotWritableError where it cannot be made.
    """
    try:
        descriptor = _acquire(path, time.monotonic() + timeout_s)
    except OSError as error:
        raise NotWritableError.of(path.parent, error) from None
    if descriptor is None:
        raise BusyError(f"{busy}{_describe_holder(path)}; {advice}")
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that turned read-only on the way, or a folder that was removed
            path.unlink()  # while it is held: whoever opened it before finds in _acquire that it is gone
        os.close(descriptor)


def lock_of(target: Path) -> Path:
    """The lock file beside what is written: data/mixed -> data/.mixed.lock, out.jsonl -> .out.jsonl.lock."""
    return target.with_name(f".{target.name}.lock")


def _acquire(path: Path, until: float) -> int | None:
    """The descriptor of the lock file, locked and signed; None where another process still holds it at `until`."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if not path.parent.is_dir() and time.monotonic() < until + 1:  # a holder removed its folder just now
                continue
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= until:
                return None
            time.sleep(POLL_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            say(f"WARNING {path.parent}: this file system knows no locks; see to it that nothing else writes there")
        if _is_still_at(path, descriptor):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether a file that was opened still has its name: its holder may have removed it before it let go."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it; on a full disk the lock holds without a name."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _describe_holder(path: Path) -> str:
    """` (process 4711 on ada, since 2026-11-30 21:47:03)`, or nothing where the lock file does not say."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
