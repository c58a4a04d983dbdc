"""What safe checkpoints cost a run: ours (staged, sealed, flushed, renamed) against the stock trainer's.

    python benchmarks/checkpoint_cost.py --method full      # last line: {"stock_s": 0.97, "safe_s": 0.8, "ratio": 0.83}

Seconds that training waits per save, stock and safe in turn, each starting with nothing left to write to the disk. The
stock trainer never waits for the disk; ours writes to it during the next steps, and on_disk_s is how long that takes.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.tiny import write_rows


def main() -> None:
    """Save in turn, and compare the medians of the pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--method", default="lora", choices=["lora", "qlora", "freeze", "full"])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    from transformers import Trainer

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training.fit import build_trainer, prepare
    from sft.training.saving import CheckpointedTrainer

    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary)
        flags = ["--model", options.model, "--data", str(write_rows(folder / "rows.jsonl")), "--method", options.method]
        settings = load_settings(TrainSettings, [*flags, "--max_steps", "1", "--neftune_noise_alpha", "0"])
        dataset = open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed)
        trainer = build_trainer(settings, prepare(settings, dataset, "transformers"), folder / "checkpoints")
        trainer.train()
        saves = {"stock": Trainer._save_checkpoint, "safe": CheckpointedTrainer._save_checkpoint}
        times: dict[str, list[float]] = {name: [] for name in [*saves, "on_disk"]}
        size = 0
        for number in range(options.repeats + 1):
            for name, save in saves.items():
                trainer.finish_saving()
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                os.sync()
                trainer.state.global_step = number + 1
                trainer.state.best_global_step = None
                began = time.perf_counter()
                save(trainer, trainer.model, None)
                times[name].append(time.perf_counter() - began)
                if name == "safe":
                    trainer.finish_saving()
                    times["on_disk"].append(time.perf_counter() - began)
                size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    times = {name: values[1:] for name, values in times.items()}  # the first warms up
    ratios = [safe / stock for safe, stock in zip(times["safe"], times["stock"], strict=True)]
    print(
        json.dumps(
            {
                "method": options.method,
                "checkpoint_mb": round(size / 2**20, 1),
                **{f"{name}_s": round(statistics.median(values), 3) for name, values in times.items()},
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 2) for ratio in ratios],
            }
        )
    )


if __name__ == "__main__":
    main()
