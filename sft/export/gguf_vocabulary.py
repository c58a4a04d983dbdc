"""A tokenizer as GGUF holds it: tokens, their kinds, merges, the chat template, the end token.

llama.cpp splits text by one of a few expressions it knows by name; a tokenizer that splits in another way would give
other ids there without a word, so it is refused here.
"""

import json
from pathlib import Path

import gguf

from sft.errors import ModelError

# How texts are cut before the merges, as tokenizer.json has it -> llama.cpp's name for it.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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
        writer.add_add_bos_token(False)  # ChatML begins with <|im_start|>, nothing stands before it


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
