"""Which weights a name means, and what tells weights of the same shape apart."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft.errors import ModelError
from sft.models.source import find_source, hash_weights


def test_a_folder_is_its_own_source_and_its_identity_is_its_weights(tiny_model_folder: Path):
    source = find_source(str(tiny_model_folder))
    assert (source.name, source.revision) == (str(tiny_model_folder.resolve()), None)
    assert source.identity() == {"weights": f"sha256 {hash_weights(tiny_model_folder)[:16]}"}


def test_weights_keep_their_hash_when_the_folder_moves_or_is_cut_into_other_files(tiny_model_folder: Path, tmp_path):
    moved = shutil.copytree(tiny_model_folder, tmp_path / "moved")
    tensors = load_file(moved / "model.safetensors")
    names = sorted(tensors)
    (moved / "model.safetensors").unlink()
    save_file({name: tensors[name] for name in names[:5]}, moved / "a.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, moved / "b.safetensors", metadata={"format": "pt"})
    assert hash_weights(moved) == hash_weights(tiny_model_folder)


def test_one_changed_tensor_of_the_same_shape_changes_the_hash(tiny_model_folder: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    name = sorted(tensors)[3]
    tensors[name] = tensors[name] + torch.full_like(tensors[name], 1e-3)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert hash_weights(copy) != hash_weights(tiny_model_folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "no such folder"),
        ("nowhere", "no such folder"),
        ("", "a model's name is empty"),
        ("outputs/nope", "outputs/nope: no such folder here, .* hub cannot be reached"),
        ("a/b/c", "no such folder"),
        ("bad owner/name", "neither a folder here nor a hub id"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name: str, words: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=words) as caught:
        find_source(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_source(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter alone; name the run that it is of, or merge it first"):
        find_source(str(tmp_path))


def test_half_a_download_is_named(tiny_model_folder: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:40])
    with pytest.raises(ModelError, match="half-downloaded"):
        hash_weights(copy)
