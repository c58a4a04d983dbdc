"""Answers are written together only where rows padded on the left are proven to be computed as if alone."""

import pytest
import torch

from benchmarks.families import build, load
from benchmarks.random_models import make_random_tokenizer
from sft.config.decoding import DECODING
from sft.errors import ModelError
from sft.generation import generate_batch
from sft.generation.decode import can_batch
from sft.generation.selfcheck import Caching, find_caching
from sft.scoring import score_labels

PRECISE = DECODING["precise"].model_copy(update={"max_new_tokens": 6})
KINDS = {
    "qwen3": Caching.TOGETHER,
    "qwen3_5": Caching.TOGETHER,  # a linear attention whose mask leaves padding out
    "lfm2": Caching.TOGETHER,
    "mistral": Caching.TOGETHER,
    "gpt_oss": Caching.TOGETHER,
    "recurrent_gemma": Caching.ALONE,  # its convolution reads padding
    "rwkv": Caching.NOT,  # its state is in no cache of keys and values
    "mamba": Caching.NOT,
}


def load_family(family: str):
    return load(build(family).eval(), make_random_tokenizer())


def prompts_of(loaded) -> list[list[int]]:
    texts = ("hi", "and a question that is longer", "a third")
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]


@pytest.mark.parametrize("family", KINDS)
def test_answers_of_a_batch_are_those_of_plain_greedy_decoding_without_any_cache(family):
    loaded = load_family(family)
    found = [answer.token_ids for answer in generate_batch(loaded, prompts_of(loaded), PRECISE)]
    assert find_caching(loaded) is KINDS[family]
    loaded.causal_lm.config._attn_implementation = "eager"
    for prompt, answer in zip(prompts_of(loaded), found, strict=True):
        ids = list(prompt)
        for _ in range(len(answer)):
            with torch.no_grad():
                ids.append(int(loaded.causal_lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert ids[len(prompt) :] == answer


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5", "mistral", "rwkv", "gemma2"])
def test_labels_are_scored_as_stock_scores_them_one_by_one(family):
    loaded = load_family(family)
    prompts, labels = prompts_of(loaded), ("good", "bad and long", "b")
    found = score_labels(loaded, prompts, [labels] * 3, shown=False)
    loaded.causal_lm.config._attn_implementation = "eager"
    for prompt, row in zip(prompts, found, strict=True):
        for label, score in zip(labels, row, strict=True):
            answer = loaded.chat.encode_answer(label)
            with torch.no_grad():
                logits = loaded.causal_lm(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
            logs = logits[len(prompt) - 1 : -1].log_softmax(-1)
            wanted = logs.gather(1, torch.tensor(answer)[:, None]).sum().item()
            assert score == pytest.approx(wanted, rel=2e-5)


def test_the_server_batches_keys_and_values_alone_and_refuses_what_it_cannot_continue(capsys):
    assert can_batch(load_family("qwen3"))
    assert not can_batch(load_family("qwen3_5"))
    assert "answers are written one at a time" in capsys.readouterr().err
    with pytest.raises(ModelError, match="a cache of its own"):
        can_batch(load_family("rwkv"))
