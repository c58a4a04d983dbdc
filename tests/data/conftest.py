"""Small files and packages that tests build from."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WriteRows = Callable[..., Path]
WritePackage = Callable[..., str]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """write_rows("own.jsonl", {"instruction": ...}, ...) -> the file's path; a str is written as it is."""

    def write(name: str, *rows: dict[str, object] | str) -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WritePackage:
    """write_package("pack", {"a/b.txt": b"..."}) -> an installed package of that name, which must not be imported."""

    def write(name: str, files: dict[str, bytes]) -> str:
        folder = tmp_path / "site" / name
        for path, content in {"__init__.py": b"raise RuntimeError('imported')\n", **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        return name

    return write
