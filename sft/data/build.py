"""Build a dataset folder from a preset: read, filter, choose by exact quotas, split, write, account for every row.

manifest = build_dataset(load_preset("demo"), Path("data/mixed"), BuildOptions(seed=42))
manifest["sources"]["reviews"]["kept"]          # 695
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from sft.console import say, warn
from sft.data.candidates import CandidateStore
from sft.data.choice import book_rows, choose_rows
from sft.data.collection import Collection
from sft.data.decontamination import EvaluationTexts
from sft.data.folder import LEDGER, Manifest, publish_folder, stage_folder
from sft.data.ledger import Ledger
from sft.data.manifest import BuildOptions, make_manifest
from sft.data.overlaps import describe_overlap
from sft.data.preset import Preset
from sft.data.quotas import SPLITS, Cell
from sft.data.shuffled_writing import write_rows
from sft.data.spool import Spool


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
