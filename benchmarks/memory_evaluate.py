"""Does an evaluation need more memory than its training? Runs both with one recipe and prints the peak of each.

On a CPU the peak is the resident size of the process (getrusage), on a GPU what PyTorch allocated. The training runs
for a few steps, its longest batch among them. Unknown flags are passed on to train.py. Prints one JSON line last.
    python -m benchmarks.memory_evaluate --work /tmp/memory
    python -m benchmarks.memory_evaluate --work /tmp/memory --size 7b --method qlora --max_seq_length 1024      # a GPU
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.random_models import make_apart

ROOT = Path(__file__).resolve().parent.parent
# Runs a script as `python script.py` does, then writes its peak memory in GB to a file.
MEASURED = """
import json, resource, runpy, sys
script, out = sys.argv[1:3]
sys.argv = [script, *sys.argv[3:]]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    import torch
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    open(out, "w").write(json.dumps({"resident_gb": round(peak, 3), "gpu_gb": gpu and round(gpu, 3)}))
"""


def measure(work: Path, script: str, *flags: object) -> dict[str, float | None]:
    """Peak memory of one command: {"resident_gb": 1.2, "gpu_gb": None}; a failure ends the benchmark."""
    out = work / f"{script}.memory.json"
    command = [sys.executable, "-c", MEASURED, str(ROOT / script), str(out), *map(str, flags)]
    done = subprocess.run(command, cwd=work, stdout=sys.stderr, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        sys.exit(f"{script} ended with {done.returncode}")
    return json.loads(out.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def main() -> None:
    """Build, train, evaluate; compare the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and run")
    parser.add_argument("--config", default="recipes/demo.yaml")
    parser.add_argument("--size", default="", help="0.5b, 1.5b or 7b: random weights instead of the recipe's model")
    parser.add_argument("--data", type=Path, help="default: the demo's data, built below --work")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--num_samples", type=int, default=10_000, help="rows to evaluate; default: all")
    options, more = parser.parse_known_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    data = (options.data or options.work / "data" / "mixed").resolve()
    if not data.exists():
        measure(options.work, "build_dataset.py", "--preset", "demo")
    run = options.work / "run"
    shutil.rmtree(run, ignore_errors=True)  # of an earlier measurement
    recipe = ["--config", ROOT / options.config, "--data", data, *more]
    if options.size:
        recipe += ["--model", make_apart(options.size, options.work / options.size)]
    training = measure(options.work, "train.py", *recipe, "--output_dir", run, "--max_steps", options.steps)
    evaluation = measure(options.work, "evaluate.py", "--run", run, "--rouge", "--num_samples", options.num_samples)
    unit = "gpu_gb" if training["gpu_gb"] else "resident_gb"
    within = (evaluation[unit] or 0) <= (training[unit] or 0)
    print(json.dumps({"training": training, "evaluation": evaluation, "compared": unit, "within": within}))
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
