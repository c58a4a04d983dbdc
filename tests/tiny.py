"""Makers of small real things: a random ChatML model with its tokenizer, and files of rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
QUESTIONS = ["天气好吗", "What is LoRA?", "hello", "评论：很好", "2 + 2"]
ANSWERS = ["很好", "An adapter.", "hi", "正面", "4"]


def make_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    texts: Sequence[str] = (),
    max_context: int = 512,
    tied: bool = False,
    hidden_size: int = 32,
) -> Path:
    """A random Qwen2-shaped model with a byte-level ChatML tokenizer, saved in transformers' layout (0.2 MB).

    texts: what its tokenizer learns up to 41 merges from; without any, a token is a byte.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_context,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_moe(folder: Path, **overrides: object) -> Path:
    """A random Qwen3-MoE of 8 experts, 2 a token, with the same tokenizer; overrides are of its config."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig

    make_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **settings | overrides,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.weight.normal_(0, 0.1)  # transformers leaves it at zero: every token would take the same
    model.save_pretrained(folder)
    return folder


def make_reciting_model(folder: Path, text: str, *, ends: bool, max_context: int = 100_000) -> Path:
    """A tiny model that says one text whatever it is asked, drawn or greedy: over and over, or once where it `ends`.

    Layers add nothing, so what comes next depends on the last token alone: a byte of the text is followed by the next
    one, any other token by the first. So no byte may stand twice in the text, 30 at most; and a newline, with which
    prompts end, may only be the last byte of a text without end.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_model(folder, max_context=max_context)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert len(set(said)) == len(said) <= 30, f"a byte occurs twice in {text!r}, or it is too long"
    followers = [*said, "<|im_end|>"] if ends else said
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight  # (V, D) each
        embeddings.zero_()
        head.zero_()
        embeddings[:, 0] = 1.0  # any token: the text begins
        for place, token_id in enumerate(tokenizer.convert_tokens_to_ids(said)):
            embeddings[token_id] = torch.nn.functional.one_hot(torch.tensor(place + 1), 32)
        for place, token_id in enumerate(tokenizer.convert_tokens_to_ids(followers)):
            head[token_id, place] = 20.0  # a logit of 113 beside zeros: no draw takes another
        if not ends:
            head[tokenizer.convert_tokens_to_ids(said[0]), len(said)] = 20.0
    model.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 40) -> Path:
    """A JSONL file of `count` different rows in instruction/input/output form."""
    rows = (
        {"instruction": QUESTIONS[i % len(QUESTIONS)], "input": f"number {i}", "output": ANSWERS[i % len(ANSWERS)]}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_reviews(path: Path, count: int = 48) -> Path:
    """A JSONL file of `count` different reviews, every second one positive: one word decides."""
    rows = (
        {
            "text": f"第{i}间房{'很好' if i % 2 else '太差'}" + "，住了一晚" * (i % 4),
            "label": "正面" if i % 2 else "负面",
        }
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def head_weight(model: "torch.nn.Module") -> "torch.nn.Parameter":
    """The weights of a model's classification head in use, (C, D); of an adapter's, the ones that are trained."""
    from sft.models.head import SCORE

    return cast("torch.nn.Parameter", model.get_submodule(SCORE).weight)
