"""Model folders, adapters, runs and checkpoints that are damaged, strange, or mean harm."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.attacks import Attack
from tests.faults.attacks_disks import SOURCES
from tests.faults.commands_apart import Limits

WEIGHTS, RUNS, CODE, TEMPLATES = (
    "weights and model folders",
    "runs, adapters and checkpoints",
    "code of strangers",
    "chat templates",
)
Change = Callable[[Path], object]
ASK_MODEL = "inference.py --model m --text hi --max_new_tokens 2"
ASK_RUN = "inference.py --run r --text hi --max_new_tokens 2"
DEEP = "[" * 100_000 + "]" * 100_000
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 123\n"


def copied(what: str, name: str, *changes: Change) -> Change:
    def make(folder: Path) -> None:
        target = shutil.copytree(SOURCES[what], folder / name)
        for change in changes:
            change(target)

    return make


def writes(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def removes(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def edits(name: str, **values: Any) -> Change:
    """A JSON file with some values changed; ... takes one away."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def edits_in(name: str, path: str, value: Any) -> Change:
    """A JSON file with one value somewhere inside changed: "settings.lora_r"."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *way, last = path.split(".")
        inner = content
        for key in way:
            inner = inner[key]
        inner[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def tensors(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def make(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        loaded = {key: value.clone() for key, value in load_file(folder / name).items()}
        save_file(change(loaded), folder / name, metadata={"format": "pt"})

    return make


def header(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """A safetensors file with another header before the same bytes."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        parts = json.loads(data[8 : 8 + length])
        text = json.dumps(change(parts) or parts).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return make


def flip(name: str, place: float) -> Change:
    """One bit turned, at a share of the file's length."""

    def make(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(len(data) * place)] ^= 0x40
        (folder / name).write_bytes(data)

    return make


def cut(name: str, share: float) -> Change:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int((folder / name).stat().st_size * share)]
    )


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


def shards(weight_map: dict[str, Any]) -> Change:
    return writes("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}))


def half(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: value.half() for name, value in parts.items()}


def twice_named(folder: Path) -> None:
    """A header of JSON with one key twice; the later is the one that JSON parsers keep."""
    data = (folder / W).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    parts = json.loads(data[8 : 8 + length])
    text = json.dumps(parts)[:-1] + f", {json.dumps(FIRST)}: {json.dumps(parts['lm_head.weight'])}" + "}"
    (folder / W).write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])


def padded_header(folder: Path) -> None:
    data = (folder / W).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + length] + b" " * 1_000_000
    (folder / W).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def replaced(name: str, by: str) -> Change:
    """A link in a file's place."""
    return lambda folder: ((folder / name).unlink(missing_ok=True), (folder / name).symlink_to(by))


def piped(name: str) -> Change:
    """A named pipe in a file's place, to which nobody writes."""
    return lambda folder: ((folder / name).unlink(missing_ok=True), os.mkfifo(folder / name))


