"""A build's yield foreseen from a sample of every source: `build_dataset.py --dry_run 1000` writes nothing.

previews = preview_sources(load_preset("demo"), BuildOptions(), 1000)
previews["reviews"].usable, previews["reviews"].rows_needed        # 19, 61053

The sample of a local source is drawn from its first 100,000 rows, because files are often sorted; of a remote one it is
the first 1,000. A duplicate shows only where its twin was sampled too: the yield is the most that can be hoped for.
"""

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, replace

from sft.console import progress, table
from sft.data.building.collection import make_rules
from sft.data.building.digest import Digester
from sft.data.building.manifest import BuildOptions, list_counts
from sft.data.building.preset import Preset
from sft.data.files.reader import BadRow, draw_sample
from sft.data.likeness import EvaluationTexts
from sft.data.rows.canonical import Json
from sft.data.sources import Source
from sft.data.sources.base import batch_rows

HEADER = ("source", "asked", "rows", "sampled", "usable", "yield", "to be read", "left out")
LOCAL_FACTOR = 100  # rows read of a local source for each one sampled: reading is cheap there


@dataclass(frozen=True)
class SourcePreview:
    """Counts of a source's sample: sampled = usable + the sum of left_out, by reason."""

    asked: int
    rows: int  # read of the source
    at_end: bool  # whether those are all there are
    sampled: int
    usable: int
    left_out: dict[str, int]
    bad_rows: list[BadRow]  # the first few

    @property
    def rows_needed(self) -> int | None:
        """Rows to read until the quota is full, at this yield; None if nothing of the sample could be used."""
        return math.ceil(self.asked * self.sampled / self.usable) if self.usable else None

    def describe_need(self) -> str:
        """`1,234`, or what is too few: `about 124 there`."""
        if self.at_end and (self.rows_needed or math.inf) > self.rows and self.asked:
            expected = self.usable * self.rows // self.sampled if self.sampled else 0
            return f"{'about' if self.sampled < self.rows else 'only'} {expected:,} there"
        return "-" if self.rows_needed is None else f"{self.rows_needed:,}"

    def to_json(self) -> dict[str, Json]:
        """The numbers as --json prints them."""
        return {
            "asked": self.asked, "rows": self.rows, "at_end": self.at_end, "sampled": self.sampled,
            "usable": self.usable, "rows_needed": self.rows_needed, "left_out": dict(self.left_out),
            "bad_rows": [f"{bad.file}:{bad.line}: {bad.message}" for bad in self.bad_rows],
        }  # fmt: skip


def preview_sources(preset: Preset, options: BuildOptions, num_rows: int) -> dict[str, SourcePreview]:
    """Filter a sample of `num_rows` rows of every source as a build would; bad rows are counted, never an error.

    Raises DataError for missing files.
    """
    files = [*preset.decontaminate, *options.decontaminate]
    evaluation = EvaluationTexts.read(dict.fromkeys(files)) if files else None
    asked: Counter[str] = Counter()
    for plan in preset.plans():
        asked.update(plan.rows)
    previews = {}
    for name, source in preset.sources.items():
        rules = make_rules(name, source, preset, options, evaluation)
        digester = Digester(replace(rules, on_bad_row="quarantine", signed=False))
        previews[name] = _preview(name, source, digester, num_rows, asked[name], random.Random(options.seed))
    return previews


def _preview(
    name: str, source: Source, digester: Digester, num_rows: int, asked: int, rng: random.Random
) -> SourcePreview:
    most = num_rows if source.is_remote else num_rows * LOCAL_FACTOR
    rows = source.read()
    found = progress(itertools.islice(rows, most), description=f"read {name}", unit="row")
    sample, count = draw_sample(found, num_rows, rng)
    at_end = count < most or next(rows, None) is None
    del rows, found  # lets go of files and connections
    left_out: Counter[str] = Counter()
    seen: set[int] = set()
    bad_rows: list[BadRow] = []
    for chunk in batch_rows(sample):
        digest = digester.digest(chunk)
        exact = digest.columns["exact"]
        left_out += digest.tally.dropped + digest.tally.quarantined
        left_out["duplicate"] += len(exact) - len(set(exact) - seen)
        seen.update(exact)
        bad_rows += digest.bad_rows
    return SourcePreview(asked, count, at_end, len(sample), len(seen), dict(+left_out), bad_rows[:3])


def preview_table(previews: dict[str, SourcePreview]) -> str:
    """One line per source; `to be read` says how many rows fill the quota at this yield, or that there are too few."""
    lines: list[list[object]] = []
    for name, found in previews.items():
        share = f"{found.usable / found.sampled:.1%}" if found.sampled else "-"
        rows = f"{found.rows:,}" + ("" if found.at_end else " or more")
        counts = [found.sampled, found.usable, share, found.describe_need()]
        lines.append([name, found.asked, rows, *counts, list_counts(found.left_out)])
    return table(lines, header=HEADER)
