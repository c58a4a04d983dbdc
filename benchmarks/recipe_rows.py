"""The training rows of a dataset as token ids, as train.py would make them: for benchmarks of real rows.

read_rows(load_settings(TrainSettings, ["--config", "recipes/demo.yaml"]), 240)
"""

import random

from prompts import Encoded
from sft.config.train import TrainSettings
from sft.data import open_dataset
from sft.encoding import encode_rows
from sft.models.loading import load_chat_format


def read_rows(settings: TrainSettings, count: int) -> list[Encoded]:
    """`count` training rows, drawn with a fixed seed."""
    dataset = open_dataset(
        settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed, on_bad_row=settings.on_bad_row
    )
    chat = load_chat_format(settings.model, think=settings.think)
    found = encode_rows(dataset.train, chat, settings.system_prompt, settings.rules).encoded
    if len(found) < count:
        raise SystemExit(f"{settings.data}: {len(found)} rows, {count} wanted; fewer --steps")
    return random.Random(0).sample(found, count)
