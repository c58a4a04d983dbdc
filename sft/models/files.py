"""The files of a model folder, checked before a library reads them; a fault is reported in one line.

check_folder(folder)                          # ModelError: "tokenizer.json: a git-lfs pointer and not the file ..."
check_weight_files(folder)                    # [Path("model.safetensors")], each whole and readable
read_json_object(folder / "config.json")      # {"model_type": "qwen3", ...}
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sft.errors import ModelError, one_line

LFS_POINTER = b"version https://git-lfs"
PICKLES = (b"PK\x03\x04", b"\x80\x02")  # first bytes of torch.save's files, in the present and the former format
PICKLE_NAMES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LARGEST_PARSED = 2**20  # bytes; of a larger file (tokenizer.json, 11 MB) only the first bytes are looked at
MOST_LAYERS = 10_000  # the deepest models have about 130
AGAIN = "download or copy it again"


def check_folder(folder: Path) -> None:
    """Raises ModelError for a file that is not JSON, for a git-lfs pointer, and for a pipe or device."""
    for path in sorted(folder.iterdir()):
        _refuse_special(path)
    for path in sorted(folder.glob("*.json")):
        head = _read_head(path)
        if path.stat().st_size <= LARGEST_PARSED:
            content = read_json_object(path)
            if path.name == "config.json":
                _refuse_endless(path, content)
        elif not head.lstrip().startswith(b"{"):
            raise ModelError(f"{path}: not JSON (it begins with {head[:20]!r}); {AGAIN}")


def _refuse_endless(path: Path, config: dict[str, Any]) -> None:
    """transformers makes a list of a config's layers before anything else."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        layers = part.get("num_hidden_layers")
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise ModelError(f"{path}: num_hidden_layers is {layers:,}, more than any model has; {AGAIN}")


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder, {"model_type": "qwen3", ...}; raises ModelError for anything else."""
    _read_head(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{path}: nested too deeply to be read; {AGAIN}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a JSON {type(content).__name__} where an object was expected; {AGAIN}")
    return content


def check_weight_files(folder: Path) -> list[Path]:
    """The *.safetensors of a folder sorted by name, each checked to be complete.

    Raises ModelError for a folder that has none, for a file that is something else or is not whole, and for an index
    that names a missing file or one in another folder.
    """
    _check_index(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in PICKLE_NAMES for path in folder.glob(pattern))
        found = f", only {', '.join(pickles[:3])}, and reading pickles can run code" if pickles else ""
        raise ModelError(f"{folder}: no *.safetensors here{found}; convert the model's weights to safetensors first")
    for path in files:
        head = _read_head(path)
        try:
            with safe_open(path, framework="numpy"):
                pass  # its header is checked against the length of the file
        except SafetensorError as error:
            if head.startswith(PICKLES):
                raise ModelError(f"{path}: a PyTorch pickle and no safetensors; convert it first") from None
            raise ModelError(f"{path}: damaged or half-downloaded ({one_line(error, 200)}); {AGAIN}") from None
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or one_line(error, 200)})") from None
    return files


def _check_index(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_json_object(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{path}: no weight_map that says which tensor is in which file; {AGAIN}")
        names = sorted(set(shards.values()))
        if outside := [name for name in names if Path(name).name != name or "\\" in name or name == ".."]:
            raise ModelError(f"{path}: points outside its folder, to {outside[0]!r}; do not use this model")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(
                f"{folder}: missing {len(missing)} of {len(names)} files: {list_some(missing)}; download them"
            )


def _refuse_special(path: Path) -> None:
    """Raise ModelError for what could be read for ever, and for a link to it."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ModelError(f"{path}: no regular file but a pipe, a socket or a device; {AGAIN}")


def _read_head(path: Path) -> bytes:
    """The first bytes of a file; raises ModelError if it is empty, a git-lfs pointer, or unreadable."""
    _refuse_special(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise ModelError(f"{path}: an empty file; {AGAIN}")
    if head.startswith(LFS_POINTER):
        raise ModelError(f"{path}: a git-lfs pointer and not the file itself; run `git lfs pull` in {path.parent}")
    return head


def list_some(names: Iterable[str], limit: int = 3) -> str:
    """["a", "b", "c", "d"] -> "a, b, c and 1 more"."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"
