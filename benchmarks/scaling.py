"""Several GPUs against one: seconds per step and tokens/s of train.py under torchrun, on random weights.

Each process gets the same number of rows, and the second half of each run is timed. With --same_rows the rows of a step
are divided among the processes instead, and the losses of all runs have to agree. Prints one JSON line last; exit code
1 if they do not.
    python -m benchmarks.scaling --size 7b --processes 1,2
    python -m benchmarks.scaling --size 0.5b --processes 1,2 --same_rows --steps 20
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.memory import make_rows
from benchmarks.random_models import make_apart

ROOT = Path(__file__).resolve().parent.parent
LOSS_TOLERANCE = 1e-2


def main() -> int:
    """Train with each number of processes; 0 if all succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7b", help="0.5b, 1.5b or 7b")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--same_rows", action="store_true", help="8 rows per step in all, not per process")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("/tmp/scaling"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = make_apart(options.size, options.work / options.size)
    rows = make_rows(options.work / "rows.jsonl", 2048, count=1100)
    found: dict[int, dict[str, float]] = {}
    losses: dict[int, list[float]] = {}
    for number in map(int, options.processes.split(",")):
        run = options.work / f"run-{number}"
        flags = ["--model", model, "--method", options.method, "--data", rows, "--output_dir", run]
        flags += [
            "--per_device_train_batch_size",
            8 // number if options.same_rows else 8,
            "--gradient_accumulation_steps",
            1,
            "--neftune_noise_alpha",
            0,
        ]
        flags += ["--max_steps", options.steps, "--eval_steps", options.steps, "--system_prompt", "None"]
        flags += ["--cuda_graphs", "--lr_scheduler_type", "constant"]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={number}", "train.py"]
        command = [sys.executable, *launcher, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if done.returncode:
            sys.exit(f"{number} processes ended with {done.returncode}")
        found[number] = read_speed(run, number)
        losses[number] = read_losses(run)
        print(f"{number}: {json.dumps(found[number])}", file=sys.stderr)
    first = min(found)
    ratios = {
        f"{number} / {first}": found[number]["tokens_per_second"] / found[first]["tokens_per_second"]
        for number in found
    }
    pairs = [zip(losses[first], losses[number], strict=True) for number in found]
    difference = max(abs(one - other) for pair in pairs for one, other in pair)
    result = {"size": options.size, "method": options.method, "found": found, "tokens_per_second": ratios}
    print(json.dumps(result | ({"largest_loss_difference": round(difference, 5)} if options.same_rows else {})))
    return int(options.same_rows and difference > LOSS_TOLERANCE)


def read_losses(run: Path) -> list[float]:
    """Of every step."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def read_speed(run: Path, number: int) -> dict[str, float]:
    """Tokens/s of all processes, which have about equally many tokens, and seconds per step."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    half = steps[len(steps) // 2 :]
    seconds = [line["num_tokens"] / line["tokens_per_second"] for line in half]
    return {
        "tokens_per_second": round(number * sum(line["num_tokens"] for line in half) / sum(seconds), 1),
        "step_s": round(statistics.median(seconds), 4),
        "last_loss": steps[-1]["loss"],
        "eval_loss": next(line["eval_loss"] for line in reversed(lines) if "eval_loss" in line),
    }


if __name__ == "__main__":
    sys.exit(main())
