"""Do both backends train the same? train.py with unsloth and with transformers on the same rows, loss by loss.

Needs an NVIDIA GPU. Makes a random model with Qwen2.5-0.5B's geometry and rows of random words under --work, trains it
in 4 bits with each backend, then opens each run with evaluate.py and chat.py. Prints one JSON line last.
    python -m benchmarks.backends --work /tmp/backends --steps 20
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.random_models import make_random_model

ROOT = Path(__file__).resolve().parent.parent
LOSS_TOLERANCE = 2e-2


def main() -> None:
    """Train twice, compare, open both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/backends"))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    model, rows = options.work / "model", options.work / "rows.jsonl"
    options.work.mkdir(parents=True, exist_ok=True)
    make_random_model("0.5b", model)
    make_rows(rows)

    losses: dict[str, list[float]] = {}
    rates, opened, runs = {}, {}, {}
    for backend in ("transformers", "unsloth"):
        run = runs[backend] = options.work / f"run-{backend}-{int(time.time())}"
        flags = ["--backend", backend, "--model", model, "--data", rows, "--output_dir", run]
        flags += ["--method", "qlora", "--max_steps", options.steps, "--neftune_noise_alpha", 0, "--eval_steps", 10]
        started = time.monotonic()
        run_script("train.py", flags)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses[backend] = [line["loss"] for line in log if "loss" in line]
        rates[backend] = {
            "tokens_per_second": json.loads((run / "run.json").read_text())["metrics"]["tokens_per_second"],
            "eval_loss": [line["eval_loss"] for line in log if "eval_loss" in line],
            "grad_norms": [round(line["grad_norm"], 4) for line in log if "grad_norm" in line],
            "whole_command_s": round(time.monotonic() - started, 1),
        }
    for backend, run in runs.items():
        evaluation = ["--run", run, "--num_samples", 8, "--max_new_tokens", 16]
        opened[backend] = {
            "evaluate_s": run_script("evaluate.py", evaluation),
            "chat_s": run_script("chat.py", ["--run", run, "--max_new_tokens", 8], stdin="hello\nexit\n"),
        }
    pairs = list(zip(losses["transformers"], losses["unsloth"], strict=True))
    difference = max(abs(ours - theirs) for ours, theirs in pairs)
    result = {
        "largest_loss_difference": round(difference, 5),
        "tolerance": LOSS_TOLERANCE,
        "agree": difference <= LOSS_TOLERANCE,
        "losses": losses,
        "rates": rates,
        "opened": opened,
    }
    print(json.dumps(result))
    sys.exit(0 if result["agree"] else 1)


def run_script(script: str, flags: list[object], stdin: str = "") -> float:
    """Run one of the project's scripts as a user does and return its seconds; a failure ends the benchmark."""
    started = time.monotonic()
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    done = subprocess.run(command, input=stdin, text=True, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"{script} ended with {done.returncode}")
    return round(time.monotonic() - started, 1)


def make_rows(path: Path, count: int = 400) -> None:
    """Rows of random words with a long-tailed length, as instruction and output."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(500)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = min(300, int(rng.lognormvariate(4, 0.7)) + 4)
            row = {
                "instruction": " ".join(rng.choices(words, k=length // 2)),
                "input": "",
                "output": " ".join(rng.choices(words, k=length // 4 + 1)),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
