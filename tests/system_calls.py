"""A piece of work in a process of its own that is gone at a chosen system call: SIGKILL before the n-th that writes.

run_traced(save)               # Traced(code=0, num_calls=118): it ended by itself
run_traced(save, fatal=40)     # Traced(code=-9, num_calls=40): 39 were made, the 40th was not
Linux on x86-64 or arm64, by ptrace; the kernel stops the process, nothing in it knows.
"""

import ctypes
import os
import platform
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass

# linux/ptrace.h
TRACE_ME, RESUME_TO_CALL, SET_OPTIONS, GET_CALL = 0, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x8 | 0x100000  # calls are marked, new threads are traced, the child dies with its tracer
AT_CALL, AT_ENTRY = signal.SIGTRAP | 0x80, 1
ALL_CHILDREN = 0x40000000  # __WALL: threads, too
CREATES = os.O_CREAT

# Those that change files: {name: number}; of openat only what may create one counts.
CALLS = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "sendfile": 40, "copy_file_range": 326,
        "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "fallocate": 285, "rename": 82, "renameat": 264,
        "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87, "unlinkat": 263, "chmod": 90,
        "fchmod": 91, "openat": 257,
    },
    "aarch64": {
        "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "sendfile": 71, "copy_file_range": 285,
        "fsync": 82, "fdatasync": 83, "truncate": 45, "ftruncate": 46, "fallocate": 47, "renameat": 38,
        "renameat2": 276, "mkdirat": 34, "unlinkat": 35, "fchmod": 52, "openat": 56,
    },
}  # fmt: skip


class CallInfo(ctypes.Structure):
    """struct ptrace_syscall_info, as it is at the entry of a call."""

    _fields_ = (
        ("kind", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("architecture", ctypes.c_uint32),
        ("pointers", ctypes.c_uint64 * 2),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("more", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Traced:
    """How the work ended: its exit code, or minus the signal; and how many calls that change files it came to."""

    code: int
    num_calls: int


def run_child(work: Callable[[], object], *, traced: bool = False) -> int:
    """Fork and work; the child's process id. It exits with 0, or with 1 and a traceback on stderr."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if traced:
                _ptrace(TRACE_ME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)  # until the tracer is ready
            work()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    return pid


def run_traced(work: Callable[[], object], *, fatal: int | None = None) -> Traced:
    """Run work in a child; where it comes to its call number `fatal`, kill it before the call is made."""
    numbers = CALLS[platform.machine()]
    changing, opening = set(numbers.values()), numbers["openat"]
    pid, count = run_child(work, traced=True), 0
    os.waitpid(pid, ALL_CHILDREN)
    _ptrace(SET_OPTIONS, pid, data=OPTIONS)
    _ptrace(RESUME_TO_CALL, pid)
    while True:
        thread, status = os.waitpid(-1, ALL_CHILDREN)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == pid:
                return Traced(os.waitstatus_to_exitcode(status), count)
            continue
        stopped_by, passed_on = os.WSTOPSIG(status), 0
        if stopped_by == AT_CALL:
            call = CallInfo()
            _ptrace(GET_CALL, thread, ctypes.sizeof(call), ctypes.addressof(call))
            is_open = call.number == opening
            if call.kind == AT_ENTRY and call.number in changing and not (is_open and not call.arguments[2] & CREATES):
                count += 1
                if count == fatal:
                    os.kill(pid, signal.SIGKILL)
                    continue
        elif stopped_by not in (signal.SIGTRAP, signal.SIGSTOP):  # neither a new thread's first stop nor its parent's
            passed_on = stopped_by
        _ptrace(RESUME_TO_CALL, thread, data=passed_on)


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, pid, address, data) < 0 and ctypes.get_errno() != 3:  # ESRCH: killed meanwhile
        raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")
