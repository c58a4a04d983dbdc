"""How much faster evaluation generates answers than one `generate` per row, and whether the answers are equal.

Rows are those `evaluate.py` asks after `make demo`: reviews, newspaper sentences and questions in their tasks' prompts,
each task with the length of its longest reference. With --size they are random tokens of real lengths for a model with
random weights, which never ends an answer: 256 prompts of 200 tokens on average, 256 new tokens each.

One by one: transformers' own model and `generate`, greedy, a row at a time, as the five systems this project replaces
call it; --sample rows of each task, spread over their lengths, extrapolated to all. Prints one JSON line last.
    python -m benchmarks.speed_generate --dtype fp32            # a laptop: the embedded model
    python -m benchmarks.speed_generate --size 7b               # a GPU
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.random_models import make_apart, random_rows
from sft.config.decoding import choose_decoding
from sft.config.train import TrainSettings
from sft.console import say
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import load_preset
from sft.data.dataset import open_dataset
from sft.evaluation.model_answers import plan_budgets
from sft.evaluation.rows import prepare_rows, sample_by_task
from sft.generation import generate_batch
from sft.generation.stock import cut_at_end
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base
from sft.training.log import peak_memory_gb

Result = TypeVar("Result")
SYSTEM_PROMPT = "You are a helpful assistant."  # the demo's


class Asked(NamedTuple):
    """Prompts and the maximum length of their answers, in tokens."""

    prompts: list[list[int]]
    max_new_tokens: int


def ask_of_demo(loaded: LoadedModel, count: int, work: Path) -> dict[str, Asked]:
    """Task -> its prompts: the demo's test rows, each task by its share."""
    folder = work / "data"
    if not folder.exists():
        build_dataset(load_preset("demo"), folder, BuildOptions())
    rows = sample_by_task(open_dataset(folder).test, count, seed=0)
    prepared = prepare_rows(rows, loaded.chat, SYSTEM_PROMPT, TrainSettings(), 1024).rows
    budgets = plan_budgets(prepared, loaded, 512)
    return {
        task: Asked([row.prompt_ids for row in prepared if row.task.name == task], budget)
        for task, budget in budgets.items()
    }


def ask_at_random(count: int, max_new_tokens: int) -> dict[str, Asked]:
    """Prompts of random tokens, the context part of random rows."""
    rows = random_rows(count)
    return {"random": Asked([row.input_ids[: row.loss_mask.index(1)] for row in rows], max_new_tokens)}


def generate_one_by_one(
    model: PreTrainedModel, loaded: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int
) -> list[list[int]]:
    """transformers' `generate` of one prompt at a time; new ids up to the end token."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(loaded.chat.end_ids) or None,
            pad_token_id=loaded.chat.pad_id,
        )
        answers.append(cut_at_end(output[0, len(prompt) :].tolist(), loaded.chat.end_ids))
    return answers


def clock(work: Callable[[], Result]) -> tuple[Result, float]:
    """Result and seconds of `work`: CPU time with one thread, so that other programs do not count."""
    is_alone = not torch.cuda.is_available() and torch.get_num_threads() == 1
    now = time.process_time if is_alone else time.perf_counter
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = now()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, now() - began


def main() -> None:
    """Warm up, then time each way once, task by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--size", default="", help="0.5b, 1.5b or 7b: random weights in the geometry of Qwen2.5")
    parser.add_argument("--work", type=Path, default=Path("/tmp/speed_generate"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, help="default: the demo's 200, or 256 random ones")
    parser.add_argument("--sample", type=int, help="rows per task for the slow way; default: 8, or 4 random ones")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="of random rows")
    options = parser.parse_args()
    name = str(make_apart(options.size, options.work / options.size)) if options.size else options.model
    loaded = load_base(name, dtype=options.dtype)
    if options.size:
        loaded.chat.end_ids = ()
        asked = ask_at_random(options.rows or 256, options.max_new_tokens)
    else:
        asked = ask_of_demo(loaded, options.rows or 200, options.work)
    sample = options.sample or (4 if options.size else 8)
    stock = AutoModelForCausalLM.from_pretrained(
        loaded.source.folder, dtype=loaded.precision.dtype, trust_remote_code=False
    ).to(loaded.device)
    for prompts, _ in asked.values():  # kernels are chosen, memory is taken
        generate_batch(loaded, prompts[:2], choose_decoding("precise", max_new_tokens=2))
        generate_one_by_one(stock, loaded, prompts[:1], 2)

    batched_s = single_s = 0.0
    num_rows = num_tokens = num_sampled = num_equal = 0
    by_task = {}
    for task, (prompts, max_new_tokens) in asked.items():
        decoding = choose_decoding("precise", max_new_tokens=max_new_tokens)
        answers, seconds = clock(lambda prompts=prompts, decoding=decoding: generate_batch(loaded, prompts, decoding))
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        count = min(sample, len(prompts))
        places = [by_length[int((number + 0.5) * len(prompts) / count)] for number in range(count)]
        single, alone_s = clock(
            lambda places=places, prompts=prompts, most=max_new_tokens: generate_one_by_one(
                stock, loaded, [prompts[place] for place in places], most
            )
        )
        alone_s *= len(prompts) / count
        new_tokens = sum(len(answer.token_ids) + answer.finished for answer in answers)
        ends = set(loaded.chat.end_ids)
        for place, ids in zip(places, single, strict=True):
            num_equal += answers[place].token_ids == [token for token in ids if token not in ends]
        batched_s, single_s = batched_s + seconds, single_s + alone_s
        num_rows, num_tokens, num_sampled = num_rows + len(prompts), num_tokens + new_tokens, num_sampled + count
        by_task[task] = {
            "rows": len(prompts),
            "prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
            "new_tokens": round(new_tokens / len(prompts), 1),
            "batched_s": round(seconds, 2),
            "one_by_one_s": round(alone_s, 2),
            "times_faster": round(alone_s / seconds, 2),
        }
        say(f"{task}: {len(prompts)} rows, batched {seconds:.1f} s, one by one {alone_s:.1f} s")
    result = {
        "model": options.size or options.model,
        "rows": num_rows,
        "new_tokens": num_tokens,
        "batched_s": round(batched_s, 2),
        "one_by_one_s": round(single_s, 2),
        "sampled": num_sampled,
        "batched_tokens_per_s": round(num_tokens / batched_s, 1),
        "one_by_one_tokens_per_s": round(num_tokens / single_s, 1),
        "times_faster": round(single_s / batched_s, 2),
        "equal_answers": num_equal,
        "by_task": by_task,
        "peak_gb": round(peak_memory_gb(), 2),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": loaded.precision.name,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
