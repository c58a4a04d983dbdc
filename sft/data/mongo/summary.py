"""What an extraction says at its end."""

from collections import Counter

from sft.data.mongo.extract import ExtractManifest


def summary_rows(manifest: ExtractManifest) -> list[list[object]]:
    """One row a label: label, asked, read, kept, written, and why the others were left out.

    ["暴恐", 6000, 6105, 6000, 6000, "104 over_quota, 1 empty_text"]
    """
    rows: list[list[object]] = []
    for label, entry in manifest["labels"].items():
        left_out = Counter(entry["dropped"]) + Counter(entry["quarantined"])
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()) or "-"
        counts = (sum(entry["asked"].values()), entry["read"], entry["kept"], sum(entry["written"].values()))
        rows.append([label, *counts, reasons])
    return rows
