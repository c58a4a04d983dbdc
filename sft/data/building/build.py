"""Build a dataset folder from a preset: read, filter, choose by exact quotas, split, write, account for every row.

    manifest = build_dataset(load_preset("demo"), Path("data/mixed"), BuildOptions(seed=42))
    manifest["sources"]["reviews"]["kept"]          # 695

Rows are written in a random order without being read in one: a read in random order costs a seek or a page fault per
row wherever the spool is larger than the page cache (2 ms, or 500 rows per second). So the spool is read once from
front to back, rows are dealt to as many files as one split has parts of 64 MB, and each part is put in order in memory.

Duplicates are dropped first, then texts that a published split holds out, near duplicates, texts with two labels, and
rows of a text beyond the number wanted. Then quotas are dealt out until no row of one split is near one of another.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sft.console import say, warn
from sft.data.building.candidates import CandidateIndex, CandidateStore
from sft.data.building.collection import Collection
from sft.data.building.manifest import BuildOptions, make_manifest
from sft.data.building.mixing import Copies, Mixture, mix
from sft.data.building.preset import Preset
from sft.data.building.selection import (
    DEALING_ORDER,
    NOT_CHOSEN,
    find_conflicts,
    find_duplicates,
    find_held_out,
    find_surplus,
)
from sft.data.building.splits_apart import SplitGuard, describe_overlap, find_overlaps, make_is_near
from sft.data.building.spool import Spool
from sft.data.folder import LEDGER, Manifest, Overlap, publish_folder, stage_folder
from sft.data.ledger import EXCERPT_CHARACTERS, Ledger
from sft.data.likeness import EvaluationTexts, SignatureFile, find_near_duplicates
from sft.data.quotas import SPLITS, Cell
from sft.data.rows.canonical import question_of
from sft.errors import DataError

PART_BYTES = 64_000_000
MAX_PARTS = 256  # open files; a split above 16 GB has larger parts


def build_dataset(
    preset: Preset, target: Path, options: BuildOptions, *, num_proc: int = 1, resume: bool = False
) -> Manifest:
    """Build `target` and return its manifest; an old dataset there is replaced only when the new one is whole.

    `num_proc` processes parse and filter; `resume` uses the sources that an interrupted build had read. Neither changes
    a byte. Raises DataError for unusable rows (by `on_bad_row`), too many of them, missing files and short sources.
    """
    for source in preset.sources.values():
        source.check()  # report a missing file before hours of reading the others
    cells = preset.cells()
    files = [*preset.decontaminate, *options.decontaminate]
    evaluation = EvaluationTexts.read(dict.fromkeys(files)) if files else None
    with stage_folder(target, resume=resume) as staging:
        spools = Collection(staging.sources, preset, options, evaluation, num_proc).read_all()
        with (
            Ledger(staging.dataset / LEDGER) as ledger,
            contextlib.closing(_open_store(preset, cells, spools)) as store,
        ):
            for name, spool in zip(preset.sources, spools, strict=True):
                ledger.open_source(name, spool.tally, spool.ledger)
            choice = choose_rows(preset, cells, store, spools, options, staging.dataset, staging.scratch)
            book_rows(choice, list(preset.sources), store, ledger)
            for split in SPLITS:
                path = staging.dataset / f"{split}.jsonl"
                write_rows(path, store, choice.mixture.copies[split], staging.scratch)
        for name, tally in ledger.tallies.items():
            tally.check_balance(name)
        origins = {name: spool.origin for name, spool in zip(preset.sources, spools, strict=True)}
        manifest = make_manifest(preset, origins, cells, ledger, choice.mixture, staging.dataset, options)
        if evaluation is not None:
            manifest["decontaminated"] = evaluation.files
        if described := [task for source in preset.sources.values() for task in source.described_tasks()]:
            manifest["tasks"] = described
        if choice.overlaps:
            manifest["overlaps"] = choice.overlaps
        publish_folder(staging.dataset, target, manifest)
    for shortage in choice.mixture.shortages:
        warn(f"{shortage.describe()} (--on_shortage {options.on_shortage})")
    for overlap in choice.overlaps:
        say(describe_overlap(overlap))
    return manifest


def _open_store(preset: Preset, cells: list[Cell], spools: Sequence[Spool]) -> CandidateStore:
    sources = [cell.source for cell in cells]
    first_cells = [sources.index(name) for name in preset.sources]
    return CandidateStore(spools, list(preset.sources), first_cells)


def write_rows(path: Path, store: CandidateStore, copies: Copies, scratch: Path) -> None:
    """Write these copies, one JSON line each, in their order; `scratch` takes the parts meanwhile."""
    numbers = np.frombuffer(copies.numbers, dtype=np.uint32)  # (M,) by place in the file
    order = np.argsort(numbers, kind="stable")  # (M,) places, as the spool is read
    wanted_parts = -(-store.count_bytes(numbers) // PART_BYTES)
    num_parts = max(1, min(wanted_parts, MAX_PARTS, len(numbers)))
    part_of = np.arange(len(numbers)) * num_parts // max(1, len(numbers))  # (M,) by place
    lines = store.read_lines((copies.numbers[place], copies.copies[place]) for place in order)
    with path.open("wb") as file:
        if num_parts == 1:
            file.writelines(_arrange(list(lines), order))
            return
        parts = [(scratch / f"{path.stem}-{part}").open("w+b") for part in range(num_parts)]
        for line, part in zip(lines, part_of[order], strict=True):
            parts[part].write(line)
        for number, part_file in enumerate(parts):
            part_file.seek(0)
            places = order[part_of[order] == number]
            file.writelines(_arrange(part_file.readlines(), places - places.min()))
            part_file.close()
            (scratch / f"{path.stem}-{number}").unlink()


def _arrange(lines: list[bytes], places: np.ndarray) -> list[bytes]:
    arranged = [b""] * len(lines)
    for line, place in zip(lines, places.tolist(), strict=True):
        arranged[place] = line
    return arranged


# Why a candidate is not chosen, with the ledger's words about the row it repeats, if there is one.
REASONS = {
    "over_quota": "",
    "duplicate": "same as {}",
    "other_split": "asks the same as {}",  # which its publisher put in another split
    "near_duplicate": "near {}",
    "conflicting_label": "",
    "same_text": "",
    "near_other_split": "near {}",  # which is in a split before its own
}
NAMES = list(REASONS)
SPLIT_SALTS = np.array([0, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
ROWS_AT_A_TIME = 65_536


class Choice:
    """State of each candidate: whether it can still be chosen, and why not."""

    mixture: Mixture  # once rows are dealt out
    overlaps: list[Overlap]

    def __init__(self, index: CandidateIndex, source: np.ndarray) -> None:
        self.index = index
        self.source = source  # (N,) position of each row's source
        self.alive = np.ones(len(index), dtype=bool)  # (N,)
        self.reason = np.zeros(len(index), dtype=np.uint8)  # (N,) position in NAMES
        self.twin = np.full(len(index), -1, dtype=np.int32)  # (N,) the row that this one repeats, or -1

    def leave_out(self, reason: str, rows: np.ndarray) -> None:
        """Rows (a mask) that must not be chosen."""
        rows = rows & self.alive
        self.reason[rows] = NAMES.index(reason)
        self.alive &= ~rows

    def leave_out_twins(self, reason: str, twins: np.ndarray) -> None:
        """Rows that repeat another: for each row its number, or -1."""
        rows = (twins >= 0) & self.alive
        self.twin[rows] = twins[rows]
        self.leave_out(reason, rows)


def choose_rows(
    preset: Preset,
    cells: list[Cell],
    store: CandidateStore,
    spools: Sequence[Spool],
    options: BuildOptions,
    dataset: Path,
    scratch: Path,
) -> Choice:
    """Fill the quotas; overlaps.jsonl goes to `dataset`. Raises DataError for short sources."""
    choice = Choice(store.index(), store.source_numbers())
    specs = list(preset.sources.values())
    splits = [SPLITS.index(spec.split) if spec.split else -1 for spec in specs]
    published = np.array(splits, dtype=np.int8)[choice.source]
    with contextlib.ExitStack() as stack:
        guard = None
        if preset.near_across_splits is not None:
            guard = stack.enter_context(SplitGuard(store, scratch / "questions", preset.near_across_splits))
        choice.overlaps = find_overlaps(choice.index.group, published, store, guard, dataset / "overlaps.jsonl")
        if preset.on_overlap == "keep":
            choice.index = _tell_splits_apart(choice.index, published)
        choice.leave_out_twins("duplicate", find_duplicates(choice.index.exact, _seniority(published)))
        choice.leave_out_twins("other_split", find_held_out(choice.index.group, published, choice.alive))
        if preset.near_duplicates is not None:
            # published test rows stay complete; train rows near them are removed when splits are kept apart
            rows = choice.alive & ~np.isin(published, [SPLITS.index("validation"), SPLITS.index("test")])
            twins = _find_near(rows, store, spools, preset.near_duplicates, scratch)
            choice.leave_out_twins("near_duplicate", twins)
        choice.leave_out("conflicting_label", find_conflicts(choice.index, choice.alive))
        limits = np.array([spec.max_rows_per_text or 0 for spec in specs], dtype=np.int32)[choice.source]
        choice.leave_out("same_text", find_surplus(choice.index, choice.alive, choice.source, limits))
        let_be = published >= 0 if preset.on_overlap == "keep" else None
        _deal(choice, preset, cells, options, guard, let_be)
    return choice


def book_rows(choice: Choice, names: Sequence[str], store: CandidateStore, ledger: Ledger) -> None:
    """Enter every row that was not chosen in the ledger, count the others, and give an example of each reason."""
    shown: set[tuple[int, int]] = set()
    for number, source, reason, twin in _not_chosen(choice):
        name = NAMES[reason]
        where, detail = store.where(number), REASONS[name].format(store.id_of(twin)) if twin >= 0 else ""
        ledger.drop(names[source], where, name, detail, store.own_id_of(number))
        if (source, reason) not in shown:
            shown.add((source, reason))
            text = question_of(store.read_row(number))[:EXCERPT_CHARACTERS]
            ledger.tallies[names[source]].examples[name] = {"where": where, "detail": detail, "text": text}
    kept = np.bincount(choice.source[choice.mixture.split_of != NOT_CHOSEN], minlength=len(names))
    for name, count in zip(names, kept.tolist(), strict=True):
        ledger.tallies[name].kept = count


def _deal(
    choice: Choice,
    preset: Preset,
    cells: list[Cell],
    options: BuildOptions,
    guard: SplitGuard | None,
    let_be: np.ndarray | None,
) -> None:
    """Deal rows to splits, take back those near a row of another split, and deal others instead."""
    while True:
        rng = random.Random(options.seed)
        try:
            choice.mixture = mix(choice.index, choice.alive, cells, preset.plans(), options.on_shortage, rng)
        except DataError as error:
            near = int(np.count_nonzero(choice.reason == NAMES.index("near_other_split")))
            if not near:
                raise
            raise DataError(
                f"{error} ({near:,} rows were left out as nearly the same as a row of another split; "
                "near_across_splits in the preset)"
            ) from None
        filled = [name for name in SPLITS if len(choice.mixture.copies[name])]
        if guard is None or len(filled) < 2:
            return
        twins = guard.find_straddlers(choice.mixture.split_of, let_be)
        if not (twins >= 0).any():
            return
        choice.leave_out_twins("near_other_split", twins)


def _find_near(
    rows: np.ndarray, store: CandidateStore, spools: Sequence[Spool], threshold: float, scratch: Path
) -> np.ndarray:
    """Near duplicates among these rows (a mask): for each the earlier one it repeats, or -1. (N,) int64."""
    with SignatureFile(scratch / "signatures") as signatures:
        for spool in spools:
            signatures.append_file(spool.signatures)
        return find_near_duplicates(signatures, rows, threshold, make_is_near(store, threshold))


def _seniority(published: np.ndarray) -> np.ndarray | None:
    """Which of two equal rows stays: a published test split's, then validation's, then train's, then any other."""
    if (published < 0).all():
        return None
    return np.array([*(DEALING_ORDER.index(name) for name in SPLITS), len(SPLITS)], dtype=np.int8)[published]


def _tell_splits_apart(index: CandidateIndex, published: np.ndarray) -> CandidateIndex:
    """Keys that differ between published splits, so that a text may be in each: published data as published."""
    salt = SPLIT_SALTS[published + 1]
    return replace(
        index,
        group=index.group ^ salt,
        side=None if index.side is None else index.side ^ salt,
        exact=index.exact ^ salt,
    )


def _not_chosen(choice: Choice) -> Iterator[tuple[int, int, int, int]]:
    numbers = np.flatnonzero(choice.mixture.split_of == NOT_CHOSEN)
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = numbers[start : start + ROWS_AT_A_TIME]
        columns = (part, choice.source[part], choice.reason[part], choice.twin[part])
        yield from zip(*(column.tolist() for column in columns), strict=True)
