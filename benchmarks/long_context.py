"""Long rows under a memory limit: tokens/s, peak memory and loss of one row per step, QLoRA on random weights.

A case is `who:gb:tokens`, `who:gb:tokens:layers` or `who:gb:tokens:layers:steps` (layers may be empty). who: ours
(train.py's own plan), short (plain gradient checkpointing), long (layers in pieces, their inputs in main memory), twice
(the same, but attention is always recomputed in the backward pass), or unsloth
(use_gradient_checkpointing="unsloth"). gb: the memory limit that makes a larger card count as one of that size. layers:
the number of layers that are computed; the weights of the others stay in memory as ballast, because a step of 350,000
tokens through all of them takes minutes. Tokens/s and main memory are then those of the computed layers.

Needs an NVIDIA GPU. Consecutive cases of one kind share a process and a model. Prints a JSON line after each case; exit
code 1 if one failed.
    python -m benchmarks.long_context
    python -m benchmarks.long_context --steps 3 --cases short:24:32768,long:24:32768,unsloth:24:32768
    python -m benchmarks.long_context --lora_r 32 --cases ours:24:160000,long:80:350000:2
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

CASES = "ours:24:80000,short:24:32768,long:24:32768,twice:80:350000:2,unsloth:24:32768,unsloth:24:65536"
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run every case; 0 if all succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--size", default="7b", help="model size: a name of benchmarks/random_models.py")
    parser.add_argument("--steps", type=int, default=2, help="steps per case; the first one is not timed")
    parser.add_argument("--lora_r", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("/tmp/long_context"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = options.cases.split(",")
    if options.worker:
        return run_cases(cases, options)
    from benchmarks.random_models import make_apart

    make_apart(options.size, options.work)
    codes = []
    for _, group in itertools.groupby(cases, lambda case: case.startswith("unsloth")):
        flags = ["--cases", ",".join(group), "--steps", str(options.steps), "--lora_r", str(options.lora_r)]
        command = [sys.executable, "-m", "benchmarks.long_context", "--worker", "--work", str(options.work), *flags]
        codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
    return 1 if any(codes) else 0


def run_cases(cases, options):  # type: ignore[no-untyped-def]
    """Measure cases of one kind on one model and print a JSON line each."""
    from sft.backend import TRANSFORMERS, UNSLOTH, choose_backend

    backend = choose_backend(UNSLOTH if cases[0].startswith("unsloth") else TRANSFORMERS)
    import torch

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.models.loading import load_for_training

    longest = max(int(case.split(":")[2]) for case in cases)
    flags = ["--model", str(options.work), "--method", "qlora", "--neftune_noise_alpha", "0", "--max_steps"]
    flags += [str(options.steps), "--lora_r", str(options.lora_r), "--max_seq_length", str(longest)]
    flags += ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1", "--warmup_steps", "0"]
    flags += ["--optim", "adamw_torch_fused", "--lr_scheduler_type", "constant"]
    settings = load_settings(TrainSettings, [*flags, *(["--gradient_checkpointing"] if backend == UNSLOTH else [])])
    loaded = load_for_training(settings, backend)
    first = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    failed = 0
    for case in cases:
        for name, weight in loaded.model.named_parameters():
            if name in first:
                weight.data.copy_(first[name])
        began = time.monotonic()
        try:
            found = measure(case, loaded, settings, backend, options.steps)
        except Exception as error:  # the next case may have room
            found, failed = {"error": f"{type(error).__name__}: {str(error)[:300]}"}, failed + 1
        print(json.dumps({"case": case, **found, "whole_s": round(time.monotonic() - began, 1)}), flush=True)
        loaded.model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
    return min(failed, 1)


def measure(case, loaded, settings, backend, steps):  # type: ignore[no-untyped-def]
    """One case: steps of one row each."""
    import random

    import torch
    from transformers import TrainerCallback

    from benchmarks.random_models import FIRST_TEXT_ID, LAST_TEXT_ID, PROMPT_SHARE
    from benchmarks.stock import build_on
    from prompts import Encoded
    from sft.backend import UNSLOTH
    from sft.batches import GIBIBYTE
    from sft.models.methods import decoder_layers
    from sft.training import long_rows
    from sft.training.arguments import build_arguments
    from sft.training.memory import limit_memory
    from sft.training.processes import StepOrder
    from sft.training.rehearsal import rehearsing
    from sft.training.trainer import RowTrainer

    kernels = long_rows.KERNELS
    who, gigabytes, num_tokens, *some = case.split(":")
    num_tokens = int(num_tokens)
    steps = int(some[1]) if len(some) > 1 else steps
    rng, num_context = random.Random(0), int(num_tokens * PROMPT_SHARE)
    rows = [
        Encoded(
            [rng.randint(FIRST_TEXT_ID, LAST_TEXT_ID) for _ in range(num_tokens)],
            [0] * num_context + [1] * (num_tokens - num_context),
        )
        for _ in range(steps)
    ]
    args = build_arguments(settings, loaded.precision, Path("/tmp/long_context_out"), num_steps=steps, backend=backend)
    args.max_steps = steps
    args.eval_strategy = args.save_strategy = "no"
    args.load_best_model_at_end = False
    ended, losses, plans, trainer = [], [], [], None

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):  # type: ignore[no-untyped-def]
            torch.cuda.synchronize()
            ended.append(time.monotonic())

        def on_step_end(self, *_, **__):  # type: ignore[no-untyped-def]
            torch.cuda.synchronize()
            ended.append(time.monotonic())

        def on_log(self, *_, logs, **__):  # type: ignore[no-untyped-def]
            losses.extend([logs["loss"]] if "loss" in logs else [])

    limit_memory(float(gigabytes))
    began = time.monotonic()
    layers = decoder_layers(loaded.causal_lm)
    config, num_layers = loaded.causal_lm.config, len(layers)
    ballast = list(layers[int(some[0]) :]) if some and some[0] else []
    del layers[len(layers) - len(ballast) :]
    config.num_hidden_layers = len(layers)
    try:
        if backend == UNSLOTH:
            args.train_sampling_strategy = "sequential"
            order = StepOrder([num_tokens] * steps, 1, seed=args.data_seed)
            trainer = build_on(loaded.model, loaded.tokenizer, [rows[i] for step in order for i in step], args)
        else:
            how = {"short": (True, False), "long": (None, True), "twice": (None, True)}.get(who, (None, None))
            long_rows.KERNELS = () if who == "twice" else kernels
            trainer = RowTrainer(
                loaded, rows, rows[:1], args, recomputes=how[0], offloads=how[1],
                before_first_step=rehearsing(lambda plan: plans.append(plan.report())),
            )  # fmt: skip
        trainer.add_callback(Clock())
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    finally:
        layers.extend(ballast)
        config.num_hidden_layers = num_layers
        long_rows.KERNELS = kernels
        if isinstance(trainer, RowTrainer):
            trainer.long_rows.remove()
    step_s = [round(end - start, 2) for start, end in zip(ended[::2], ended[1::2], strict=True)]
    return {
        "layers": f"{len(layers) - len(ballast)} of {len(layers)} computed" if ballast else "all",
        "tokens_per_second": round(num_tokens / step_s[-1], 1),
        "step_s": step_s,
        "peak_gb": round(peaks[0] / GIBIBYTE, 2),
        "reserved_gb": round(peaks[1] / GIBIBYTE, 2),
        "losses": losses,
        "before_first_step_s": round(ended[0] - began, 1),
        "plan": plans,
    }


if __name__ == "__main__":
    sys.exit(main())
