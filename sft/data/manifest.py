"""The manifest of a dataset: what was asked, read, kept and dropped of every source, and the hash of every file.

It holds nothing that differs between two builds of the same preset, sources and options: no date, no path of a machine.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from sft.data.folder import FORMAT, Manifest, SourceEntry
from sft.data.ledger import Ledger
from sft.data.mixing import Mixture, OnShortage
from sft.data.places import sha256_of
from sft.data.preset import Preset
from sft.data.quotas import SPLITS, Cell
from sft.data.rows import OnBadRow
from sft.data.sources import Origin


@dataclass(frozen=True)
class BuildOptions:
    """What the user decides about a build beside the preset; each value can change the bytes that are written."""

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
    """The manifest of what lies in `staged`; the caller writes it last."""
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
