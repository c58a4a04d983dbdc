"""Every method on both backends: what is trained, how fast, in how much memory, and whether the loss goes down.

Each backend runs its methods in its own process, one after the other, on random weights and the same rows in the same
order. Prints a table on stderr and one JSON line last; exit code 1 if a method failed.
    python -m benchmarks.methods --size 0.5b                     # an NVIDIA GPU
    python -m benchmarks.methods --backends transformers         # a laptop: SmolLM2-135M
"""

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from pathlib import Path

METHODS = {
    "lora": ["--method", "lora"],
    "qlora": ["--method", "qlora"],
    "qlora, recomputed": ["--method", "qlora", "--gradient_checkpointing"],
    "qlora, fp16": ["--method", "qlora", "--dtype", "fp16"],
    "rslora": ["--method", "lora", "--use_rslora"],
    "dora": ["--method", "lora", "--use_dora"],
    "lora, whole embeddings": ["--method", "lora", "--modules_to_save", "embed_tokens,lm_head"],
    "lora, dropout 0.1": ["--method", "lora", "--lora_dropout", "0.1"],
    "freeze": ["--method", "freeze", "--freeze_trainable_layers", "6", "--learning_rate", "2e-5"],
    "full": ["--method", "full", "--learning_rate", "2e-5"],
}
OF_UNSLOTH = ("lora", "qlora", "qlora, recomputed", "rslora", "lora, dropout 0.1")
ROWS_PER_STEP = 8


def main() -> int:
    """Run the backends; 0 if every method ended with a finite loss and gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="", help="0.5b, 1.5b or 7b: random weights; default: the embedded model")
    parser.add_argument("--backends", default="transformers,unsloth")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("/tmp/methods"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = "embedded"
    if options.size:
        from benchmarks.random_models import make_apart

        model = str(make_apart(options.size, options.work / options.size))
    if options.worker:
        print(json.dumps(run_methods(options.worker, model, options.steps)))
        return 0
    found = {}
    for backend in options.backends.split(","):
        command = [sys.executable, "-m", "benchmarks.methods", *sys.argv[1:], "--worker", backend]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found[backend] = (
            json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"all": {"error": "ended"}}
        )
    print(json.dumps(found))
    return int(any("error" in one for methods in found.values() for one in methods.values()))


def run_methods(backend: str, model: str, steps: int) -> dict[str, dict[str, object]]:
    """Train a few steps with every method that the backend supports; an error is recorded as a result."""
    from sft.backend import UNSLOTH, choose_backend

    choose_backend(backend)  # unsloth has to be imported first
    found = {}
    for name in OF_UNSLOTH if backend == UNSLOTH else METHODS:
        try:
            found[name] = train(backend, model, METHODS[name], steps)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        print(f"{backend:12} {name:24} {json.dumps(found[name])}", file=sys.stderr)
        gc.collect()
    return found


def train(backend: str, model: str, flags: list[str], steps: int) -> dict[str, object]:
    """Tokens/s after the first half, peak memory, first and last loss, and the share of weights that are trained."""
    import torch

    from benchmarks.random_models import random_rows
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.models.loading import load_for_training
    from sft.training.arguments import build_arguments
    from sft.training.log import peak_memory_gb
    from sft.training.trainer import RowTrainer

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    common = ["--model", model, "--max_steps", str(steps), "--neftune_noise_alpha", "0", "--warmup_steps", "0"]
    common += ["--per_device_train_batch_size", str(ROWS_PER_STEP), "--gradient_accumulation_steps", "1"]
    settings = load_settings(TrainSettings, [*common, *flags])
    loaded = load_for_training(settings, backend)
    rows = random_rows(steps * ROWS_PER_STEP, mu=5.0, longest=1024)
    args = build_arguments(settings, loaded.precision, Path("/tmp/methods_output"), num_steps=steps, backend=backend)
    args.eval_strategy = args.save_strategy = "no"
    args.load_best_model_at_end = False
    trainer = RowTrainer(loaded, rows, rows[:1], args, recomputes=settings.gradient_checkpointing)
    ended: list[tuple[float, int]] = []
    step = trainer.training_step

    def timed(*given: object, **more: object) -> torch.Tensor:
        loss = step(*given, **more)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ended.append((time.monotonic(), trainer.num_tokens_seen))
        return loss

    trainer.training_step = timed
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    if not all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines):
        raise RuntimeError("a loss that is not finite, or no gradient")
    trained = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    (began, before), (end, after) = ended[len(ended) // 2], ended[-1]
    return {
        "tokens_per_second": round((after - before) / (end - began)),
        "peak_gb": round(peak_memory_gb(), 2),
        "first_loss": round(lines[0]["loss"], 4),
        "last_loss": round(lines[-1]["loss"], 4),
        "trained_weights": trained,
    }


if __name__ == "__main__":
    sys.exit(main())
