"""Seconds that `--help` takes, for every script: the best of three starts in new processes.

Prints one line per script, then one JSON line.
    python benchmarks/help_time.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUM_STARTS = 3


def time_help(script: Path) -> float:
    """Seconds of the fastest start: other programs can only slow one down."""
    durations_s = []
    for _ in range(NUM_STARTS):
        start = time.perf_counter()
        subprocess.run([sys.executable, script, "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        durations_s.append(time.perf_counter() - start)
    return min(durations_s)


def main() -> None:
    """Time every script in the root folder."""
    seconds = {}
    for script in sorted(ROOT.glob("*.py")):
        seconds[script.name] = round(time_help(script), 3)
        print(f"{script.name:<20} {seconds[script.name]:.3f} s")
    print(json.dumps({"help_s": seconds, "slowest_s": max(seconds.values())}))


if __name__ == "__main__":
    main()
