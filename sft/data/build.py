"""Build a dataset folder from a preset: read, filter, choose by exact quotas, split, write, account for every row.

manifest = build_dataset(load_preset("demo"), Path("data/mixed"), BuildOptions(seed=42))
manifest["sources"]["reviews"]["kept"]          # 695
"""

import random
from pathlib import Path

import numpy as np
import orjson

from sft.console import Progress, progress, say
from sft.data.candidates import CandidateStore
from sft.data.folder import Manifest, publish_folder, stage_folder
from sft.data.ledger import Ledger
from sft.data.manifest import BuildOptions, make_manifest
from sft.data.mixing import Mixture, mix
from sft.data.preset import Preset
from sft.data.quotas import SPLITS, Cell
from sft.data.rows import BadRow
from sft.data.selection import NOT_CHOSEN, find_conflicts, find_duplicates, find_surplus
from sft.data.sources import Source
from sft.errors import DataError

PROGRESS_ROWS = 1000  # rows between two updates of the bar


def build_dataset(preset: Preset, target: Path, options: BuildOptions) -> Manifest:
    """Build `target` and return its manifest; an old dataset there is replaced only when the new one is whole.

    Raises DataError for unusable rows (by `on_bad_row`), too many of them, missing files and short sources.
    """
    cells = preset.cells()
    with stage_folder(target) as staging:
        with (
            Ledger(staging / "ledger.jsonl") as ledger,
            CandidateStore(staging / "candidates.jsonl", options.seed) as store,
        ):
            for name, source in preset.sources.items():
                _collect(name, source, cells, store, ledger, options)
            mixture = _choose(preset, cells, store, ledger, options)
            for split in SPLITS:
                _write_split(staging / f"{split}.jsonl", store, mixture.copies[split])
        for name, tally in ledger.tallies.items():
            tally.check_balance(name)
        manifest = make_manifest(preset, cells, ledger, mixture, staging, options)
        publish_folder(staging, target, manifest)
    for shortage in mixture.shortages:
        say(f"warning: {shortage.describe()} (--on_shortage {options.on_shortage})")
    return manifest


def _collect(
    name: str, source: Source, cells: list[Cell], store: CandidateStore, ledger: Ledger, options: BuildOptions
) -> None:
    """Read one source to its end: every row becomes a candidate or a line in the ledger."""
    numbers = {cell.stratum: number for number, cell in enumerate(cells) if cell.source == name}
    on_bad_row = source.on_bad_row or options.on_bad_row
    tally = ledger.open_source(name)
    bar: Progress[None]
    with progress(description=f"read {name}", unit="row") as bar:
        for found in source.read():
            tally.read += 1
            if tally.read % PROGRESS_ROWS == 0:
                bar.update(PROGRESS_ROWS)
            if isinstance(found, BadRow):
                if on_bad_row == "error":
                    raise found.to_error()
                ledger.quarantine(name, found)
                _check_bad_rows(ledger, options)
                continue
            row = found.row
            reason = source.filters.find_reason(row)
            cell = numbers.get(source.strata.find_stratum(row) if source.strata else "")
            if reason or cell is None:
                ledger.drop(name, f"{found.file}:{found.line}", reason or "no_quota")
                continue
            row["id"], row["source"] = f"{name}-{tally.read}", name
            store.add(found, cell, tally.read)
        bar.update(tally.read % PROGRESS_ROWS)


def _check_bad_rows(ledger: Ledger, options: BuildOptions) -> None:
    if options.max_bad_rows is None or ledger.num_quarantined <= options.max_bad_rows:
        return
    first = "; ".join(f"{bad.file}:{bad.line}: {bad.message}" for bad in ledger.bad_rows)
    raise DataError(f"more than {options.max_bad_rows} bad rows (--max_bad_rows); the first: {first}")


def _choose(preset: Preset, cells: list[Cell], store: CandidateStore, ledger: Ledger, options: BuildOptions) -> Mixture:
    """Leave out duplicates, conflicts and surplus, fill the quotas, and enter every row not chosen in the ledger."""
    index = store.index()
    alive = np.ones(len(index), dtype=bool)
    names = list(preset.sources)
    source = np.array([names.index(cell.source) for cell in cells], dtype=np.int32)[index.cell]  # (N,)
    limits = np.array([spec.max_rows_per_text or 0 for spec in preset.sources.values()], dtype=np.int32)[source]

    equals = find_duplicates(index.exact)
    alive &= equals < 0
    conflicts = find_conflicts(index, alive)
    alive &= ~conflicts
    surplus = find_surplus(index, alive, source, limits)
    alive &= ~surplus
    mixture = mix(index, alive, cells, preset.plans(), options.on_shortage, random.Random(options.seed))

    for number in np.flatnonzero(mixture.split_of == NOT_CHOSEN).tolist():
        detail = ""
        if equals[number] >= 0:
            first = int(equals[number])
            reason, detail = "duplicate", f"same as {names[source[first]]}-{store.ordinal(first)}"
        elif conflicts[number]:
            reason = "conflicting_label"
        else:
            reason = "same_text" if surplus[number] else "over_quota"
        ledger.drop(names[source[number]], store.where(number), reason, detail)
    for position, name in enumerate(names):
        ledger.tallies[name].kept = int(np.count_nonzero((mixture.split_of != NOT_CHOSEN) & (source == position)))
    return mixture


def _write_split(path: Path, store: CandidateStore, copies: list[tuple[int, int]]) -> None:
    """Write rows in the order given; a repeat gets an id of its own: own-3 -> own-3#2."""
    lines = store.read_bytes([number for number, _ in copies])
    with path.open("wb") as file:
        for line, (_, copy) in zip(lines, copies, strict=True):
            if copy > 1:
                row = orjson.loads(line)
                line = orjson.dumps(row | {"id": f"{row['id']}#{copy}"}) + b"\n"
            file.write(line)
