"""A model folder as one GGUF file for llama.cpp, Ollama and LM Studio, by the package `gguf` (ggml's own).

write_gguf(Path("outputs/demo/export/merged"), Path("demo-q8_0.gguf"), "q8_0", name="demo")

For the architectures of the ChatML families this project trains: Llama (SmolLM2), Qwen2 (Qwen2.5) and Qwen3. Names,
metadata and layout are those of llama.cpp's convert_hf_to_gguf.py; benchmarks/gguf_conformance.py compares the two.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import torch
from safetensors import safe_open

from sft.config.export import GgufType
from sft.console import progress
from sft.errors import ModelError
from sft.export.gguf_vocabulary import add_vocabulary
from sft.export.quantise import FILE_TYPES, choose_type, count_bytes, encode_tensor

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
ELSEWHERE = "convert the merged folder with llama.cpp's convert_hf_to_gguf.py"
Config = dict[str, object]


def check_convertible(folder: Path) -> gguf.MODEL_ARCH:
    """The GGUF architecture of a model folder; raises ModelError for what this writer does not cover."""
    config = _read_config(folder)
    names = config.get("architectures") or [config.get("model_type")]
    name = str(names[0])  # type: ignore[index]
    if name not in ARCHITECTURES:
        raise ModelError(f"{name} is none of {', '.join(ARCHITECTURES)}; use --merge, then {ELSEWHERE}")
    rope = _rope_of(config)
    if rope.get("rope_type", "default") != "default":
        raise ModelError(f"rope_type {rope['rope_type']!r} is not covered by --gguf; use --merge, then {ELSEWHERE}")
    if name == "LlamaForCausalLM" and (config.get("attention_bias") or config.get("mlp_bias")):
        raise ModelError(f"a Llama with biases is not covered by --gguf; use --merge, then {ELSEWHERE}")
    return ARCHITECTURES[name]


def write_gguf(folder: Path, path: Path, kind: GgufType, *, name: str) -> None:
    """Write the file, a tensor at a time: memory holds one tensor, not the model."""
    architecture, config = check_convertible(folder), _read_config(folder)
    num_layers = int(str(config["num_hidden_layers"]))
    names = gguf.get_tensor_name_map(architecture, num_layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_metadata(writer, architecture, config, name, kind)
    add_vocabulary(writer, folder, int(str(config["vocab_size"])))
    shapes = {tensor: tuple(shape) for tensor, shape in list_shapes(folder)}
    tied = bool(config.get("tie_word_embeddings"))
    if tied:
        shapes.pop("lm_head.weight", None)  # the embedding, once more
    order, types = [], {}
    for tensor, shape in shapes.items():
        target = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"{tensor}: GGUF has no name for this tensor; {ELSEWHERE}")
        chosen = types[tensor] = choose_type(kind, target, shape, num_layers=num_layers, tied=tied)
        order.append(tensor)
        writer.add_tensor_info(target, shape, torch.empty(0).numpy().dtype, count_bytes(shape, chosen), chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    for tensor in progress(order, description=f"write {path.name}", unit="tensor"):
        values = _read_tensor(folder, tensor)
        part = tensor.split(".")[-2]
        if architecture is gguf.MODEL_ARCH.LLAMA and part in heads:
            values = interleave_rotary(values, int(str(heads[part] or config["num_attention_heads"])))
        writer.write_tensor_data(encode_tensor(tensor, values, types[tensor]))
    writer.close()


def interleave_rotary(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a query or key projection in the order of ggml's Llama, which rotates neighbours, not halves."""
    rows = weight.shape[0]
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def estimate_gguf_bytes(num_parameters: int, kind: GgufType) -> int:
    """What a file will take at most: 16, 8.5 or about 5 bits a weight (6.56 where rows are too narrow for 4)."""
    return int(num_parameters * {"f16": 16, "q8_0": 8.5, "q4_k_m": 6.6}[kind] / 8) + 20_000_000  # the vocabulary


def _add_metadata(
    writer: gguf.GGUFWriter, architecture: gguf.MODEL_ARCH, config: Config, name: str, kind: GgufType
) -> None:
    def number(key: str) -> int:
        return int(str(config[key]))

    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(number("num_hidden_layers"))
    writer.add_context_length(number("max_position_embeddings"))
    writer.add_embedding_length(number("hidden_size"))
    writer.add_feed_forward_length(number("intermediate_size"))
    heads = number("num_attention_heads")
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(str(config.get("num_key_value_heads") or heads)))
    writer.add_rope_freq_base(float(str(_rope_of(config).get("rope_theta", 10000.0))))
    writer.add_layer_norm_rms_eps(float(str(config["rms_norm_eps"])))
    head_size = config.get("head_dim")
    if head_size is not None:
        writer.add_key_length(int(str(head_size)))
        writer.add_value_length(int(str(head_size)))
    if architecture is gguf.MODEL_ARCH.LLAMA:
        writer.add_vocab_size(number("vocab_size"))
        writer.add_rope_dimension_count(int(str(head_size or number("hidden_size") // heads)))
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _read_config(folder: Path) -> Config:
    config: Config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _rope_of(config: Config) -> dict[str, object]:
    """transformers 5 writes rope_parameters, 4 wrote rope_theta and rope_scaling."""
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict):
        return parameters
    scaling = config.get("rope_scaling")
    rope = dict(scaling) if isinstance(scaling, dict) else {}
    return {"rope_theta": config.get("rope_theta", 10000.0), **rope}


def list_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Every tensor of a model folder with its shape, from the headers of its files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                yield name, file.get_slice(name).get_shape()


def _read_tensor(folder: Path, name: str) -> torch.Tensor:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name)
    raise ModelError(f"{folder}: {name} is in none of the *.safetensors files; export again")
