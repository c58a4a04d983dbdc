"""Models with random weights in real geometries, and rows of real lengths: enough to measure speed and memory.

make_random_model("7b", Path("/tmp/qwen2.5-7b-random"))     # 15 GB, half a minute on a GPU
random_rows(600)                                             # token ids, log-normal lengths, mean about 490
"""

import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prompts import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

GEOMETRY: dict[str, dict[str, int | bool]] = {  # of Qwen2.5 by size, and of a hybrid
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "qwen3.5-0.8b": {  # 18 layers of Gated DeltaNet, 6 of attention
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "vocab_size": 248320,
        "tie_word_embeddings": True,
    },
}
CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
FIRST_TEXT_ID, LAST_TEXT_ID = 3, 258  # the tokenizer's bytes; 0 to 2 are control tokens
LONGEST = 2048
PROMPT_SHARE = 0.4


def make_random_model(size: str, folder: Path) -> Path:
    """Random bf16 weights in the geometry of that size, with a byte-level ChatML tokenizer. Made once per folder."""
    if (folder / "tokenizer.json").exists():  # written last
        return folder
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3_5TextConfig

    tokenizer = make_random_tokenizer()
    torch.manual_seed(0)
    kind = Qwen3_5TextConfig if size.startswith("qwen3.5") else Qwen2Config
    own = {} if kind is Qwen3_5TextConfig else {"rope_theta": 1e6, "rms_norm_eps": 1e-6}
    config = kind(
        **GEOMETRY[size],
        **own,
        max_position_embeddings=32768,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_random_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level ChatML tokenizer of 259 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials, alphabet = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    core.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def make_apart(size: str, folder: Path) -> Path:
    """make_random_model in a new process, so that the GPU is free afterwards."""
    make = f"from benchmarks.random_models import *; make_random_model({size!r}, Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", make], cwd=Path(__file__).parents[1], check=True)
    return folder


def random_rows(count: int, *, mu: float = 5.9, sigma: float = 0.7, longest: int = LONGEST) -> list[Encoded]:
    """Rows of random tokens: lengths 32 + LogNormal(mu, sigma), at most `longest`; the last 60 % are supervised."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        length = min(longest, int(rng.lognormvariate(mu, sigma)) + 32)
        num_context = int(length * PROMPT_SHARE)
        ids = [rng.randint(FIRST_TEXT_ID, LAST_TEXT_ID) for _ in range(length)]
        rows.append(Encoded(ids, [0] * num_context + [1] * (length - num_context)))
    return rows
