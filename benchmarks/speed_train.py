"""Training speed: this project, the stock trainer and Unsloth on the same rows in the same order, losses step by step.

A path is `who-method-rows`: ours-qlora, stock-qlora-2x4 (rows of a micro-batch x accumulated), unsloth-lora-8x1, each
with -gc for gradient checkpointing and -8bit for AdamW in 8 bits (the reference recipe is stock-qlora-2x4-8bit),
-fp32 for everything in fp32 (4-bit weights are unpacked), the reference for losses if it comes first, or -fp32adapter
to keep in fp32 what TRL turns into bf16 beside 4-bit weights. Ours also takes -fp8 (frozen layers in FP8), -whole
(without shared prefixes), -padded and -launched (without recorded passes). Methods are lora, qlora, freeze and full;
stock trains lora, qlora and full, the last as TRL does by default: weights in fp32 under autocast. Tokens are those of
the rows, however they are computed.

`stock` is TRL's SFTTrainer over transformers, bitsandbytes and PEFT as they come, with its default, autocast; `unsloth`
is its model in the same SFTTrainer. TRL 1.15 computes its loss in a Triton kernel, and the CPU build of torch has no
Triton: there `stock` is transformers' Trainer with TRL's collator, which TRL used until then, in bf16 throughout, or
with -autocast over fp32 weights, TRL's default.

Each path trains in a new process, --repeats times in turn; the speed is the median of three windows of the timed steps.
Prints a table on stderr and a JSON line after each path, the last one with all; exit code 1 if losses or gradient norms
of ours differ from those of a stock path in fp32 (-fp32, -fp32adapter), or if a path failed. In 16 bits the stock
trainer is further from fp32 than ours.
    python -m benchmarks.speed_train                                                    # a laptop: SmolLM2-135M, bf16
    python -m benchmarks.speed_train --size 7b --steps 30 --repeats 1 --paths \
        ours-qlora,ours-lora,stock-qlora-2x4-fp32,stock-qlora-2x4-8bit,stock-lora-2x4-fp32,unsloth-qlora-8x1    # a GPU
    python -m benchmarks.speed_train --recipe recipes/demo.yaml --data data/mixed --rows_per_step 4 --steps 60 \
        --warm_up 15 --paths ours-lora,stock-lora-4x1-fp32,stock-lora-4x1,stock-lora-4x1-autocast      # the demo's rows
    python -m benchmarks.speed_train --data reviews.jsonl --rows_per_step 16 --longest 512 --steps 60 --warm_up 15 \
        --paths ours-full,ours-full-launched,stock-full-16x1-fp32,stock-full-16x1               # whole weights, a GPU
    python -m benchmarks.speed_train --size qwen3.5-0.8b --steps 40 --repeats 1 \
        --paths ours-lora,ours-lora-padded,stock-lora-2x4,stock-lora-2x4-fp32,unsloth-lora-8x1     # a hybrid, a GPU
    python -m benchmarks.speed_train --size 7b --steps 20 --repeats 1 --rows_per_step 2 --mu 20 --longest 4096 \
        --all_supervised --paths ours-lora,ours-lora-fp8                                   # full rows of 4,096 tokens
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# Largest allowed differences to fp32, of a loss (nats) and of a gradient norm (relative). Measured over 20 steps of 7B
# on an H200 (docs/results.md): bf16 0.003 and 0.5 %, FP8 0.037 and 3 %. e4m3 rounds a factor by up to 6 %.
TOLERANCES, TOLERANCES_IN_FP8 = (0.01, 0.02), (0.05, 0.05)
WINDOWS = 3
ATTENTION = 12  # operations per pair of tokens and value: two products, forward, and twice as many backward
FROZEN, TRAINED = 4, 6  # operations per weight and token: forward, gradient of the input, and of the weight itself


@dataclass(frozen=True)
class Way:
    """One way to train: who, method, rows of a micro-batch of the stock trainers, gradient checkpointing, and so on."""

    name: str
    who: str
    method: str
    micro_batch: int
    recomputes: bool
    in_fp32: bool
    keeps_adapter: bool  # in fp32, beside 4-bit weights
    in_8_bits: bool  # the optimizer
    autocasts: bool  # fp32 weights on a CPU
    is_whole: bool  # without shared prefixes
    is_padded: bool  # even if the layers take flat rows
    in_fp8: bool  # products of frozen layers
    is_launched: bool  # nothing is recorded

    @classmethod
    def parse(cls, name: str) -> "Way":
        """`unsloth-qlora-8x1-gc` -> who, method, 8, True."""
        who, method, *more = name.split("-")
        rows = next((part for part in more if part[0].isdigit() and "x" in part), "8x1")
        known = ("gc", "fp32", "fp32adapter", "8bit", "autocast", "whole", "padded", "fp8", "launched")
        if unknown := [part for part in more if part not in (*known, rows)]:
            raise SystemExit(f"--paths {name}: {unknown[0]!r} is not known; take {', '.join(known)}, or rows as 8x1")
        return cls(name, who, method, int(rows.split("x")[0]), *(flag in more for flag in known))


@dataclass(frozen=True)
class Plan:
    """What every path trains: the same model, rows, order and recipe."""

    model: str
    dtype: str
    optim: str
    rows_per_step: int
    steps: int
    warm_up: int
    stock_steps: int
    mu: float
    longest: int
    all_supervised: bool
    max_memory_gb: float | None
    profile: str | None
    recipe: str | None
    data: str | None


@dataclass(frozen=True)
class Measured:
    """One path once: tokens/s of the windows after the warm-up; peak memory used and held, GB; loss, norm per step."""

    windows: list[float]
    step_s: float
    peak_gb: float
    reserved_gb: float
    losses: list[float]
    grad_norms: list[float]
    flop_per_token: int
    attention_flop_per_token: int


def main() -> int:
    """Run every path, print the comparison; 0 if all agree with the stock path of their method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default="ours-lora,stock-lora-8x1-fp32,stock-lora-8x1")
    parser.add_argument(
        "--size", default="", help="0.5b, 1.5b, 7b or qwen3.5-0.8b: random weights; default: the embedded model"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/speed_train"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--optim", default="auto", help="optimizer of every path, as transformers names it")
    parser.add_argument("--rows_per_step", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm_up", type=int, default=3, help="steps left out of the timing")
    parser.add_argument(
        "--stock_steps", type=int, help="steps of the other paths, a quarter of them warm-up; default: as ours"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mu", type=float, default=5.9, help="log-normal lengths: 5.9 has a mean of about 490 tokens")
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--all_supervised", action="store_true", help="random rows have no prompt")
    parser.add_argument("--recipe", help="take adapter and prompt from this recipe")
    parser.add_argument("--data", help="take the training rows of this dataset instead of random tokens")
    parser.add_argument("--max_memory_gb", type=float, help="memory limit of our paths")
    parser.add_argument("--profile", help="write what the GPU did in one step of the first path into this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, plan = json.loads(options.worker)
        print(json.dumps(asdict(measure(Way.parse(name), Plan(**plan)))))
        return 0

    model = "embedded"
    if options.size:
        from benchmarks.random_models import make_apart

        make_apart(options.size, options.work)
        model = str(options.work)
    plan = Plan(
        **{"model": model} | {name: getattr(options, name) for name in Plan.__dataclass_fields__ if name != "model"}
    )
    found: dict[str, list[Measured]] = {Way.parse(name).name: [] for name in options.paths.split(",")}
    for repeat in range(options.repeats):
        for name, runs in found.items():
            runs.append(run_worker(name, plan))
            plan = replace(plan, profile=None)
            speed = statistics.median(runs[-1].windows)
            print(f"{repeat + 1}: {name:24} {speed:8,.0f} tok/s  {runs[-1].peak_gb:6.2f} GB", file=sys.stderr)
            result = compare(plan, {name: runs for name, runs in found.items() if runs})
            print(json.dumps(result), flush=True)  # after every path: a limit of time may end this before the last one
    return 0 if result["agree"] and not result["failed"] else 1


def run_worker(name: str, plan: Plan) -> Measured:
    """Run one path in a new process, because Unsloth patches the libraries."""
    command = [sys.executable, "-m", "benchmarks.speed_train", "--worker", json.dumps([name, asdict(plan)])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{name} ended with {done.returncode}", file=sys.stderr)
        return Measured([0.0], 0.0, 0.0, 0.0, [], [], 0, 0)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: Way, plan: Plan) -> Measured:
    """Train the steps and time those after the warm-up."""
    from sft.backend import TRANSFORMERS, UNSLOTH, choose_backend

    backend = choose_backend(UNSLOTH if path.who == "unsloth" else TRANSFORMERS)  # unsloth has to be imported first
    import torch
    from transformers import TrainerCallback

    from benchmarks.random_models import random_rows
    from benchmarks.recipe_rows import read_rows
    from benchmarks.stock import build_stock, profile_step
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.models.precision import decide_precision
    from sft.training.arguments import build_arguments
    from sft.training.log import peak_memory_gb
    from sft.training.memory import limit_memory
    from sft.training.processes import StepOrder

    num_rows = plan.steps * plan.rows_per_step  # all paths begin with the same steps
    if path.who != "ours" and plan.stock_steps:
        plan = replace(plan, steps=plan.stock_steps, warm_up=max(1, plan.stock_steps // 4))
    dtype = "fp32" if path.autocasts or path.in_fp32 else plan.dtype
    flags = ["--config", plan.recipe] if plan.recipe else ["--max_seq_length", str(plan.longest)]
    flags += ["--data", plan.data] if plan.data else []
    flags += ["--model", plan.model, "--method", path.method, "--dtype", dtype, "--neftune_noise_alpha", "0"]
    flags += ["--per_device_train_batch_size", str(plan.rows_per_step), "--gradient_accumulation_steps", "1"]
    flags += ["--max_steps", str(plan.steps), "--base_dtype", "fp8" if path.in_fp8 else "auto"]
    flags += ["--optim", "adamw_8bit" if path.in_8_bits else plan.optim]
    flags += ["--lr_scheduler_type", "constant"]  # so that paths of different lengths agree as far as they go
    if path.recomputes or path.who != "ours":
        flags.append("--gradient_checkpointing" if path.recomputes else "--no-gradient_checkpointing")
    settings = load_settings(TrainSettings, flags)
    rows = read_rows(settings, num_rows) if plan.data else random_rows(num_rows, mu=plan.mu, longest=plan.longest)
    if plan.all_supervised:
        rows = [replace(row, loss_mask=[1] * len(row.input_ids)) for row in rows]
    precision = decide_precision(dtype)
    args = build_arguments(settings, precision, Path("/tmp/speed_train_output"), num_steps=plan.steps, backend=backend)
    order = StepOrder([len(row.input_ids) for row in rows], plan.rows_per_step, seed=args.data_seed)
    in_order = [rows[place] for step in order for place in step]  # every path takes the same rows in the same step
    args.eval_strategy = args.save_strategy = "no"
    args.load_best_model_at_end = False
    ended: list[float] = []
    logged: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ended.append(time.monotonic())

        def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
            if "loss" in logs:
                logged.append(logs)

    if path.who == "ours":
        limit_memory(plan.max_memory_gb)
        trainer = build_ours(settings, backend, rows, args, pads=path.is_padded)
        trainer.shares_prefixes = trainer.shares_prefixes and not path.is_whole
        trainer.wants_replay = not path.is_launched
    else:
        args.train_sampling_strategy = "sequential"
        args.per_device_train_batch_size = path.micro_batch
        args.gradient_accumulation_steps = plan.rows_per_step // path.micro_batch
        if path.who == "stock":
            args.bf16 = path.autocasts or (precision.device != "cpu" and dtype != "fp32")
            args.mixed_precision = "bf16" if args.bf16 else "no"
            args.gradient_checkpointing = path.recomputes
        trainer = build_stock(settings, backend, in_order, args, keeps_adapter=path.keeps_adapter or path.in_fp32)
    trainer.add_callback(Clock())
    if plan.profile:
        profile_step(trainer, Path(plan.profile), at=plan.warm_up + 2)
    trainer.train()
    timed = [
        sum(len(row.input_ids) for row in in_order[i : i + plan.rows_per_step])
        for i in range(0, len(in_order), plan.rows_per_step)
    ]
    steps = range(plan.warm_up, plan.steps)
    size = max(1, len(steps) // WINDOWS)
    windows = [steps[i : i + size] for i in range(0, size * WINDOWS, size) if steps[i : i + size]]
    return Measured(
        windows=[
            round(sum(timed[step] for step in window) / (ended[window[-1]] - ended[window[0] - 1]), 1)
            for window in windows
        ],
        step_s=round((ended[-1] - ended[plan.warm_up - 1]) / len(steps), 4),
        peak_gb=round(peak_memory_gb(), 2),
        reserved_gb=round(torch.cuda.max_memory_reserved() / 2**30, 2) if torch.cuda.is_available() else 0.0,
        losses=[float(log["loss"]) for log in logged],
        grad_norms=[float(log["grad_norm"]) for log in logged],
        flop_per_token=flop_per_token(trainer.model, in_order),
        attention_flop_per_token=attention_flop_per_token(trainer.model, in_order),
    )


def flop_per_token(model, rows):  # type: ignore[no-untyped-def]
    """Operations of the weights per token: none of the embedding table, of the output layer where one is supervised.

    Attention's products are left out, and so is what a path computes in vain (padding, logits that no loss needs).
    """
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    body = model.num_parameters() - table.numel() - (0 if head is table else head.numel())
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad and w is not head and w is not table)
    supervised = sum(row.num_supervised for row in rows) / sum(len(row.input_ids) for row in rows)
    at_head = supervised * head.numel() * (TRAINED if head.requires_grad else FROZEN)
    return round(FROZEN * body + (TRAINED - FROZEN) * trained + at_head)


def attention_flop_per_token(model, rows):  # type: ignore[no-untyped-def]
    """Operations of attention's two products per token, forward and backward; a token attends to all before it."""
    config = model.config.get_text_config(decoder=True)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    pairs = sum(len(row.input_ids) ** 2 / 2 for row in rows) / sum(len(row.input_ids) for row in rows)
    return round(ATTENTION * pairs * width * config.num_hidden_layers)


def build_ours(settings, backend, rows, args, *, pads):  # type: ignore[no-untyped-def]
    """train.py's trainer, with its plan of memory. pads: rows, also where their layers take them end to end."""
    from sft.console import say
    from sft.models.capabilities import padded
    from sft.models.loading import load_for_training
    from sft.training.rehearsal import rehearsing
    from sft.training.trainer import RowTrainer

    loaded = load_for_training(settings, backend)
    if pads:
        loaded.__dict__["layers"] = padded("asked for")
    say(f"layers: {loaded.layers}")
    return RowTrainer(
        loaded,
        rows,
        rows[:1],
        args,
        recomputes=settings.gradient_checkpointing,
        replays=True,
        before_first_step=rehearsing(lambda rehearsal: say(rehearsal.report())),
    )


def compare(plan: Plan, found: dict[str, list[Measured]]) -> dict[str, object]:
    """Median speeds, ratios of our paths to each other one, and the largest differences of loss and norm."""
    rates = {name: statistics.median(rate for one in runs for rate in one.windows) for name, runs in found.items()}
    result: dict[str, object] = {
        "plan": asdict(plan),
        "agree": True,
        "failed": [name for name, runs in found.items() if not all(one.losses for one in runs)],
        "tokens_per_second": rates,
        "windows": {name: [rate for one in runs for rate in one.windows] for name, runs in found.items()},
        "step_s": {name: statistics.median(one.step_s for one in runs) for name, runs in found.items()},
        "peak_gb": {name: max(one.peak_gb for one in runs) for name, runs in found.items()},
        "reserved_gb": {name: max(one.reserved_gb for one in runs) for name, runs in found.items()},
        "losses": {name: [round(loss, 5) for loss in runs[0].losses[:30]] for name, runs in found.items()},
        "grad_norms": {name: runs[0].grad_norms[:30] for name, runs in found.items()},
        "tflops": {name: round(runs[0].flop_per_token * rates[name] / 1e12, 1) for name, runs in found.items()},
        "tflops_with_attention": {
            name: round((runs[0].flop_per_token + runs[0].attention_flop_per_token) * rates[name] / 1e12, 1)
            for name, runs in found.items()
        },
    }
    ours = [name for name in found if name.startswith("ours")]
    for name in ours:
        for other in (other for other in found if other not in ours and rates[other]):
            result[f"{name} / {other}"] = round(rates[name] / rates[other], 2)
    for name, (first, *_) in found.items():
        way = Way.parse(name)
        stock = [other for other in found if other.startswith(f"stock-{way.method}")]
        against = next((other for other in stock if "fp32" in other), next(iter(stock), None))
        if against in (None, name) or not first.losses or not found[against][0].losses:
            continue
        theirs = found[against][0]
        loss = _largest(abs(a - b) for a, b in zip(first.losses, theirs.losses, strict=False))
        norm = _largest(abs(a - b) / b for a, b in zip(first.grad_norms, theirs.grad_norms, strict=False))
        result[f"{name}, largest difference to {against}"] = {"loss": round(loss, 5), "norm": round(norm, 4)}
        most_loss, most_norm = TOLERANCES_IN_FP8 if way.in_fp8 else TOLERANCES
        is_off = loss > most_loss or norm > most_norm or min(first.grad_norms) <= 0
        if name in ours and "fp32" in against and is_off:
            result["agree"] = False
    return result


def _largest(differences: Iterable[float]) -> float:
    """The largest of them; infinity if one is not a number, which max would pass over."""
    return max(one if math.isfinite(one) else math.inf for one in differences)


if __name__ == "__main__":
    sys.exit(main())
