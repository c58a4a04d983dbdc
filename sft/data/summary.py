"""What a build says at its end: a table of what was asked, read, kept and dropped, and why.

source     asked   read  kept  dropped  bad  left out
---------  -----  -----  ----  -------  ---  -----------------------------------------
reviews      695  35124   695    34429    0  17,035 too_long, 16,429 over_quota
all          695  35124   695    34429    0  train 500, validation 45, test 150 written
"""

from collections import Counter
from collections.abc import Mapping

from sft.console import table
from sft.data.folder import Manifest, SourceEntry

HEADER = ("source", "asked", "read", "kept", "dropped", "bad", "left out")


def summary_table(manifest: Manifest) -> str:
    """One line a source and one for all. `bad`: rows that could not be used and are in the ledger as quarantined."""
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
