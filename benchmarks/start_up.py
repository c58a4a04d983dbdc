"""CPU time until inference.py has its first answer, and the share of the imports.

CPU time hardly depends on other programs (two runs differ by a tenth). Exit code 1 if the imports take longer than
--limit seconds.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --limit 7
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ANSWER = ["inference.py", "--model", "embedded", "--text", "hi", "--max_new_tokens", "2"]
IMPORTS = ["-c", "import sft.inference.asking, transformers.models.llama.modeling_llama"]


def measure(arguments: list[str]) -> float:
    """Seconds of CPU time, of user and system, that Python takes with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run each three times and print the fastest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds that the imports may take")
    limit = parser.parse_args().limit
    imports, answer = (min(measure(arguments) for _ in range(3)) for arguments in (IMPORTS, ANSWER))
    print(f"imports {imports:.1f} s, first answer {answer:.1f} s of CPU time")
    sys.exit(imports > limit)


if __name__ == "__main__":
    main()