W = "model.safetensors"
ADDED = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
FIRST = "model.layers.0.mlp.up_proj.weight"
MODELS: dict[str, tuple[Change, bool]] = {  # what is changed, and whether it may work
    "names begin with base_model.model.": (
        tensors(W, lambda t: {f"base_model.model.{k}": v for k, v in t.items()}),
        False,
    ),
    "names begin with transformer.": (tensors(W, lambda t: {f"transformer.{k}": v for k, v in t.items()}), False),
    "names without model. in front": (tensors(W, lambda t: {k.removeprefix("model."): v for k, v in t.items()}), True),
    "names end in .base_layer.weight": (
        tensors(W, lambda t: {k.replace(".weight", ".base_layer.weight"): v for k, v in t.items()}),
        False,
    ),
    "names of another family": (
        tensors(W, lambda t: {k.replace("self_attn", "attention"): v for k, v in t.items()}),
        False,
    ),
    "one name in capitals": (
        tensors(W, lambda t: {k.replace("embed_tokens", "EMBED_TOKENS"): v for k, v in t.items()}),
        False,
    ),
    "a norm missing": (tensors(W, lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}), False),
    "a bias missing": (
        tensors(W, lambda t: {k: v for k, v in t.items() if not k.endswith("layers.1.self_attn.q_proj.bias")}),
        False,
    ),
    "the embedding missing": (tensors(W, lambda t: {k: v for k, v in t.items() if "embed_tokens" not in k}), False),
    "no tensor at all": (tensors(W, lambda t: {}), False),
    "a LoRA beside the weights": (
        tensors(W, lambda t: t | {"model.layers.0.mlp.up_proj.lora_A.weight": t[FIRST][:2].clone()}),
        False,
    ),
    "a matrix turned round": (tensors(W, lambda t: t | {FIRST: t[FIRST].t().contiguous()}), False),
    "a matrix made flat": (tensors(W, lambda t: t | {FIRST: t[FIRST].flatten()}), False),
    "a row of a matrix missing": (tensors(W, lambda t: t | {FIRST: t[FIRST][:-1]}), False),
    "weights of whole numbers": (
        tensors(W, lambda t: {k: v.to(__import__("torch").int8) for k, v in t.items()}),
        False,
    ),
    "weights in half precision": (tensors(W, half), True),
    "three layers named, two there": (
        edits("config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3),
        False,
    ),
    "one layer named, two there": (edits("config.json", num_hidden_layers=1, layer_types=["full_attention"]), False),
    "no layers": (edits("config.json", num_hidden_layers=0, layer_types=[]), False),
    "minus one layer": (edits("config.json", num_hidden_layers=-1, layer_types=[]), False),
    "two million million layers": (edits("config.json", num_hidden_layers=2 * 10**12, layer_types=None), False),
    "a vocabulary of 10": (edits("config.json", vocab_size=10), False),
    "a vocabulary of 10 million million": (edits("config.json", vocab_size=10**13), False),
    "a width of 10 million million": (edits("config.json", hidden_size=10**13), False),
    "a width that is a text": (edits("config.json", hidden_size="32; rm -rf /"), False),
    "a width that is a list": (edits("config.json", hidden_size=[32]), False),
    "a width of 0": (edits("config.json", hidden_size=0), False),
    "heads that do not divide the width": (edits("config.json", num_attention_heads=5), False),
    "no heads": (edits("config.json", num_attention_heads=0), False),
    "more key heads than heads": (edits("config.json", num_key_value_heads=8), False),
    "an activation of nobody": (edits("config.json", hidden_act="nobody"), False),
    "an activation that is a number": (edits("config.json", hidden_act=7), False),
    "a theta that is a text": (
        edits("config.json", rope_parameters={"rope_type": "default", "rope_theta": "x"}),
        False,
    ),
    "a rope of nobody": (edits("config.json", rope_parameters={"rope_type": "nobody", "rope_theta": 1.0}), False),
    "an epsilon that is null": (edits("config.json", rms_norm_eps=None), False),
    "a model_type of nobody": (edits("config.json", model_type="nobody"), False),
    "a model_type that is a number": (edits("config.json", model_type=7), False),
    "no model_type": (edits("config.json", model_type=...), False),
    "a model_type of a vision model": (edits("config.json", model_type="clip"), False),
    "a model_type of an encoder": (edits("config.json", model_type="bert"), False),
    "a dtype of nobody": (edits("config.json", dtype="nobody"), False),
    "a dtype that is a list": (edits("config.json", dtype=["float32"]), False),
    "quantised by nobody": (edits("config.json", quantization_config={"quant_method": "nobody"}), False),
    "quantised by a list": (edits("config.json", quantization_config=[1]), False),
    "an end token that is a text": (edits("config.json", eos_token_id="<|im_end|>"), True),
    "an end token beyond the vocabulary": (edits("config.json", eos_token_id=10**9), True),
    "a config that is a list": (writes("config.json", "[]"), False),
    "a config that is null": (writes("config.json", "null"), False),
    "a config 100,000 deep": (writes("config.json", DEEP), False),
    "a config with a value 100,000 deep": (writes("config.json", '{"model_type": "qwen2", "x": ' + DEEP + "}"), False),
    "a config in UTF-16": (writes("config.json", '{"model_type": "qwen2"}'.encode("utf-16")), False),
    "a config of 5,000 digits": (
        writes("config.json", '{"model_type": "qwen2", "hidden_size": ' + "9" * 5000 + "}"),
        False,
    ),
    "a config with NaN": (writes("config.json", '{"model_type": "qwen2", "rms_norm_eps": NaN}'), False),
    "a config cut off": (cut("config.json", 0.5), False),
    "a config that is a pointer of git-lfs": (writes("config.json", POINTER), False),
    "no config": (removes("config.json"), False),
    "an empty config": (writes("config.json", ""), False),
    "a generation_config that is a list": (writes("generation_config.json", "[]"), False),
    "a generation_config 100,000 deep": (writes("generation_config.json", DEEP), False),
    "a generation_config of odd types": (
        writes("generation_config.json", '{"temperature": "hot", "eos_token_id": {"a": 1}}'),
        True,
    ),
    "a tokenizer that is a pointer of git-lfs": (writes("tokenizer.json", POINTER), False),
    "a tokenizer 100,000 deep": (writes("tokenizer.json", '{"x": ' + DEEP + "}"), False),
    "a tokenizer cut off": (cut("tokenizer.json", 0.5), False),
    "a tokenizer without a model": (edits("tokenizer.json", model=...), False),
    "a tokenizer of no kind": (edits("tokenizer.json", model={"type": "Nobody"}), False),
    "a tokenizer with an endless pattern": (
        edits(
            "tokenizer.json",
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a*)*$b"}, "behavior": "Isolated", "invert": False},
        ),
        True,
    ),
    "a tokenizer with a pattern that is none": (
        edits(
            "tokenizer.json",
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False},
        ),
        False,
    ),
    "a tokenizer with tokens beyond the model": (
        edits(
            "tokenizer.json",
            added_tokens=[
                {
                    "id": 10**6,
                    "content": "<|im_start|>",
                    "special": True,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
            ],
        ),
        True,
    ),
    "no tokenizer": (removes("tokenizer.json"), False),
    "a tokenizer_config that is a list": (writes("tokenizer_config.json", "[]"), False),
    "a tokenizer_config 100,000 deep": (writes("tokenizer_config.json", DEEP), False),
    "a tokenizer_config with a class of nobody": (edits("tokenizer_config.json", tokenizer_class="Nobody"), True),
    "a tokenizer_config with a class that is a list": (edits("tokenizer_config.json", tokenizer_class=[1]), False),
    "a tokenizer_config with an end token that is a number": (edits("tokenizer_config.json", eos_token=7), False),
    "a length of the tokenizer that is a text": (edits("tokenizer_config.json", model_max_length="long"), True),
    "weights that are a pointer of git-lfs": (writes(W, POINTER), False),
    "weights that are a web page": (writes(W, "<!doctype html><html>404</html>"), False),
    "weights of 0 bytes": (writes(W, b""), False),
    "weights of 7 bytes": (writes(W, b"1234567"), False),
    "weights cut off": (cut(W, 0.7), False),
    "weights with bytes behind": (lambda folder: (folder / W).write_bytes((folder / W).read_bytes() + b"more"), False),
    "weights that are a pickle": (writes(W, b"\x80\x02}q\x00."), False),
    "weights that are a zip": (writes(W, b"PK\x03\x04" + bytes(100)), False),
    "a header that is a list": (header(W, lambda parts: [1]), False),
    "a header longer than the file": (writes(W, struct.pack("<Q", 2**40) + b"{}"), False),
    "a header of 2**63 bytes": (writes(W, struct.pack("<Q", 2**63) + b"{}"), False),
    "a header 100,000 deep": (writes(W, struct.pack("<Q", len(DEEP) + 6) + b'{"x":' + DEEP.encode() + b"}"), False),
    "tensors that overlap": (
        header(
            W,
            lambda parts: (
                [
                    info.update(data_offsets=[0, info["data_offsets"][1] - info["data_offsets"][0]])
                    for name, info in parts.items()
                    if name != "__metadata__"
                ]
                and None
            ),
        ),
        False,
    ),
    "a tensor beyond the file": (header(W, lambda parts: parts[FIRST].update(data_offsets=[10**9, 10**9 + 4])), False),
    "a tensor of a type of nobody": (header(W, lambda parts: parts[FIRST].update(dtype="F7")), False),
    "a tensor of a negative shape": (header(W, lambda parts: parts[FIRST].update(shape=[-1, 5])), False),
    "no weights, only pickles": (rename(W, "pytorch_model.bin"), False),
    "an index that points outside": (shards({FIRST: "../../etc/passwd"}), False),
    "an index that points to an absolute path": (shards({FIRST: "/etc/passwd"}), False),
    "an index that points to a folder": (shards({FIRST: "."}), False),
    "an index that points to nothing": (shards({FIRST: ""}), False),
    "an index that names a file that is missing": (shards({FIRST: "model-00001-of-00002.safetensors"}), False),
    "an index that names the pickle of a tensor": (shards({FIRST: "pytorch_model.bin"}), False),
    "an index of numbers": (shards({FIRST: 7}), False),
    "an index that is a list": (writes("model.safetensors.index.json", "[]"), False),
    "an index 100,000 deep": (writes("model.safetensors.index.json", DEEP), False),
    "an index that names half the tensors": (shards({FIRST: W}), True),
    "a link in the place of the weights, to itself": (
        lambda folder: ((folder / W).unlink(), (folder / W).symlink_to(W)),
        False,
    ),
    "a folder in the place of the weights": (lambda folder: ((folder / W).unlink(), (folder / W).mkdir()), False),
    "a folder in the place of the config": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        False,
    ),
    "a header that names a tensor twice": (twice_named, False),
    "a header whose metadata are numbers": (header(W, lambda parts: parts.update(__metadata__={"format": 7})), False),
    "a header of another framework": (header(W, lambda parts: parts.update(__metadata__={"format": "flax"})), True),
    "a header with blanks behind": (padded_header, True),
    "a tensor whose shape is beyond 64 bits": (
        header(W, lambda parts: parts[FIRST].update(shape=[2**62, 2**62])),
        False,
    ),
    "a tensor of 10,000 dimensions": (
        header(W, lambda parts: parts[FIRST].update(shape=[1] * 10_000 + parts[FIRST]["shape"])),
        False,
    ),
    "a tensor of no bytes": (header(W, lambda parts: parts[FIRST].update(shape=[0, 5], data_offsets=[0, 0])), False),
    "a tensor whose end is before its start": (
        header(W, lambda parts: parts[FIRST].update(data_offsets=parts[FIRST]["data_offsets"][::-1])),
        False,
    ),
    "weights that are no numbers": (tensors(W, lambda t: {k: v * float("nan") for k, v in t.items()}), False),
    "one weight that is infinite": (tensors(W, lambda t: t | {FIRST: t[FIRST] / 0}), False),
    "a config with a key twice": (
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace("{", '{"hidden_size": 7, "num_hidden_layers": 9, ', 1)
        ),
        True,
    ),
    "a config with a mark of byte order": (
        lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
        True,
    ),
    "a config that leads to /dev/zero": (replaced("config.json", "/dev/zero"), False),
    "a config that leads to /proc/self/environ": (replaced("config.json", "/proc/self/environ"), False),
    "a config that is a named pipe": (piped("config.json"), False),
    "a tokenizer that is a named pipe": (piped("tokenizer.json"), False),
    "a tokenizer that leads to /dev/zero": (replaced("tokenizer.json", "/dev/zero"), False),
    "a generation_config that is a named pipe": (piped("generation_config.json"), False),
    "a chat template that is a named pipe": (piped("chat_template.jinja"), False),
    "a chat template that leads to /dev/zero": (replaced("chat_template.jinja", "/dev/zero"), False),
    "weights that are a named pipe": (piped(W), False),
    "weights that lead to /dev/zero": (replaced(W, "/dev/zero"), False),
    "weights that lead to /proc/self/mem": (replaced(W, "/proc/self/mem"), False),
    "an index that is a named pipe": (piped("model.safetensors.index.json"), False),
    "architectures of numbers": (edits("config.json", architectures=[7]), False),
    "architectures of nobody": (edits("config.json", architectures=["Nobody"]), True),
    "ties that the weights deny": (edits("config.json", tie_word_embeddings=True), True),
    "a window that is a text": (edits("config.json", use_sliding_window=True, sliding_window="x"), False),
    "a window of 0": (
        edits(
            "config.json",
            use_sliding_window=True,
            sliding_window=0,
            max_window_layers=0,
            layer_types=["sliding_attention"] * 2,
        ),
        False,
    ),
    "positions of 0": (edits("config.json", max_position_embeddings=0), True),
    "positions that are a text": (edits("config.json", max_position_embeddings="long"), False),
    "a padding token below 0": (edits("config.json", pad_token_id=-5), True),
    "a layer of a type of nobody": (edits("config.json", layer_types=["nobody", "nobody"]), False),
    "more types of layers than layers": (edits("config.json", layer_types=["full_attention"] * 9), False),
    "quantised by bitsandbytes that never was": (
        edits("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        False,
    ),
    "quantised by GPTQ": (
        edits("config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        False,
    ),
    "an epsilon of NaN": (edits("config.json", rms_norm_eps=float("nan")), False),
    "a theta of 0": (edits("config.json", rope_parameters={"rope_type": "default", "rope_theta": 0}), False),
    "a tokenizer that cuts after 5 tokens": (
        edits(
            "tokenizer.json",
            truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        ),
        True,
    ),
    "a tokenizer with an empty control token": (
        edits("tokenizer.json", added_tokens=[ADDED | {"id": 0, "content": ""}]),
        False,
    ),
    "a tokenizer with two control tokens of one number": (
        edits(
            "tokenizer.json",
            added_tokens=[ADDED | {"id": 1, "content": "<|im_start|>"}, ADDED | {"id": 1, "content": "<|im_end|>"}],
        ),
        False,
    ),
    "a tokenizer that turns every text into one": (
        edits("tokenizer.json", normalizer={"type": "Replace", "pattern": {"Regex": "(?s).+"}, "content": "x"}),
        True,
    ),
    "a tokenizer that writes a million letters for one": (
        edits("tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": "h"}, "content": "h" * 10**6}),
        True,
    ),
    "a tokenizer_config with templates by name, none of them default": (
        lambda folder: (
            removes("chat_template.jinja")(folder),
            edits("tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}])(folder),
        ),
        False,
    ),
    "a tokenizer_config whose template is a number": (
        lambda folder: (
            removes("chat_template.jinja")(folder),
            edits("tokenizer_config.json", chat_template=7)(folder),
        ),
        False,
    ),
    "a special_tokens_map that is a list": (writes("special_tokens_map.json", "[]"), True),
    "added_tokens that are a list": (writes("added_tokens.json", "[1]"), True),
    "templates beside, one of which leads outside": (
        lambda folder: (
            (folder / "additional_chat_templates").mkdir(),
            (folder / "additional_chat_templates/x.jinja").symlink_to("/etc/passwd"),
        ),
        True,
    ),
}
A, AC = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
ADAPTERS: dict[str, tuple[Change, bool]] = {
    "one bit of its first tensor": (flip(A, 0.2), False),
    "one bit in its middle": (flip(A, 0.5), False),
    "one bit near its end": (flip(A, 0.99), False),
    "the alpha": (edits(AC, lora_alpha=64), False),
    "the rank": (edits(AC, r=4), False),
    "rsLoRA": (edits(AC, use_rslora=True), False),
    "the modules": (edits(AC, target_modules=["q_proj"]), False),
    "an alpha pattern": (edits(AC, alpha_pattern={"q_proj": 1}), False),
    "the dropout": (edits(AC, lora_dropout=0.5), False),
    "fan_in_fan_out": (edits(AC, fan_in_fan_out=True), False),
    "a number's type": (edits(AC, r="16"), False),
    "the kind of adapter": (edits(AC, peft_type="IA3"), False),
    "a config that is a list": (writes(AC, "[]"), False),
    "a config that is null": (writes(AC, "null"), False),
    "a config 100,000 deep": (writes(AC, DEEP), False),
    "a config of 5,000 digits": (writes(AC, '{"r": ' + "9" * 5000 + "}"), False),
    "a config that is empty": (writes(AC, ""), False),
    "no config": (removes(AC), False),
    "weights cut off": (cut(A, 0.7), False),
    "weights that are a pointer of git-lfs": (writes(A, POINTER), False),
    "weights that are a pickle": (writes(A, b"\x80\x02}q\x00."), False),
    "no weights": (removes(A), False),
    "one tensor missing": (tensors(A, lambda t: dict(list(t.items())[1:])), False),
    "one tensor scaled": (tensors(A, lambda t: t | {k: v * 2 for k, v in list(t.items())[:1]}), False),
    "one tensor of another shape": (tensors(A, lambda t: t | {k: v[:1] for k, v in list(t.items())[:1]}), False),
    "another tokenizer": (edits("adapter/tokenizer.json", added_tokens=[]), False),
    "another chat template": (writes("adapter/chat_template.jinja", "{{ messages[0].content }}"), False),
    "a tokenizer that is a list": (writes("adapter/tokenizer.json", "[]"), False),
    "a tokenizer_config 100,000 deep": (writes("adapter/tokenizer_config.json", DEEP), False),
    "LoRA of layers that are not there": (edits(AC, layers_to_transform=[99]), False),
    "modules to save": (edits(AC, modules_to_save=["lm_head"]), False),
    "biases": (edits(AC, bias="all"), False),
    "DoRA": (edits(AC, use_dora=True), False),
    "the task": (edits(AC, task_type="SEQ_CLS"), False),
    "the base": (edits(AC, base_model_name_or_path="/nowhere"), False),
    "a start of PiSSA": (edits(AC, init_lora_weights="pissa"), False),
    "a rank pattern": (edits(AC, rank_pattern={"q_proj": 2}), False),
    "a code's mapping": (edits(AC, auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}), False),
    "a field of a newer PEFT": (edits(AC, newer_field={"x": 1}), False),
    "a key twice": (
        lambda folder: (folder / AC).write_text((folder / AC).read_text().replace("{", '{"lora_alpha": 99, ', 1)),
        True,
    ),
    "a config that is a named pipe": (piped(AC), False),
    "weights that lead to /dev/zero": (replaced(A, "/dev/zero"), False),
}
R = "run.json"
RUN_FILES: dict[str, tuple[Change, bool]] = {
    "is a list": (writes(R, "[]"), False),
    "is null": (writes(R, "null"), False),
    "is empty": (writes(R, ""), False),
    "is 100,000 deep": (writes(R, DEEP), False),
    "has a value 100,000 deep": (writes(R, '{"x": ' + DEEP + "}"), False),
    "is of 5,000 digits": (writes(R, '{"x": ' + "9" * 5000 + "}"), False),
    "is in UTF-16": (writes(R, "{}".encode("utf-16")), False),
    "is cut off": (cut(R, 0.5), False),
    "is a folder": (lambda folder: ((folder / R).unlink(), (folder / R).mkdir()), True),
    **{
        f"has no {key}": (
            edits(R, **{key: ...}),
            key
            in (
                "adapter",
                "files",
                "backend",
                "head",
                "quantisation",
                "processes",
                "created",
                "described_tasks",
                "versions",
                "git_revision",
                "metrics",
            ),
        )
        for key in (
            "status",
            "settings",
            "origins",
            "base",
            "system_prompt",
            "fingerprint",
            "data",
            "files",
            "adapter",
            "versions",
        )
    },
    **{
        f"has a list for {key}": (
            edits(R, **{key: [1, [2]]}),
            key in ("versions", "origins", "metrics", "git_revision", "created"),
        )
        for key in (
            "status",
            "settings",
            "base",
            "system_prompt",
            "fingerprint",
            "data",
            "adapter",
            "files",
            "backend",
            "head",
            "quantisation",
            "processes",
            "created",
            "versions",
            "git_revision",
        )
    },
    **{
        f"has a number for {key}": (
            edits(R, **{key: 7}),
            key in ("versions", "origins", "metrics", "git_revision", "created"),
        )
        for key in (
            "status",
            "settings",
            "base",
            "system_prompt",
            "fingerprint",
            "data",
            "adapter",
            "files",
            "backend",
            "head",
            "quantisation",
            "described_tasks",
            "versions",
        )
    },
    "has a key nobody knows": (edits(R, foo=1), False),
    "has tasks that are numbers": (edits_in(R, "data.tasks", [1]), False),
    "has tasks nobody knows": (edits_in(R, "data.tasks", ["nobody"]), False),
    "has tasks that are null": (edits_in(R, "data.tasks", None), False),
    "has a base that is a number": (edits_in(R, "base.name", 7), False),
    "has a base that is nowhere": (edits_in(R, "base.name", "/nowhere"), False),
    "has a base with a NUL": (edits_in(R, "base.name", "a\0b"), False),
    "has a base of another model": (edits_in(R, "base.name", "embedded"), False),
    "has a rank of nobody": (edits_in(R, "settings.lora_r", "x"), False),
    "has a setting nobody knows": (edits_in(R, "settings.foo", 1), False),
    "has a method of nobody": (edits_in(R, "settings.method", "nobody"), False),
    "has a method that is a list": (edits_in(R, "settings.method", [1]), False),
    "has a length of 10 million million": (edits_in(R, "settings.max_seq_length", 10**13), True),
    "has a length below 0": (edits_in(R, "settings.max_seq_length", -5), False),
    "has a fingerprint of texts": (edits(R, fingerprint="abc"), False),
    "has described tasks that are text": (edits(R, described_tasks=["x"]), False),
    "has described tasks that are empty": (edits(R, described_tasks=[{}]), False),
    "has described tasks of odd types": (edits(R, described_tasks=[{"name": 7, "labels": "x"}]), False),
    "has a head of odd types": (edits(R, head={"labels": 7}), False),
    "has a head of no labels": (
        edits(R, head={"labels": [], "pooling": "last", "num_labels": 0, "id2label": {}, "label2id": {}}),
        False,
    ),
    "has a checksum of numbers": (edits(R, files={"adapter_model.safetensors": 7}), False),
    "has a system prompt of 5 million characters": (edits(R, system_prompt="a " * 2_500_000), False),
    "has itself as its base": (lambda folder: edits_in(R, "base.name", str(folder))(folder), False),
    "is a named pipe": (piped(R), True),
    "leads to /dev/zero": (replaced(R, "/dev/zero"), True),
    "leads to itself": (replaced(R, R), True),
    "has a key twice": (
        lambda folder: (folder / R).write_text((folder / R).read_text().replace("{", '{"status": "complete", ', 1)),
        True,
    ),
    "has NaN for its metrics": (edits(R, metrics={"eval_loss": float("nan")}), True),
    "has not finished": (edits(R, status="running"), False),
    "has a status with a line break": (edits(R, status="a\nerror: b"), False),
    "has a status with colours": (edits(R, status="\x1b[31mred"), False),
}
TEMPLATE_TEXTS: dict[str, str] = {
    "a loop that never ends": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop over lipsum": "{% for i in range(99999) %}{{ lipsum(n=1000) }}{% endfor %}",
    "a string of a terabyte": "{{ 'a' * 1000000000000 }}",
    "a string doubled 60 times": "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "a list doubled 60 times": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "a power of powers": "{{ 9 ** 9 ** 9 }}",
    "a range of a million million": "{{ range(1000000000000) | list | length }}",
    "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "a macro that calls itself twice": "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "brackets 5,000 deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "ifs 5,000 deep": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "a number of 5,000 digits": "{{ " + "9" * 5000 + " }}",
    "a format of a million million blanks": "{{ '%1000000000000d' | format(1) }}",
    "centred over a million million": "{{ 'a' | center(1000000000000) }}",
    "indented over and over": "{{ ('a\\n' * 100000) | indent(1000000) }}",
    "a word wrap of megabytes": "{{ ('a' * 100000000) | wordwrap(1) }}",
    "two million characters": "{% for i in range(2000) %}{{ 'a' * 1000 }}{% endfor %}",
    "it asks for Python's inside": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "it asks for the inside by attr": "{{ messages | attr('__class__') | attr('__mro__') }}",
    "it asks for a function's globals": "{{ raise_exception.__globals__ }}",
    "it asks by format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "it imports a file": "{% include '/etc/passwd' %}",
    "it imports a module": "{% import 'os' as os %}{{ os.system('touch PWNED') }}",
    "it extends a file": "{% extends '/etc/passwd' %}",
    "it changes the messages": "{% do messages.append(1) %}",
    "it raises": "{{ raise_exception('no') }}",
    "it divides by nothing": "{{ 1 / 0 }}",
    "it is no template": "{% if %}",
    "it writes nothing": "",
    "it leaves the question out": "<|im_start|>user\nhi<|im_end|>\n",
    "it leaves the answer out": "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}",
    "it says the date": "{{ strftime_now('%Y' * 100000000) }}",
    "it writes a surrogate": "{{ '\\ud83d' }}",
    "it is in other words": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
}
EVIL = "import pathlib\npathlib.Path('PWNED').write_text('ran')\nfrom transformers import *\nclass Evil(Qwen2Config): pass\nclass M(Qwen2ForCausalLM): pass\nclass T(PreTrainedTokenizerFast): pass\n"
TRAPS: dict[str, Change] = {
    "config.json": edits(
        "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.M"}, model_type="evil"
    ),
    "config.json, of a known family": edits(
        "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.M"}
    ),
    "config.json, of the classifier": edits("config.json", auto_map={"AutoModelForSequenceClassification": "evil.M"}),
    "config.json, from another repository": edits(
        "config.json", auto_map={"AutoConfig": "someone/else--evil.Evil"}, model_type="evil"
    ),
    "config.json, above the folder": edits("config.json", auto_map={"AutoConfig": "../evil.Evil"}, model_type="evil"),
    "tokenizer_config.json": edits(
        "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.T"]}, tokenizer_class="T"
    ),
    "tokenizer_config.json, of a known class": edits(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}
    ),
    "generation_config.json": lambda folder: (folder / "generation_config.json").write_text(
        '{"custom_generate": "evil.py", "trust_remote_code": true}'
    ),
    "a custom_generate folder": lambda folder: (
        (folder / "custom_generate").mkdir(),
        (folder / "custom_generate/generate.py").write_text(EVIL),
    ),
    "processor_config.json": writes("processor_config.json", '{"auto_map": {"AutoProcessor": "evil.T"}}'),
    "kernels of a hub": edits(
        "config.json", attn_implementation="someone/kernels", _attn_implementation="someone/kernels"
    ),
}
YES = Limits(stdin="y\n" * 50, seconds=40)
HARMLESS = (
    "generation_config.json",
    "a custom_generate folder",
    "processor_config.json",
    "kernels of a hub",
    "config.json, of a known family",
    "config.json, of the classifier",
    "tokenizer_config.json",
    "tokenizer_config.json, of a known class",
)
CHATS = {
    "a conversation 100,000 deep": DEEP,
    "a conversation that is a list": "[]",
    "a conversation of numbers": '{"messages": [1]}',
    "a conversation cut off": '{"messages": [{"role": "us',
    "a conversation of 5,000 digits": '{"messages": ' + "9" * 5000 + "}",
    "a conversation with half a character": '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    "a conversation of nobody": '{"messages": [{"role": "nobody", "content": "x"}]}',
    "a conversation of 5 million characters": json.dumps(
        {"messages": [{"role": "user", "content": "a " * 2_500_000}, {"role": "assistant", "content": "b"}]}
    ),
}


