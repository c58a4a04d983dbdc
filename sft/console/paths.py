"""Paths as a reader has them: relative to where the command was typed, as long as they lie below it."""

from pathlib import Path


def show_path(path: Path) -> str:
    """`outputs/demo/evaluation` for a folder below the working folder, the absolute path for any other."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
