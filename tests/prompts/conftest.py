"""Tokenizers and formats the tests of prompts/ share."""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="session")
def golden() -> dict[str, dict]:
    """What reference tokenizers make of some conversations: {"qwen3": {"template": ..., "conversations": ...}, ...}."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(GOLDEN.glob("*.json"))}


@pytest.fixture(scope="session")
def tiny_backend(golden):
    """A small byte-level tokenizer that normalises, splits and looks for added tokens exactly as Qwen3's does."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(golden["qwen3"]["texts"], trainer)
    for token in golden["qwen3"]["control_tokens"]:
        added = AddedToken(token["content"], special=token["special"], normalized=False)
        (backend.add_special_tokens if token["special"] else backend.add_tokens)([added])
    return backend


@pytest.fixture(scope="session")
def tokenizers_by_family(tiny_backend, golden, embedded_tokenizer) -> dict[str, object]:
    """transformers tokenizers: Qwen3's and Qwen2.5's template on the tiny vocabulary, and the real SmolLM2."""
    from transformers import PreTrainedTokenizerFast

    tiny = {
        name: PreTrainedTokenizerFast(tokenizer_object=tiny_backend, chat_template=golden[name]["template"])
        for name in ("qwen3", "qwen2.5")
    }
    return {**tiny, "smollm2": embedded_tokenizer}


@pytest.fixture(scope="session")
def formats(tokenizers_by_family):
    """Every dialect under test: {"qwen3": ..., "qwen3 off": ..., "qwen3 keep": ..., "qwen2.5": ..., "smollm2": ...}."""
    from prompts import ChatFormat

    found = {name: ChatFormat.from_tokenizer(tokenizer) for name, tokenizer in tokenizers_by_family.items()}
    for think in ("off", "keep"):
        found[f"qwen3 {think}"] = ChatFormat.from_tokenizer(tokenizers_by_family["qwen3"], think=think)
    return found
