"""Speed of scoring: teacher-forced loss against the machine's matrix products, label scoring against a loop.

Loss: tokens/s of sft.scoring over rows of random tokens (about 490 each, 60 % supervised), and their share of the
ceiling: 2 floating-point operations for each weight a token passes through (the output layer's where it is supervised),
at the rate of one large matrix product measured beside it. With --lora through an adapter on all projections.

Labels: reviews (with --size: characters at random) in the sentiment prompt, both labels. The naive loop is a forward
pass of transformers' own model for each label of each row with all logits, timed on --sample rows. The scores are
compared. Prints one JSON line last.
    python -m benchmarks.speed_score --labels 1200 --rows 24          # a laptop: the embedded model
    python -m benchmarks.speed_score --size 7b --lora                 # a GPU
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.encode import read_reviews
from benchmarks.random_models import make_apart, random_rows
from benchmarks.speed_generate import SYSTEM_PROMPT, clock
from prompts import conversation_of
from prompts.tasks import get_task
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_for_training
from sft.scoring import score_labels, score_rows
from sft.training.log import peak_memory_gb

CHARACTERS = "房间很干净服务态度好早餐不错又脏又吵价格太贵位置方便"
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrix product that tells the ceiling


def measure_products(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    best = min(clock(lambda: a @ b)[1] for _ in range(10))
    return 2 * side**3 / best


def measure_loss(loaded: LoadedModel, count: int) -> dict[str, float]:
    """Tokens/s of score_rows, and its share of the ceiling."""
    rows = random_rows(count)
    score_rows(loaded, rows[:4], shown=False)
    _, seconds = clock(lambda: score_rows(loaded, rows, shown=False))
    head = loaded.causal_lm.get_output_embeddings().weight.numel()
    body = loaded.causal_lm.base_model.num_parameters() - loaded.causal_lm.get_input_embeddings().weight.numel()
    tokens, supervised = sum(len(row.input_ids) for row in rows), sum(row.num_supervised for row in rows)
    rate = measure_products(loaded.device, loaded.precision.dtype)
    achieved = 2 * (body * tokens + head * supervised) / seconds
    return {
        "rows": count,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "product_tflops": round(rate / 1e12, 2),
        "share_of_ceiling": round(achieved / rate, 3),
    }


def score_naively(
    model: PreTrainedModel, loaded: LoadedModel, prompts: Sequence[list[int]], labels: Sequence[str]
) -> list[list[float]]:
    """A forward pass for each label of each row, all logits: what a loop over `model(**inputs)` computes."""
    scores = []
    for prompt in prompts:
        row = []
        for label in labels:
            answer = loaded.chat.encode_answer(label)
            ids = torch.tensor([[*prompt, *answer]], device=model.device)
            with torch.no_grad():
                logps = model(input_ids=ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
            row.append(float(logps.gather(1, torch.tensor(answer, device=model.device)[:, None]).sum()))
        scores.append(row)
    return scores


def choose_texts(count: int, longest: int, *, at_random: bool) -> list[str]:
    """Reviews of at most that many characters, or random characters, which need no package of texts."""
    rng = random.Random(0)
    if at_random:
        return ["".join(rng.choices(CHARACTERS, k=rng.randint(4, longest))) for _ in range(count)]
    return rng.sample(sorted({text for line in read_reviews() if 4 <= len(text := line.strip()) <= longest}), count)


def measure_labels(loaded: LoadedModel, texts: Sequence[str], sample: int) -> dict[str, float]:
    """Seconds of score_labels, and of the naive loop extrapolated from its sample."""
    count = len(texts)
    labels = get_task("sentiment").allowed_labels({})  # type: ignore[typeddict-item]
    prompts = [
        loaded.chat.encode_prompt(
            conversation_of(
                {"id": "0", "source": "reviews", "task": "sentiment", "text": text, "label": labels[0]},
                SYSTEM_PROMPT,
                with_answer=False,
            )
        )
        for text in texts
    ]
    stock = AutoModelForCausalLM.from_pretrained(
        loaded.source.folder, dtype=loaded.precision.dtype, trust_remote_code=False
    ).to(loaded.device)
    score_labels(loaded, prompts[:8], [labels] * 8, shown=False)
    score_naively(stock, loaded, prompts[:2], labels)
    scores, seconds = clock(lambda: score_labels(loaded, prompts, [labels] * count, shown=False))
    naive, naive_s = clock(lambda: score_naively(stock, loaded, prompts[:sample], labels))
    naive_s *= count / sample
    return {
        "rows": count,
        "prompt_tokens": round(sum(map(len, prompts)) / count, 1),
        "seconds": round(seconds, 2),
        "naive_s": round(naive_s, 2),
        "sampled": sample,
        "times_faster": round(naive_s / seconds, 2),
        "largest_difference": max(
            abs(a - b) for one, other in zip(scores, naive, strict=False) for a, b in zip(one, other, strict=True)
        ),
    }


def main() -> None:
    """Both measurements, once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--size", default="", help="0.5b, 1.5b or 7b: random weights in the geometry of Qwen2.5")
    parser.add_argument("--work", type=Path, default=Path("/tmp/speed_score"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--lora", action="store_true", help="through an adapter of rank 16 on all projections")
    parser.add_argument("--rows", type=int, default=256, help="rows whose loss is computed")
    parser.add_argument("--labels", type=int, default=1200, help="rows whose labels are scored")
    parser.add_argument("--sample", type=int, default=24, help="rows timed in the naive loop")
    parser.add_argument("--max_characters", type=int, default=32, help="longest review; the demo's limit")
    options = parser.parse_args()
    name = str(make_apart(options.size, options.work / options.size)) if options.size else options.model
    if options.lora:
        settings = load_settings(TrainSettings, ["--model", name, "--method", "lora", "--dtype", options.dtype])
        loaded = load_for_training(settings, "transformers")
    else:
        loaded = load_base(name, dtype=options.dtype)
    texts = choose_texts(options.labels, options.max_characters, at_random=bool(options.size))
    result = {
        "model": options.size or options.model,
        "lora": options.lora,
        "loss": measure_loss(loaded, options.rows),
        "peak_gb_of_loss": round(peak_memory_gb(), 2),
        "labels": measure_labels(loaded, texts, min(options.sample, options.labels)),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": loaded.precision.name,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
