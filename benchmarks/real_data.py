"""The embedded model on published data: every method with three seeds, official figures and those without leaks.

ChnSentiCorp (train.parquet and validation.parquet in a folder), ccfbdci (one JSONL file of entities; every tenth text
is held out, by its hash) and the demo's rows (a dataset folder) are written as the sweep reads them, trained as
benchmarks/studies/real_data.yaml says, and reported as a table on stderr: mean and range over the seeds, time and
memory. Stdout has one JSON line per training. Test splits are not read, because settings are chosen on these rows.
    python -m benchmarks.real_data --chnsenticorp data/chnsenticorp --ccfbdci data/ccfbdci.jsonl --demo data/mixed
    python -m benchmarks.real_data --demo data/mixed --workers 3 --seconds 600
"""

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import xxhash
import yaml

from benchmarks.sweep import COMMON, list_trials, run_trials

STUDIES = Path(__file__).parent / "studies" / "real_data.yaml"
SENTIMENTS = ("负面", "正面")
FIGURES = ("accuracy", "accuracy_clean", "macro_f1", "ner_f1", "rougeL", "majority", "bag_of_words", "dictionary")


def main() -> int:
    """Write the rows, train, print the table; 0 if every training succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chnsenticorp", type=Path, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--ccfbdci", type=Path, help="JSONL file of text and entities")
    parser.add_argument("--demo", type=Path, help="folder that build_dataset.py --preset demo made")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--rows", type=int, help="training rows, to try it out")
    parser.add_argument("--max_steps", type=int, help="steps per training, to try it out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, options.chnsenticorp, options.ccfbdci, options.demo)
        trials = []
        for study in yaml.safe_load(STUDIES.read_text(encoding="utf-8")):
            if not (folder / f"{study['data']}.train.jsonl").is_file():
                continue
            for trial in list_trials([study]):
                flags = {**COMMON, **trial["flags"], **study.get("by_method", {}).get(trial["flags"]["method"], {})}
                if options.max_steps:
                    flags["max_steps"] = options.max_steps
                trials.append({**trial, "rows": options.rows, "flags": flags})
        lines = []
        for line in run_trials(trials, folder, options.workers, options.seconds, yardsticks=True):
            print(json.dumps(line, ensure_ascii=False), flush=True)
            lines.append(line)
    print(table_of(line for line in lines if "study" in line and "error" not in line), file=sys.stderr)
    return int(any("error" in line for line in lines))


def write_rows(folder: Path, chnsenticorp: Path | None, ccfbdci: Path | None, demo: Path | None) -> None:
    """<name>.train.jsonl and <name>.test.jsonl of each data set that is there, as it was published."""
    if chnsenticorp:
        import pyarrow.parquet as parquet

        for split, part in (("train", "train"), ("validation", "test")):
            found = parquet.read_table(chnsenticorp / f"{split}.parquet").to_pylist()
            rows = [{"task": "sentiment", "text": row["text"], "label": SENTIMENTS[int(row["label"])]} for row in found]
            write_jsonl(folder / f"chnsenticorp.{part}.jsonl", rows)
    if ccfbdci:
        sides: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        for line in ccfbdci.read_text(encoding="utf-8").splitlines():
            row = {"task": "ner", **json.loads(line)}
            sides["train" if xxhash.xxh64_intdigest(row["text"].encode()) % 10 else "test"].append(row)
        for part, rows in sides.items():
            write_jsonl(folder / f"ccfbdci.{part}.jsonl", rows)
    if demo:
        for part in ("train", "test"):
            (folder / f"demo.{part}.jsonl").write_bytes((demo / f"{part}.jsonl").read_bytes())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one row per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def table_of(lines: Iterable[dict[str, Any]]) -> str:
    """A Markdown table: per study and method, the mean and the range of the figures over the seeds."""
    by_method: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_method[line["study"], line["method"]].append(line)
    table = ["| data, method | seeds | figures | training | memory |", "| --- | ---: | --- | ---: | ---: |"]
    for (study, method), found in by_method.items():
        figures = []
        for name in FIGURES:
            if values := [line[name] for line in found if name in line]:
                figures.append(f"{name} {fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        took, peak = fmean(line["train_s"] for line in found), max(line["peak_gb"] for line in found)
        table.append(f"| {study}, {method} | {len(found)} | {'; '.join(figures)} | {took:.0f} s | {peak:.1f} GB |")
    return "\n".join(table)


if __name__ == "__main__":
    sys.exit(main())
