"""Did tuning help in the demo? Three figures have to improve, each with a paired 95 % interval that excludes 0.

Reads evaluation/metrics.json of a run. Prints a line per figure, then one JSON line; exit code 1 if one did not
improve.
    python benchmarks/demo_helped.py
    python benchmarks/demo_helped.py outputs/demo
"""

import json
import sys
from pathlib import Path

HAVE_TO_MOVE = ("topic accuracy", "topic accuracy (generated)", "eval_loss")


def has_helped(figures: dict[str, float]) -> bool:
    """Whether the whole interval of tuned - base lies on the better side: {"low": 0.2, "high": 0.3, …} -> True."""
    return figures["low"] > 0 if figures["higher_is_better"] else figures["high"] < 0


def main(run: Path) -> int:
    """Print each figure; 0 if all of them improved, else 1."""
    path = run / "evaluation" / "metrics.json"
    if not path.is_file():
        sys.exit(f"error: {path}: no such file; run `python evaluate.py` first, or name a run folder")
    metrics = json.loads(path.read_text(encoding="utf-8"))["comparison"]["metrics"]
    for name in HAVE_TO_MOVE:
        figures = metrics[name]
        verdict = "better" if has_helped(figures) else "NOT better"
        interval = f"{figures['low']:+.3f} to {figures['high']:+.3f}"
        print(f"{name:<26} {figures['base']:.3f} -> {figures['tuned']:.3f}  ({interval})  {verdict}")
    helped = all(has_helped(metrics[name]) for name in HAVE_TO_MOVE)
    print(json.dumps({"helped": helped, **{name: metrics[name] for name in HAVE_TO_MOVE}}))
    return 0 if helped else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/latest")))
