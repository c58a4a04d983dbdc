"""The manifest of a dataset: rows asked, read, kept and dropped of every source, and the hash of every file.

It holds nothing that differs between two builds of the same preset, sources and options: no date, no path of a machine.
A build ends with a summary of it:

    source     asked   read  kept  dropped  bad  left out
    ---------  -----  -----  ----  -------  ---  -----------------------------------------
    reviews      695  35124   695    34429    0  17,035 too_long, 16,429 over_quota
    all          695  35124   695    34429    0  train 500, validation 45, test 150 written
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.console import table
from sft.data.building.mixing import Mixture, OnShortage
from sft.data.building.preset import Preset
from sft.data.files.reader import OnBadRow
from sft.data.folder import FORMAT, Manifest, SourceEntry
from sft.data.ledger import Ledger
from sft.data.quotas import SPLITS, Cell
from sft.data.sources import Origin
from sft.files import sha256_of

HEADER = ("source", "asked", "read", "kept", "dropped", "bad", "left out")


@dataclass(frozen=True)
class BuildOptions:
    """The user's settings of a build besides the preset; each can change the bytes that are written."""

    seed: int = 42
    on_bad_row: OnBadRow = "error"
    max_bad_rows: int | None = None
    on_shortage: OnShortage = "error"
    decontaminate: tuple[str, ...] = ()  # evaluation files, beside the preset's own


def make_manifest(
    preset: Preset,
    origins: dict[str, Origin],
    cells: list[Cell],
    ledger: Ledger,
    mixture: Mixture,
    staged: Path,
    options: BuildOptions,
) -> Manifest:
    """The manifest of the folder `staged`; the caller writes it last."""
    return {
        "format": FORMAT,
        "description": preset.description,
        "seed": options.seed,
        "settings": {name: value for name, value in asdict(options).items() if name != "seed" and value != ()},
        "preset": preset.model_dump(mode="json", exclude_defaults=True),
        "splits": {name: len(mixture.copies[name]) for name in SPLITS},
        "sources": {
            name: _describe_source(name, origins[name], preset, cells, ledger, mixture) for name in preset.sources
        },
        "files": {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in sorted(staged.iterdir())
        },
    }


def _describe_source(
    name: str, origin: Origin, preset: Preset, cells: list[Cell], ledger: Ledger, mixture: Mixture
) -> SourceEntry:
    tally = ledger.tallies[name]
    numbers = [number for number, cell in enumerate(cells) if cell.source == name]
    written = {split: sum(mixture.written[split][number] for number in numbers) for split in SPLITS}
    return {
        "kind": preset.sources[name].kind,
        "id": origin.id,
        "revision": origin.revision,
        "files": origin.files,
        "asked": {split: sum(quota[number] for number in numbers) for split, quota in mixture.asked.items()},
        "read": tally.read,
        "kept": tally.kept,
        "dropped": dict(sorted(tally.dropped.items())),
        "quarantined": dict(sorted(tally.quarantined.items())),
        "repeated": sum(written.values()) - tally.kept,
        "written": written,
        "strata": {
            cells[number].stratum: sum(mixture.written[split][number] for split in SPLITS)
            for number in numbers
            if cells[number].stratum
        },
        "examples": dict(sorted(tally.examples.items())),
    }


def summary_table(manifest: Manifest) -> str:
    """One line per source and one for all. `bad`: rows that could not be used and are in the ledger as quarantined."""
    entries = manifest["sources"]
    counts = {name: _count(entry) for name, entry in entries.items()}
    rows = [[name, *counts[name], _list_reasons(entry)] for name, entry in entries.items()]
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest["splits"].items())
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    return table([*rows, ["all", *totals, f"written: {splits}"]], header=HEADER)


def list_counts(counts: Mapping[str, int]) -> str:
    """The largest first: "17,035 too_long, 16 over_quota"; "-" for none."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(counts).most_common() if count) or "-"


def _count(entry: SourceEntry) -> list[int]:
    dropped, bad = sum(entry["dropped"].values()), sum(entry["quarantined"].values())
    return [sum(entry["asked"].values()), entry["read"], entry["kept"], dropped, bad]


def _list_reasons(entry: SourceEntry) -> str:
    repeated = f"; {entry['repeated']:,} repeated" if entry["repeated"] else ""
    return list_counts(Counter(entry["dropped"]) + Counter(entry["quarantined"])) + repeated