def chat_folder(name: str, content: str) -> Change:
    def make(folder: Path) -> None:
        (folder / "c").mkdir()
        (folder / "c" / name).write_text(content)

    return make


def checkpoint(change: Change) -> Change:
    """The newest checkpoint of a run that is to go on."""

    def make(folder: Path) -> None:
        run = shutil.copytree(SOURCES["run"], folder / "r")
        newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        for path in newest.iterdir():
            path.chmod(0o666)
        change(newest)

    return make


CHECKPOINT_FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "adapter_model.safetensors",
    "manifest.json",
    "training_args.bin",
)
CHECKPOINTS: dict[str, Change] = {
    **{f"{name} cut off": cut(name, 0.5) for name in CHECKPOINT_FILES},
    **{f"one bit of {name}": flip(name, 0.5) for name in CHECKPOINT_FILES},
    **{f"no {name}": removes(name) for name in CHECKPOINT_FILES},
    "a manifest 100,000 deep": writes("manifest.json", DEEP),
    "a manifest that is a list": writes("manifest.json", "[]"),
    "a manifest of numbers": writes("manifest.json", '{"optimizer.pt": 7}'),
    "a manifest that names a file outside": writes(
        "manifest.json", '{"../../run.json": {"bytes": 1, "xxh3_128": "0"}}'
    ),
}


