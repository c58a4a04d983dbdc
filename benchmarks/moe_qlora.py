"""QLoRA of a mixture of experts with the experts in 4 bits: memory, seconds per step, and losses.

Random weights in the geometry of Qwen3-30B-A3B are made on the device layer by layer and packed at once, so that at
most one layer is in 16 bits at a time; the steps are train.py's. Prints a JSON line; exit code 1 if a loss is not
finite, a gradient is missing, or experts take more than 4 bits.

    python -m benchmarks.moe_qlora                                       # an H200: 20 steps of 8 rows
    python -m benchmarks.moe_qlora --size tiny --steps 4 --longest 128   # a laptop
"""

import argparse
import json
import math
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

GEOMETRY: dict[str, dict[str, int]] = {
    "30b-a3b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 512,
    },
}


def main() -> int:
    """Build, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="30b-a3b", choices=list(GEOMETRY))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows_per_step", type=int, default=8)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--lora_r", type=int, default=16)
    parser.add_argument("--target_modules", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max_memory_gb", type=float)
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result))
    is_right = all(map(math.isfinite, result["losses"])) and not result["without_gradient"] and result["experts_packed"]
    return 0 if is_right else 1


def build_packed(size: str, precision):  # type: ignore[no-untyped-def]
    """A model of random weights on its device, all linear layers of its decoder and all experts in NF4."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    from sft.kernels import decode_attention
    from sft.kernels.experts import is_grouped, pack, use_packed_experts
    from sft.kernels.fuse import fuse_kernels

    config = Qwen3MoeConfig(
        **GEOMETRY[size], max_position_embeddings=32768, tie_word_embeddings=False, rope_theta=1e6, rms_norm_eps=1e-6
    )
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 2, 0, None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=precision.dtype, attn_implementation=decode_attention.NAME, trust_remote_code=False
        )
    rotary = type(model.model.rotary_emb)
    with torch.device(precision.device):
        model.model.rotary_emb = rotary(config)
    for path, module in list(model.named_modules()):
        own = list(module.named_parameters(recurse=False))
        if not own:
            continue
        made = {}
        for name, weight in own:
            values = torch.empty(weight.shape, dtype=precision.dtype, device=precision.device)
            made[name] = values.fill_(1.0) if values.dim() == 1 else values.normal_(0, 0.02)
        if isinstance(module, torch.nn.Linear) and path.startswith("model.layers."):
            packed = Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=precision.dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            packed.weight = pack(made["weight"])
            packed.weight.module = packed
            packed.quant_state = packed.weight.quant_state
            packed.support_avx512bf16_for_cpu = False
            model.set_submodule(path, packed)
            continue
        for name, values in made.items():
            weight = pack(values) if is_grouped(module) else torch.nn.Parameter(values, requires_grad=False)
            setattr(module, name, weight)
    model.is_loaded_in_4bit = True
    use_packed_experts(model)
    fuse_kernels(model)
    return model


def measure(options: argparse.Namespace) -> dict:  # type: ignore[type-arg]
    """Train with train.py's steps on rows of random tokens."""
    import torch
    from transformers import TrainerCallback

    from benchmarks.random_models import make_random_tokenizer, random_rows
    from prompts import ChatFormat
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.console import say
    from sft.kernels.experts import is_packed
    from sft.models.loaded import LoadedModel
    from sft.models.loading import load_tokenizer
    from sft.models.methods import apply_method, describe_trainable
    from sft.models.precision import decide_precision
    from sft.models.source import ModelSource
    from sft.training.arguments import build_arguments
    from sft.training.log import peak_memory_gb
    from sft.training.memory import limit_memory
    from sft.training.rehearsal import rehearsing
    from sft.training.trainer import RowTrainer

    flags = [
        "--method",
        "qlora",
        "--neftune_noise_alpha",
        "0",
        "--max_steps",
        str(options.steps),
        "--dtype",
        options.dtype,
    ]
    flags += ["--per_device_train_batch_size", str(options.rows_per_step), "--gradient_accumulation_steps", "1"]
    flags += ["--lora_r", str(options.lora_r), "--target_modules", options.target_modules, "--learning_rate", "1e-3"]
    settings = load_settings(TrainSettings, flags)
    precision = decide_precision(options.dtype)
    limit_memory(options.max_memory_gb)
    torch.manual_seed(0)
    started = time.monotonic()
    model = build_packed(options.size, precision)
    built_s = time.monotonic() - started
    on_gpu = torch.cuda.is_available()
    weights_gb = torch.cuda.memory_allocated() / 2**30 if on_gpu else 0.0
    packed = [is_packed(weight) for name, weight in model.named_parameters() if ".experts." in name]
    num_weights = model.num_parameters()
    model = apply_method(model, settings)
    told = describe_trainable(model)
    say(told)
    logged: list[dict[str, float]] = []
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        make_random_tokenizer().save_pretrained(folder)
        tokenizer = load_tokenizer(Path(folder))
        source = ModelSource(f"random {options.size}", Path(folder))
        loaded = LoadedModel(model, tokenizer, ChatFormat.from_tokenizer(tokenizer), source, precision)
        rows = random_rows(options.steps * options.rows_per_step, longest=options.longest)
        args = build_arguments(
            settings, precision, Path(folder) / "out", num_steps=options.steps, backend="transformers"
        )
        args.eval_strategy = args.save_strategy = "no"
        args.load_best_model_at_end = False
        trainer = RowTrainer(
            loaded, rows, rows[:1], args, replays=False, before_first_step=rehearsing(lambda found: say(found.report()))
        )

        class Clock(TrainerCallback):
            def on_step_end(self, *_: object, **__: object) -> None:
                if on_gpu:
                    torch.cuda.synchronize()
                ended.append(time.monotonic())

            def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
                if "loss" in logs:
                    logged.append(logs)

        trainer.add_callback(Clock())
        trainer.train()
    untouched = [name for name, weight in model.named_parameters() if "lora_B" in name and not weight.any()]
    spans = [after - before for before, after in pairwise(ended)]
    return {
        "size": options.size,
        "num_weights": num_weights,
        "trains": told,
        "experts_packed": bool(packed) and all(packed),
        "without_gradient": untouched,
        "build_s": round(built_s, 1),
        "weights_gb": round(weights_gb, 2),
        "peak_gb": round(peak_memory_gb(), 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 2**30, 2) if on_gpu else 0.0,
        "step_s": round(sorted(spans)[len(spans) // 2], 3),
        "tokens_per_step": round(sum(len(row.input_ids) for row in rows) / options.steps),
        "losses": [round(float(log["loss"]), 4) for log in logged],
        "grad_norms": [round(float(log["grad_norm"]), 4) for log in logged],
    }


if __name__ == "__main__":
    sys.exit(main())
