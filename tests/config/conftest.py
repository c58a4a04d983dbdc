"""A recipe file to write, and an environment without settings."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("SFT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def recipe(tmp_path):
    """recipe("lora_r: 4") -> the path of a file that holds it."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write
