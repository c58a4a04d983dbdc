"""Files of a model folder that are no such files, or not whole: one line each that says what it is and what to do."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sft.errors import ModelError
from sft.models.files import check_folder, check_weight_files, read_json_object
from sft.models.loading import load_base
from sft.models.source import find_source

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb\nsize 9\n"
DEEP = "[" * 100_000 + "]" * 100_000


def header(content: object) -> bytes:
    """The beginning of a safetensors file whose header is this JSON."""
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "a pointer": ("model.safetensors", LFS.encode(), "a git-lfs pointer and not the file itself; run `git lfs pull`"),
    "an empty file": ("model.safetensors", b"", "an empty file; download or copy it again"),
    "a few bytes": ("model.safetensors", b"\x01\x02", "damaged or half-downloaded"),
    "a header too large": ("model.safetensors", struct.pack("<Q", 2**60) + b"{}", "damaged or half-downloaded"),
    "a deep header": ("model.safetensors", struct.pack("<Q", 200_000) + DEEP.encode(), "damaged or half-downloaded"),
    "a header that is a list": ("model.safetensors", header([1, 2]), "damaged or half-downloaded"),
    "a tensor without a place": ("model.safetensors", header({"a": 1}), "damaged or half-downloaded"),
    "a pickle": ("model.safetensors", b"PK\x03\x04" + b"0" * 100, "a PyTorch pickle and no safetensors; convert it"),
    "a config pointer": ("config.json", LFS.encode(), "a git-lfs pointer and not the file itself"),
    "a config that is no JSON": ("config.json", b"{'a': 1}", "not JSON"),
    "a config in latin-1": ("config.json", '{"a": "é"}'.encode("latin-1"), "not JSON"),
    "a config that is a list": ("config.json", b"[]", "holds a JSON list where an object was expected"),
    "a deep config": ("config.json", DEEP.encode(), "nested too deeply to be read"),
    "a tokenizer pointer": ("tokenizer.json", LFS.encode(), "a git-lfs pointer and not the file itself"),
    "a tokenizer that is none": ("tokenizer.json", b'{"model": {"type": "Nothing"}}', "no usable tokenizer"),
    "a deep tokenizer": ("tokenizer_config.json", DEEP.encode(), "nested too deeply to be read"),
}


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder to be spoilt."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def refusal(folder: Path) -> str:
    """The line that loading a folder ends with."""
    with pytest.raises(ModelError) as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_what_it_is(case: str, folder: Path):
    name, content, words = BROKEN[case]
    (folder / name).write_bytes(content)
    line = refusal(folder)
    assert words in line
    assert (name in line) or "tokenizer" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": "576; rm -rf /"}, "its config.json cannot be used .*hidden_size"),
        ({"num_hidden_layers": 3}, "its config.json cannot be used .*num_hidden_layers"),
        ({"num_attention_heads": 5}, "check its files|restore the folder"),
        ({"model_type": "unheard_of"}, "its config.json cannot be used .*unheard_of"),
        ({"model_type": 5}, "its config.json cannot be used"),
    ],
)
def test_a_config_with_a_wrong_value_is_one_line(change: dict[str, object], words: str, folder: Path):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(ModelError, match=words) as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value)


def test_a_file_cut_off_anywhere_is_half_downloaded(folder: Path):
    whole = (folder / "model.safetensors").read_bytes()
    for length in (1, 8, 40, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        assert "damaged or half-downloaded" in refusal(folder)


def test_a_folder_of_pickles_is_refused_with_their_names(folder: Path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors here, only pytorch_model.bin, and reading pickles can run code; convert" in refusal(folder)


def cut_into_shards(folder: Path, second: str = "b.safetensors") -> None:
    """Weights in two files with an index that calls the second one so."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    save_file({name: tensors[name] for name in names[:9]}, folder / "a.safetensors", metadata={"format": "pt"})
    save_file({name: tensors[name] for name in names[9:]}, folder / "b.safetensors", metadata={"format": "pt"})
    places = {name: "a.safetensors" if name in names[:9] else second for name in names}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("outside", ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "..\\b.safetensors", ".."])
def test_an_index_that_points_outside_its_folder_is_refused(outside: str, folder: Path):
    cut_into_shards(folder, outside)
    assert f"points outside its folder, to {outside!r}" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path):
    cut_into_shards(folder)
    load_base(str(folder))
    (folder / "b.safetensors").unlink()
    assert "missing 1 of 2 files: b.safetensors; download them" in refusal(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 5}}])
def test_an_index_without_a_map_is_refused(index: object, folder: Path):
    cut_into_shards(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no weight_map that says which tensor is in which file" in refusal(folder)


def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(tmp_path: Path):
    for size in range(1, 400):  # header lengths of every value modulo 256, 0x80 among them
        save_file({"a" * size: torch.zeros(1)}, tmp_path / "model.safetensors")
        assert [path.name for path in check_weight_files(tmp_path)] == ["model.safetensors"]


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_content_of_a_file_is_read_or_is_one_line(content: bytes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_bytes(content)
    for read in (check_weight_files, check_folder):
        assert_read_or_refused(read, folder)
    assert_read_or_refused(read_json_object, folder / "config.json")


def assert_read_or_refused(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except ModelError as error:
        line = str(error)
    else:
        return
    assert len(line.splitlines()) == 1


def test_a_name_that_leads_to_a_broken_config_is_refused_before_anything_is_loaded(folder: Path):
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json: holds a JSON list"):
        find_source(str(folder))
