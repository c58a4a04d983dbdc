"""The rooms behind the scripts; each module is named after its content."""

import sys
from importlib.util import find_spec
from pathlib import Path

from sft import lean_imports

_PROJECT = Path(__file__).resolve().parent.parent


def _end_without_packages() -> None:
    """One line and exit code 2 where a script of ours runs on a Python without the project's packages.

    Everything else here needs them, so this comes before the first import. A program that imports sft gets Python's
    own ImportError.
    """
    is_ours = Path(sys.argv[0]).resolve().parent == _PROJECT if sys.argv and sys.argv[0] else False
    if is_ours and any(find_spec(name) is None for name in ("pydantic_settings", "tqdm")):
        python = next((path for path in (_PROJECT / ".venv/bin").glob("python") if path.exists()), None)
        todo = f"use {python}" if python else "run `make demo` in the project's folder, then use its .venv/bin/python"
        print(f"error: {sys.executable} lacks the project's packages; {todo}", file=sys.stderr)
        sys.exit(2)


_end_without_packages()
lean_imports.install()
