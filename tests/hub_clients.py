"""Pointing the real hub clients at the hub of a test: in this process, or by the environment of another."""

import os
from pathlib import Path

import pytest

from tests.hub_server import HubServer

CONNECTION_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")


def hub_environment(hub: HubServer, home: Path) -> dict[str, str]:
    """The environment of a command that shall use this hub, with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in CONNECTION_VARIABLES}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


def use_hub(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients of this process use this hub; they read their environment only once, when they are imported."""
    import datasets.config
    import huggingface_hub.constants
    from huggingface_hub import HfFileSystem

    for name in CONNECTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(home / "datasets" / "downloads"))
    HfFileSystem.clear_instance_cache()
