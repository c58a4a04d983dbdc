"""Reading every source to its end: each becomes a spool, or is found spooled by a build that was interrupted.

Reads the sources of a preset in chunks and writes their spools, ledgers and signatures below the build's staging
folder. Chunks are digested in this process or in several (--num_proc), and collected in order all the same: the number
of processes changes the speed, never a byte.
"""

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
from pathlib import Path
from types import TracebackType

from sft.console import Progress, progress, say
from sft.data.building.digest import SHOWN_BAD_ROWS, Digest, Digester, Rules
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.building.spool import Spool, SpoolWriter, load_spool, make_key
from sft.data.files.reader import BadRow
from sft.data.ledger import Tally
from sft.data.likeness import EvaluationTexts
from sft.data.rows.recognised import Recognised, check_columns, check_numbers
from sft.data.sources import Source
from sft.data.sources.base import Chunk
from sft.errors import DataError, UserError
from sft.files import sha256_of

AHEAD = 2  # chunks that wait for each process, so that none idles; with the ones in work this bounds the memory


class Workers:
    """`num_proc` processes that digest; 1 works in this one. A context manager."""

    def __init__(self, rules: dict[str, Rules], num_proc: int) -> None:
        self._rules = rules
        self._num_proc = num_proc
        self._pool: ProcessPoolExecutor | None = None

    def digest(self, source: str, chunks: Iterator[Chunk]) -> Iterator[Digest]:
        """The digest of every chunk in order; a reading error comes after the digests of the chunks before it."""
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


class Collection:
    """The sources of one build, read one after the other."""

    def __init__(
        self, folder: Path, preset: Preset, options: BuildOptions, evaluation: EvaluationTexts | None, num_proc: int
    ) -> None:
        self._folder = folder
        self._preset = preset
        self._options = options
        self._num_proc = num_proc
        self._num_quarantined = 0
        self._bad_rows: list[BadRow] = []  # the first few of all sources, for a message
        self._rules = {
            name: make_rules(name, source, preset, options, evaluation) for name, source in preset.sources.items()
        }

    def read_all(self) -> list[Spool]:
        """Every source's spool, in the order of the preset. Raises DataError as build_dataset says."""
        with Workers(self._rules, self._num_proc) as workers:
            return [self._collect(name, source, workers) for name, source in self._preset.sources.items()]

    def _collect(self, name: str, source: Source, workers: Workers) -> Spool:
        folder = self._folder / make_key(_decisive_facts(source, self._rules[name]))
        spool = load_spool(folder)
        if spool is not None and spool.is_of(source.origin()):
            say(f"{name}: {spool.tally.read:,} rows were read before the interruption, and are used")
            self._check_bad_rows(source, spool.tally.quarantined.total(), spool.bad_rows)
        else:
            spool = self._read(name, source, workers, folder)
        if not source.is_packaged:
            self._num_quarantined += spool.tally.quarantined.total()
            self._bad_rows = (self._bad_rows + spool.bad_rows)[:SHOWN_BAD_ROWS]
        return spool

    def _read(self, name: str, source: Source, workers: Workers, folder: Path) -> Spool:
        recognised: dict[str, Recognised] = {}
        bar: Progress[None]
        with SpoolWriter(folder) as spool, progress(description=f"read {name}", unit="row") as bar:
            for digest in workers.digest(name, iter(source.chunks())):
                spool.append(digest)
                _merge_recognised(recognised, digest)
                bar.note(self._describe_share(name, spool.tally))
                bar.update(digest.tally.read)
                self._check_bad_rows(source, spool.tally.quarantined.total(), spool.bad_rows)
                if digest.failed is not None:
                    raise digest.failed.to_error()
            finished = spool.finish(source.origin())
        for shown_as, found in recognised.items():
            say(found.describe(shown_as))
            check_numbers(shown_as, found)
            check_columns(shown_as, getattr(source, "columns", {}), found)
        return finished

    def _describe_share(self, name: str, tally: Tally) -> str:
        """The share of the quota that the rows read so far could fill: `124 usable, 18% of 695 asked`."""
        asked = sum(plan.rows.get(name, 0) for plan in self._preset.plans())
        usable = tally.read - tally.dropped.total() - tally.quarantined.total()
        return f"{usable:,} usable" + (f", {min(1, usable / asked):.0%} of {asked:,} asked" if asked else "")

    def _check_bad_rows(self, source: Source, more: int, bad_rows: list[BadRow]) -> None:
        limit = self._options.max_bad_rows
        if limit is None or source.is_packaged or self._num_quarantined + more <= limit:
            return
        shown = (self._bad_rows + bad_rows)[:SHOWN_BAD_ROWS]
        first = "; ".join(f"{bad.file}:{bad.line}: {bad.message}" for bad in shown)
        raise DataError(f"more than {limit} bad rows (--max_bad_rows); the first: {first}")


def make_rules(
    name: str, source: Source, preset: Preset, options: BuildOptions, evaluation: EvaluationTexts | None
) -> Rules:
    """The processing of one source's rows in a build."""
    return Rules(
        source=name,
        filters=source.filters,
        strata=source.strata,
        stratum_numbers={stratum: number for number, (stratum, _) in enumerate(source.cell_shares())},
        on_bad_row=source.on_bad_row or options.on_bad_row,
        seed=options.seed,
        evaluation=evaluation,
        signed=preset.near_duplicates is not None,
    )


def _decisive_facts(source: Source, rules: Rules) -> dict[str, object]:
    """Everything that decides the content of a source's spool, apart from the source's data."""
    own = source.model_dump(mode="json", exclude={"share", "max_rows_per_text"})
    return {
        "source": own,
        "name": rules.source,
        "strata": list(rules.stratum_numbers),
        "on_bad_row": rules.on_bad_row,
        "seed": rules.seed,
        "keyword_files": {name: sha256_of(path) for name, path in source.keyword_files().items()},
        "evaluation": rules.evaluation.files if rules.evaluation else {},
        "signed": rules.signed,
    }


def _merge_recognised(recognised: dict[str, Recognised], digest: Digest) -> None:
    for shown_as, found in digest.recognised.items():
        recognised.setdefault(shown_as, Recognised()).add(found)


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
