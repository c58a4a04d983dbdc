"""Training speed: this project, the stock trainer and Unsloth on the same rows in the same order, losses step by step.

`stock` is TRL's SFTTrainer with its own collator. TRL 1.15 computes its loss in a Triton kernel, and the CPU build of
torch has no Triton: there it is transformers' Trainer, which TRL's was until then, with TRL's collator.

Each path trains in a process of its own, one after the other, --repeats times in turn; the median counts. Prints a
table on stderr and one JSON line last; exit code 1 where losses or gradient norms disagree.
    python -m benchmarks.speed_train                                          # a laptop: SmolLM2-135M, bf16
    python -m benchmarks.speed_train --size 7b --method qlora --paths ours,stock,unsloth --steps 30    # an NVIDIA GPU
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PATHS = ("ours", "stock", "stock_autocast", "unsloth")
OTHER_NUMBERS = ("stock_autocast",)  # fp32 weights: its losses are shown and not judged
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-2, 0.02


@dataclass
class Plan:
    """What every path trains: the same model, rows, order and recipe."""

    model: str
    method: str
    dtype: str
    rows_per_step: int
    micro_batch: int
    steps: int
    warm_up: int
    gradient_checkpointing: bool
    mu: float
    longest: int


@dataclass
class Measured:
    """One path once: tokens/s over the steps after the warm-up, peak memory in GB, loss and gradient norm a step."""

    path: str
    tokens_per_second: float
    step_s: float
    peak_gb: float
    losses: list[float]
    grad_norms: list[float]


def main() -> int:
    """Run every path, print the comparison; 0 where all agree with the first stock path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default="ours,stock", help=f"comma-separated, of {', '.join(PATHS)}")
    parser.add_argument("--size", default="", help="0.5b, 1.5b or 7b: random weights; default: the embedded model")
    parser.add_argument("--work", type=Path, default=Path("/tmp/speed_train"))
    parser.add_argument("--method", default="lora", choices=["lora", "qlora"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows_per_step", type=int, default=8)
    parser.add_argument(
        "--micro_batch", type=int, default=8, help="rows a forward pass of the stock paths; ours plans its own"
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm_up", type=int, default=2, help="steps left out of the timing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--mu", type=float, default=5.9, help="log-normal lengths: 5.9 has a mean of about 490 tokens")
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        path, plan = json.loads(options.worker)
        print(json.dumps(asdict(measure(path, Plan(**plan)))))
        return 0

    model = "embedded"
    if options.size:
        from benchmarks.random_models import make_random_model

        model = str(make_random_model(options.size, options.work / options.size))
    fields = {name: getattr(options, name) for name in Plan.__dataclass_fields__ if name != "model"}
    plan = Plan(model=model, **fields)
    found: dict[str, list[Measured]] = {path: [] for path in options.paths.split(",")}
    for repeat in range(options.repeats):
        for path in found:
            found[path].append(run_worker(path, plan))
            print(f"{repeat + 1}: {path:12} {found[path][-1].tokens_per_second:8,.0f} tok/s", file=sys.stderr)
    result = compare(plan, found)
    print(json.dumps(result))
    return 0 if result["agree"] else 1


def run_worker(path: str, plan: Plan) -> Measured:
    """One path in a process of its own: Unsloth changes what it is imported beside."""
    command = [sys.executable, "-m", "benchmarks.speed_train", "--worker", json.dumps([path, asdict(plan)])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{path} ended with {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: str, plan: Plan) -> Measured:
    """Train `plan.steps` steps and time those after the warm-up."""
    from sft.backend import TRANSFORMERS, UNSLOTH, choose_backend

    backend = choose_backend(UNSLOTH if path == "unsloth" else TRANSFORMERS)  # unsloth has to be imported first
    import torch
    from transformers import Trainer, TrainerCallback
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from benchmarks.random_models import random_rows
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.models.loading import load_for_training
    from sft.training.arguments import build_arguments
    from sft.training.language_modelling import as_dataset
    from sft.training.log import peak_memory_gb
    from sft.training.order import StepOrder
    from sft.training.trainer import RowTrainer

    flags = ["--model", plan.model, "--method", plan.method, "--dtype", plan.dtype, "--neftune_noise_alpha", "0"]
    flags += ["--per_device_train_batch_size", str(plan.rows_per_step), "--gradient_accumulation_steps", "1"]
    flags += ["--max_steps", str(plan.steps), "--max_seq_length", "2048"]
    flags += ["--gradient_checkpointing"] if plan.gradient_checkpointing else ["--no-gradient_checkpointing"]
    settings = load_settings(TrainSettings, flags)
    loaded = load_for_training(settings, backend)
    rows = random_rows(plan.steps * plan.rows_per_step, mu=plan.mu, longest=plan.longest)
    args = build_arguments(settings, loaded.precision, Path("/tmp/speed_train_output"), num_steps=plan.steps)
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

    if path in ("ours", "unsloth"):
        trainer = RowTrainer(loaded, rows, rows[:1], args, callbacks=[Clock()])
    else:
        if path == "stock_autocast":
            loaded.model.float()
            args.bf16 = True
        args.train_sampling_strategy = "sequential"
        args.per_device_train_batch_size = plan.micro_batch
        args.gradient_accumulation_steps = plan.rows_per_step // plan.micro_batch
        stock = {
            "model": loaded.model,
            "args": args,
            "processing_class": loaded.tokenizer,
            "train_dataset": as_dataset(in_order),
            "callbacks": [Clock()],
        }
        if torch.cuda.is_available():
            trainer = SFTTrainer(**stock)
        else:
            trainer = Trainer(**stock, data_collator=DataCollatorForLanguageModeling(loaded.chat.pad_id))
    trainer.train()
    timed = in_order[plan.warm_up * plan.rows_per_step :]
    duration = ended[-1] - ended[plan.warm_up - 1]
    return Measured(
        path,
        tokens_per_second=round(sum(len(row.input_ids) for row in timed) / duration, 1),
        step_s=round(duration / (plan.steps - plan.warm_up), 4),
        peak_gb=round(peak_memory_gb(), 2),
        losses=[float(log["loss"]) for log in logged],
        grad_norms=[float(log["grad_norm"]) for log in logged],
    )


def compare(plan: Plan, found: dict[str, list[Measured]]) -> dict[str, object]:
    """Median speeds, ratios of the first path to each other one, and the largest differences of loss and norm."""
    first = next(iter(found))
    rates = {path: statistics.median(one.tokens_per_second for one in runs) for path, runs in found.items()}
    ours = found[first][0]
    result: dict[str, object] = {"plan": asdict(plan), "agree": True, "tokens_per_second": rates}
    result["peak_gb"] = {path: runs[0].peak_gb for path, runs in found.items()}
    result["all_runs"] = {path: [one.tokens_per_second for one in runs] for path, runs in found.items()}
    for path, (theirs, *_) in found.items():
        if path == first:
            continue
        loss = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
        norm = max(abs(a - b) / b for a, b in zip(ours.grad_norms, theirs.grad_norms, strict=True))
        result[f"{first}_to_{path}"] = round(rates[first] / rates[path], 2)
        result[f"largest_loss_difference_to_{path}"] = round(loss, 5)
        result[f"largest_norm_difference_to_{path}"] = round(norm, 4)
        if path in OTHER_NUMBERS:
            continue
        if loss > LOSS_TOLERANCE or norm > NORM_TOLERANCE or min(ours.grad_norms) <= 0:
            result["agree"] = False
    return result


if __name__ == "__main__":
    sys.exit(main())
