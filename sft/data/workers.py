"""Digesting chunks in this process or in several, in order all the same: --num_proc changes the speed, never a byte."""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from sft.data.chunks import Chunk
from sft.data.digest import Digest, Digester, Rules
from sft.errors import DataError, UserError

AHEAD = 2  # chunks that wait for each process, so that none idles; with the ones in work this bounds the memory


class Workers:
    """`num_proc` processes that digest; 1 works in this one. A context manager."""

    def __init__(self, rules: dict[str, Rules], num_proc: int) -> None:
        self._rules = rules
        self._num_proc = num_proc
        self._pool: ProcessPoolExecutor | None = None

    def digest(self, source: str, chunks: Iterator[Chunk]) -> Iterator[Digest]:
        """The digest of every chunk in order; an error of reading comes after the digests of what was read before."""
        if self._num_proc == 1:
            digester = Digester(self._rules[source])
            return (digester.digest(chunk) for chunk in chunks)
        return self._digest_ahead(source, chunks)

    def _digest_ahead(self, source: str, chunks: Iterator[Chunk]) -> Iterator[Digest]:
        if self._pool is None:
            # spawn: a forked copy of a process with threads (progress bar, downloads) may inherit a held lock
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._num_proc, context, _start_worker, (self._rules,))
        waiting: deque[Future[Digest]] = deque()
        failure: UserError | None = None
        try:
            while True:
                try:
                    for chunk in itertools.islice(chunks, self._num_proc * AHEAD - len(waiting)):
                        waiting.append(self._pool.submit(_digest_chunk, source, chunk))
                except UserError as error:
                    failure, chunks = error, iter(())
                if not waiting:
                    break
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                f"{source}: a worker process died, most likely of too little memory; pass a smaller --num_proc and "
                "--resume"
            ) from None
        if failure is not None:
            raise failure

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


_digester_of: Callable[[str], Digester]  # in a worker process: the digester of a source


def _start_worker(rules: dict[str, Rules]) -> None:
    global _digester_of
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    made: dict[str, Digester] = {}

    def digester_of(source: str) -> Digester:
        if source not in made:
            made[source] = Digester(rules[source])
        return made[source]

    _digester_of = digester_of


def _digest_chunk(source: str, chunk: Chunk) -> Digest:
    return _digester_of(source).digest(chunk)


def _die_with_parent() -> None:
    """A worker waits for work on a pipe that its siblings hold open: without this it outlives a killed parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