def evil(change: Change) -> Change:
    return copied("model", "m", writes("evil.py", EVIL), change)


ADAPTERS_ALONE = {
    name: change
    for name, (change, _) in ADAPTERS.items()
    if name
    not in (
        "another tokenizer",
        "another chat template",
        "a tokenizer that is a list",
        "a tokenizer_config 100,000 deep",
    )
}
QUIET = (  # what is another, sound adapter is used as it stands
    "one bit of its first tensor", "one bit in its middle", "one bit near its end", "the alpha", "rsLoRA", "an alpha pattern", "the dropout",
    "the base", "one tensor scaled", "a key twice", "a field of a newer PEFT", "a start of PiSSA", "biases", "a code's mapping", "fan_in_fan_out", "the task",
)  # fmt: skip
ATTACKS = [
    *(
        Attack(
            RUNS,
            f"of an adapter that came alone: {name}",
            copied("run", "r", removes(R), change),
            "inference.py --adapter r/adapter --model {model} --text hi --max_new_tokens 2",
            may_work=name in QUIET,
        )
        for name, change in ADAPTERS_ALONE.items()
    ),
    *(
        Attack(WEIGHTS, name, copied("model", "m", change), ASK_MODEL, may_work=ok)
        for name, (change, ok) in MODELS.items()
    ),
    *(
        Attack(RUNS, f"of the adapter changed: {name}", copied("run", "r", change), ASK_RUN, may_work=ok)
        for name, (change, ok) in ADAPTERS.items()
    ),
    *(
        Attack(RUNS, f"run.json {name}", copied("run", "r", change), ASK_RUN, may_work=ok)
        for name, (change, ok) in RUN_FILES.items()
    ),
    *(
        Attack(
            RUNS,
            f"of the checkpoint: {name}",
            checkpoint(change),
            "train.py --output_dir r --resume_from_checkpoint auto --max_steps 5",
            may_work=True,
            leaves=("r/.*",),
        )
        for name, change in CHECKPOINTS.items()
    ),
    *(
        Attack(TEMPLATES, name, copied("model", "m", writes("chat_template.jinja", text)), ASK_MODEL, may_work=False)
        for name, text in TEMPLATE_TEXTS.items()
    ),
    *(
        Attack(
            CODE,
            f"asked by {name}, y on standard input",
            evil(change),
            command,
            may_work=name in HARMLESS,
            limits=YES,
            leaves=("c/.*",),
        )
        for name, change in TRAPS.items()
        for command in ("chat.py --model m --max_new_tokens 2 --chats_dir c",)
    ),
    *(
        Attack(
            CODE,
            f"training on {name}, y on standard input",
            lambda folder, change=change: (evil(change)(folder), write_rows(folder)),
            "train.py --model m --data rows.jsonl --dry_run --max_seq_length 384",
            may_work=name in HARMLESS,
            limits=YES,
        )
        for name, change in TRAPS.items()
    ),
    Attack(
        CODE,
        "a run that says that it was trained with code of its own",
        lambda folder: (
            evil(TRAPS["config.json"])(folder),
            copied(
                "run", "r", edits_in(R, "settings.trust_remote_code", True), edits_in(R, "base.name", str(folder / "m"))
            )(folder),
        ),
        ASK_RUN,
        limits=YES,
    ),
    *(
        Attack(
            "chats",
            f"/load of {name}",
            chat_folder("x.jsonl", text),
            "chat.py --model {model} --max_new_tokens 2 --chats_dir c",
            may_work=True,
            leaves=("c/.*",),
            limits=Limits(stdin="/load x\n/load c/x.jsonl\nhi\n"),
        )
        for name, text in CHATS.items()
    ),
    *(
        Attack(
            "chats",
            f"found unsaved: {name}",
            chat_folder("unsaved-1-99999999999999999999.jsonl", text),
            "chat.py --model {model} --max_new_tokens 2 --chats_dir c",
            may_work=True,
            leaves=("c/.*",),
            limits=Limits(stdin="hi\n"),
        )
        for name, text in CHATS.items()
    ),
]


def write_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("".join(f'{{"instruction": "Q{i}", "output": "A{i}"}}\n' for i in range(12)))
