"""What an extraction says at its end."""

from collections import Counter

from sft.data.mongo.extract import ExtractManifest
from sft.data.summary import list_counts


def summary_rows(manifest: ExtractManifest) -> list[list[object]]:
    """One row a label: label, asked, read, kept, written, and why the others were left out.

    ["暴恐", 6000, 6105, 6000, 6000, "104 over_quota, 1 empty_text"]
    """
    rows: list[list[object]] = []
    for label, entry in manifest["labels"].items():
        reasons = list_counts(Counter(entry["dropped"]) + Counter(entry["quarantined"]))
        counts = (sum(entry["asked"].values()), entry["read"], entry["kept"], sum(entry["written"].values()))
        rows.append([label, *counts, reasons])
    return rows
