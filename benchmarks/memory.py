"""Does a recipe for a card fit the card? train.py with each of recipes/cards under a limit, on random weights.

Needs an NVIDIA GPU; --max_memory_gb makes a larger card behave like a smaller one. Rows have log-normal lengths, up to
the recipe's 2,048 tokens. Also: QLoRA of a 1.5B model, 8 rows of 256 tokens, within 4 GB. Prints one JSON line last;
exit code 1 if a command failed.
    python -m benchmarks.memory
    python -m benchmarks.memory --only 24gb --steps 24 --cuda_graphs       # as runs of 200 steps and more are computed
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.random_models import make_apart

ROOT = Path(__file__).resolve().parent.parent
CASES: dict[str, tuple[str, list[str]]] = {  # size of the model, flags
    "4gb": ("1.5b", ["--method", "qlora", "--max_memory_gb", "4", "--max_seq_length", "256", "--optim", "adamw_8bit"]),
    "16gb": ("7b", ["--config", "recipes/cards/16gb.yaml", "--dtype", "fp16", "--backend", "transformers"]),
    "24gb": ("7b", ["--config", "recipes/cards/24gb.yaml"]),
    "80gb": ("7b", ["--config", "recipes/cards/80gb.yaml", "--max_memory_gb", "78"]),
}


def main() -> int:
    """Train each case a few steps; 0 if all succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="comma-separated names from " + ", ".join(CASES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--cuda_graphs", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/tmp/memory"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.only.split(","):
        size, flags = CASES[name]
        model = make_apart(size, options.work / size)
        longest = 256 if name == "4gb" else 2048
        rows = make_rows(options.work / f"{name}.jsonl", longest)
        run = options.work / f"run-{name}"
        command = [sys.executable, "train.py", *flags, "--model", str(model), "--data", str(rows), "--json"]
        command += ["--output_dir", str(run), "--max_steps", str(options.steps), "--eval_steps", str(options.steps)]
        command += ["--system_prompt", "None", *(["--cuda_graphs"] if options.cuda_graphs else [])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = [
            line for line in done.stderr.splitlines() if line.startswith(("plan: ", "out of memory", "CUDA graphs"))
        ]
        found[name] = {"rc": done.returncode, "said": said}
        if done.returncode:
            found[name]["error"] = done.stderr.splitlines()[-1] if done.stderr else ""
        else:
            figures = json.loads(done.stdout)
            found[name] |= {key: figures[key] for key in ("peak_gb", "tokens_per_second", "eval_loss")}
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    print(json.dumps(found))
    return max(case["rc"] for case in found.values())


def make_rows(path: Path, longest: int, count: int = 160) -> Path:
    """Rows of random letters (a token each) whose lengths are log-normal, the longest ones cut to fit."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = min(longest - 80, int(rng.lognormvariate(5.9, 0.7)))
            text = "".join(rng.choices(letters, k=max(20, length)))
            cut = len(text) * 2 // 5
            file.write(json.dumps({"instruction": text[:cut], "input": "", "output": text[cut:]}) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
