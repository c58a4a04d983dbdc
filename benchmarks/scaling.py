"""Several GPUs against one: train.py under torchrun on random weights, with as many rows a process; seconds and tokens.

Steps in the second half of each run count, when every size of micro-batch has come up. Prints one JSON line last.
    python -m benchmarks.scaling --size 7b --processes 1,2
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


def main() -> int:
    """Train with each number of processes; 0 where all ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7b", help="0.5b, 1.5b or 7b")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("/tmp/scaling"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = make_apart(options.size, options.work / options.size)
    rows = make_rows(options.work / "rows.jsonl", 2048, count=1100)
    found: dict[int, dict[str, float]] = {}
    for number in map(int, options.processes.split(",")):
        run = options.work / f"run-{number}"
        flags = ["--model", model, "--method", options.method, "--data", rows, "--output_dir", run]
        flags += ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1, "--neftune_noise_alpha", 0]
        flags += ["--max_steps", options.steps, "--eval_steps", options.steps, "--system_prompt", "None"]
        flags += ["--cuda_graphs", "--lr_scheduler_type", "constant"]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={number}", "train.py"]
        command = [sys.executable, *launcher, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if done.returncode:
            sys.exit(f"{number} processes ended with {done.returncode}")
        found[number] = read_speed(run, number)
        print(f"{number}: {json.dumps(found[number])}", file=sys.stderr)
    first = min(found)
    ratios = {
        f"{number} / {first}": found[number]["tokens_per_second"] / found[first]["tokens_per_second"]
        for number in found
    }
    print(json.dumps({"size": options.size, "method": options.method, "found": found, "tokens_per_second": ratios}))
    return 0


def read_speed(run: Path, number: int) -> dict[str, float]:
    """Tokens/s of all processes, which have about as many tokens each, and seconds a step."""
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
