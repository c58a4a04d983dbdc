"""Small files and packages that tests build from."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_clients import use_hub
from tests.hub_lookalikes import add_lookalikes
from tests.hub_server import HubServer

WriteRows = Callable[..., Path]
WritePackage = Callable[..., str]


@pytest.fixture(scope="session")
def lookalike_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with small look-alikes of every data set that the presets name."""
    with HubServer() as server:
        add_lookalikes(server, tmp_path_factory.mktemp("lookalikes"))
        yield server


@pytest.fixture
def lookalikes(
    lookalike_hub: HubServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> HubServer:
    """The same, and the clients of this process use it."""
    use_hub(lookalike_hub, tmp_path_factory.getbasetemp() / "hub_home", monkeypatch)
    lookalike_hub.requests.clear()
    return lookalike_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub of a test's own, which the clients of this process use."""
    with HubServer() as server:
        use_hub(server, tmp_path / "hub_home", monkeypatch)
        yield server


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
