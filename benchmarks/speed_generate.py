"""How much faster the evaluation asks a model than a loop of one `generate` a row, and whether it hears the same.

Rows are reviews in the sentiment prompt. One by one: transformers' own `generate`, greedy, as the five systems this
project replaces call it. Against it: batched generation, and label scoring, which asks the same question without
generating. Compares every answer, in fp32 unless --dtype says otherwise. Prints one JSON line last.
    python -m benchmarks.speed_generate
    python -m benchmarks.speed_generate --model FOLDER --dtype bf16 --rows 200 --max_new_tokens 32      # a GPU
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.encode import read_reviews
from prompts import conversation_of
from prompts.tasks import get_task
from sft.config.decoding import choose_decoding
from sft.console import say
from sft.generation import generate_batch
from sft.generation.call import cut_at_end
from sft.label_scoring import score_labels
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base

Result = TypeVar("Result")


def make_prompts(loaded: LoadedModel, count: int, max_characters: int) -> list[list[int]]:
    """Prompt ids of reviews of 4 to max_characters characters."""
    rng = random.Random(0)
    reviews = sorted({text for line in read_reviews() if 4 <= len(text := line.strip()) <= max_characters})
    rows = [
        {"id": str(number), "source": "reviews", "task": "sentiment", "text": text, "label": "正面"}
        for number, text in enumerate(rng.sample(reviews, count))
    ]
    return [
        loaded.chat.encode_prompt(conversation_of(row, "You are a helpful assistant.", with_answer=False))
        for row in rows
    ]


def generate_one_by_one(loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """transformers' `generate` of one prompt at a time; new ids up to the end token."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=loaded.device)
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(loaded.chat.end_ids),
            pad_token_id=loaded.chat.pad_id,
        )
        answers.append(cut_at_end(output[0, len(prompt) :].tolist(), loaded.chat.end_ids))
    return answers


def clock(work: Callable[[], Result]) -> tuple[Result, float]:
    """What the work gives, and its seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def main() -> None:
    """Warm up, then each way once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max_new_tokens", type=int, default=16)
    parser.add_argument("--max_characters", type=int, default=32, help="of a review; the demo's are at most so long")
    options = parser.parse_args()
    loaded = load_base(options.model, dtype=options.dtype)
    prompts = make_prompts(loaded, options.rows, options.max_characters)
    decoding = choose_decoding("precise", max_new_tokens=options.max_new_tokens)
    labels = [get_task("sentiment").allowed_labels({})] * len(prompts)  # type: ignore[typeddict-item]
    generate_batch(loaded, prompts[:2], decoding)

    batched, batched_s = clock(lambda: generate_batch(loaded, prompts, decoding))
    say(f"batched: {batched_s:.1f} s")
    scores, scoring_s = clock(lambda: score_labels(loaded, prompts, labels, shown=False))
    say(f"label scoring: {scoring_s:.1f} s")
    single, single_s = clock(lambda: generate_one_by_one(loaded, prompts, options.max_new_tokens))
    say(f"one by one: {single_s:.1f} s")
    single_scores, single_scoring_s = clock(
        lambda: [score_labels(loaded, [prompt], labels[:1], shown=False)[0] for prompt in prompts]
    )
    ends = set(loaded.chat.end_ids)
    same = sum(
        answer.token_ids == [token for token in ids if token not in ends]
        for answer, ids in zip(batched, single, strict=True)
    )
    result = {
        "rows": len(prompts),
        "prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
        "new_tokens": round(sum(map(len, single)) / len(prompts), 1),
        "one_by_one_rows_per_s": round(len(prompts) / single_s, 2),
        "batched_rows_per_s": round(len(prompts) / batched_s, 2),
        "label_scoring_rows_per_s": round(len(prompts) / scoring_s, 2),
        "batched_times_faster": round(single_s / batched_s, 2),
        "label_scoring_times_faster": round(single_s / scoring_s, 2),
        "label_scoring_one_by_one_s": round(single_scoring_s, 2),
        "equal_answers": same,
        "largest_score_difference": max(
            abs(one - other)
            for row, alone in zip(scores, single_scores, strict=True)
            for one, other in zip(row, alone, strict=True)
        ),
        "device": str(loaded.device),
        "dtype": str(loaded.precision.dtype),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
