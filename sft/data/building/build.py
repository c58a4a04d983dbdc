"""Build a dataset folder from a preset: read, filter, choose by exact quotas, split, write, account for every row.

    manifest = build_dataset(load_preset("demo"), Path("data/mixed"), BuildOptions(seed=42))
    manifest["sources"]["reviews"]["kept"]          # 695

Rows are written in a random order without being read in one: a read in random order costs a seek or a page fault per
row wherever the spool is larger than the page cache (2 ms, or 500 rows per second). So the spool is read once from
front to back, rows are dealt to as many files as one split has parts of 64 MB, and each part is put in order in memory.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sft.console import say, warn
from sft.data.building.candidates import CandidateStore
from sft.data.building.choice import book_rows, choose_rows
from sft.data.building.collection import Collection
from sft.data.building.manifest import BuildOptions, make_manifest
from sft.data.building.mixing import Copies
from sft.data.building.preset import Preset
from sft.data.building.splits_apart import describe_overlap
from sft.data.building.spool import Spool
from sft.data.folder import LEDGER, Manifest, publish_folder, stage_folder
from sft.data.ledger import Ledger
from sft.data.likeness.decontamination import EvaluationTexts
from sft.data.quotas import SPLITS, Cell

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
        source.check()  # a missing file is told before hours of reading the others
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
