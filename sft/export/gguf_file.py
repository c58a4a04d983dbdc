"""A model folder as one GGUF file for llama.cpp, Ollama and LM Studio, written by ggml's package `gguf`, and checked.

    write_gguf(Path("outputs/demo/export/merged"), Path("demo-q8_0.gguf"), "q8_0", name="demo")
    check_vocabulary(path, merged)         # tokens, end token and template are those of the model folder
    loaded = load_gguf(path, like)         # the weights as they are after quantisation, in fp32

For the architectures of the ChatML families this project trains: Llama (SmolLM2), Qwen2 (Qwen2.5) and Qwen3. Names,
metadata and layout are those of llama.cpp's convert_hf_to_gguf.py; a file is read back by readers that did not write
it: gguf's own and transformers' loader.

The vocabulary comes last: tokens, their kinds, merges, the chat template, the end token. llama.cpp splits text by one
of a few expressions it knows by name; a tokenizer that splits in another way would silently give other ids there, so it
is refused here.
"""

import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import gguf
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.config.export import GgufType
from sft.console import progress
from sft.errors import ModelError, RunError
from sft.export.quantise import FILE_TYPES, choose_type, count_bytes, encode_tensor
from sft.models.loaded import LoadedModel
from sft.models.misfits import refuse_misfits
from sft.models.source import quiet_libraries

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
# What a file of these would have to be read back by, to be compared with the run, is missing in transformers.
UNREADABLE = ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
ELSEWHERE = "convert the merged folder with llama.cpp's convert_hf_to_gguf.py"
Config = dict[str, object]

# How texts are cut before the merges, as tokenizer.json has it -> llama.cpp's name for it.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def check_convertible(folder: Path) -> gguf.MODEL_ARCH:
    """The GGUF architecture of a model folder; raises ModelError for what this writer does not cover."""
    config = _read_config(folder)
    names = config.get("architectures") or [config.get("model_type")]
    name = str(names[0])  # type: ignore[index]
    if name in UNREADABLE:
        raise ModelError(
            f"{name}: transformers cannot read a GGUF file of it, so none could be compared with the run; use --merge, "
            f"then {ELSEWHERE}"
        )
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
    """Largest size of a file: 16, 8.5 or about 5 bits per weight (6.56 if rows are too narrow for 4 bits)."""
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


def check_vocabulary(path: Path, folder: Path) -> None:
    """Raise RunError if the file's chat template, end token or tokens are not those of the model folder."""
    fields = gguf.GGUFReader(path).fields
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    found = {
        "chat template": fields["tokenizer.chat_template"].contents(),
        "end token": tokens[fields["tokenizer.ggml.eos_token_id"].contents()],
        "tokens": tokens[: len(tokenizer)],
    }
    expected = {
        "chat template": tokenizer.chat_template,
        "end token": tokenizer.eos_token,
        "tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
    }
    if different := [name for name in found if found[name] != expected[name]]:
        raise RunError(f"{path.name}: {', '.join(different)} are not those of the merged model; report it")


def load_gguf(path: Path, like: LoadedModel) -> LoadedModel:
    """The file's weights in a transformers model, computing where and how `like` does; prompts are made by `like`."""
    quiet_libraries()
    with redirect_stderr(StringIO()):  # a progress bar of transformers' that no setting switches off
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=like.precision.dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            output_loading_info=True,
        )
    refuse_misfits(path.name, info)
    return replace(like, model=model.to(like.precision.device).eval())


def add_vocabulary(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    """Add everything about the tokenizer of a model folder; rows of the embedding without a token become [PAD7]."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = dict(content["model"]["vocab"])
    added = {entry["id"]: entry for entry in content["added_tokens"]}
    vocabulary |= {entry["content"]: entry["id"] for entry in added.values()}
    names = {index: token for token, index in vocabulary.items()}
    if max(names) >= vocab_size:
        raise ModelError(f"{folder}: token {max(names)} has no row in the embedding of {vocab_size}; export again")
    tokens, kinds = [], []
    for index in range(vocab_size):
        tokens.append(names.get(index, f"[PAD{index}]"))
        kinds.append(_kind_of(index, names, added))
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(name_pre_tokenizer(content))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True)
    special.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    special.add_to_gguf(writer, quiet=True)
    if "bos" not in special.add_special_token:
        writer.add_add_bos_token(False)  # ChatML starts with <|im_start|>, without a BOS token


def _kind_of(index: int, names: dict[int, str], added: dict[int, dict[str, object]]) -> gguf.TokenType:
    if index not in names:
        return gguf.TokenType.UNUSED
    if index not in added:
        return gguf.TokenType.NORMAL
    token = names[index]
    is_control = added[index]["special"] or (token.startswith("<|") and token.endswith("|>"))
    return gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED


def name_pre_tokenizer(content: dict[str, dict[str, object]]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts texts: qwen2, smollm or gpt-2. Raises ModelError for another."""
    steps = _steps_of(content.get("pre_tokenizer"))
    kinds = [step["type"] for step in steps]
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"] == {"Regex": QWEN_SPLIT}:
        return "qwen2"
    splits = bool(steps) and bool(steps[-1].get("use_regex", True))
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and splits:
        return "smollm"
    if kinds == ["ByteLevel"] and splits:
        return "gpt-2"
    raise ModelError(
        f"the tokenizer cuts texts by {' + '.join(map(str, kinds)) or 'nothing'}, which --gguf does not cover; "
        "use --merge, then llama.cpp's convert_hf_to_gguf.py"
    )


def _steps_of(pre_tokenizer: object) -> list[dict[str, object]]:
    if not isinstance(pre_tokenizer, dict):
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps_of(inner)]
    return [pre_tokenizer]
