"""`import prompts` is for everyone: cheap, and without what a laptop or a --help does not need."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_loads_no_framework_and_nothing_of_sft():
    names = "{'torch', 'transformers', 'tokenizers', 'jinja2', 'numpy', 'sft', 'trl', 'peft'}"
    use = "import sys, prompts, prompts.tasks as t; [t.get_task(name) for name in t.task_names()]; "
    code = f"{use}print({names} & set(sys.modules))"

    assert run_python(code) == "set()\n"


def test_importing_takes_less_than_a_fifth_of_a_second():
    code = "import time; start = time.process_time(); import prompts; print(time.process_time() - start)"

    assert min(float(run_python(code)) for _ in range(3)) < 0.2
