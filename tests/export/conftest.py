"""A hub that takes uploads, and a run whose adapter changes what the model says."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import train_tiny
from tests.hub_uploads import UploadHub

TOKEN = "hf_canaryTOKENthatMustNotTravel0123456789"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server; huggingface_hub and children of this process talk to it, with the canary as their token."""
    import huggingface_hub.constants as constants

    with UploadHub(token=TOKEN) as server:
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(tmp_path / "hf_home"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        resolve = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        yield server


@pytest.fixture(scope="session")
def strong_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_run with an adapter that says something: four steps leave lora_B so near zero that any merge would do."""
    return strengthen(tiny_run, tmp_path_factory.mktemp("strong_run") / "run")


@pytest.fixture(scope="session")
def qlora_run(tiny_model_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a run trained beside a base in 4 bits."""
    folder = tmp_path_factory.mktemp("qlora_run")
    return strengthen(train_tiny(folder / "weak", "qlora", tiny_model_folder, rows_file), folder / "run")


def strengthen(weak: Path, folder: Path) -> Path:
    """A copy of a run whose lora_B is drawn at random, with the record to match."""
    import json

    import torch
    from safetensors.torch import load_file, save_file

    from sft.models.source import describe_weights, hash_files

    shutil.copytree(weak, folder)
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if "lora_B" in name:
            weights[name] = torch.randn(value.shape, generator=generator) * 0.2
    save_file(weights, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    record = json.loads((folder / "run.json").read_text())
    record["adapter"], record["files"] = describe_weights(folder / "adapter"), hash_files(folder / "adapter")
    (folder / "run.json").write_text(json.dumps(record))
    return folder
