"""Everything there is before the first step: rows, model and tokens, and what the rows are learned by.

prepared = prepare(settings, open_dataset(settings.data), "transformers")      # says what was kept of the rows
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import set_seed

from prompts import ChatFormat, Head
from sft.config.train import TrainSettings
from sft.console import say
from sft.data import Dataset
from sft.data.canonical import Row
from sft.encoding import EncodedRows, encode_rows
from sft.errors import DataError
from sft.labels import choose_head, describe_sole_answer, find_sole_answer
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training
from sft.system_prompts import SystemPrompts, survey_system_prompts
from sft.training.classification import Classification
from sft.training.guard import check_kept
from sft.training.language_modelling import LanguageModelling
from sft.training.memory import limit_memory
from sft.training.objective import Objective
from sft.training.processes import world_size

FEW_STEPS = 50  # optimizer steps, below which an adapter has hardly left its base: warm-up and decay take a good part


@dataclass
class Prepared:
    """Everything there is before the first step."""

    loaded: LoadedModel
    objective: Objective[Any]
    dataset: Dataset
    train: EncodedRows
    validation: EncodedRows
    num_steps: int
    system_prompts: SystemPrompts


def prepare(settings: TrainSettings, dataset: Dataset, backend: str) -> Prepared:
    """Rows, model and tokens; says what was kept and how many steps there will be."""
    if not dataset.train or not dataset.validation:
        counts = f"{len(dataset.train)} and {len(dataset.validation)}"
        raise DataError(f"{settings.data}: needs training and validation rows, has {counts}; give it more rows")
    set_seed(settings.seed)
    limit_memory(settings.max_memory_gb)
    system_prompts = survey_system_prompts([*dataset.train, *dataset.validation], settings.system_prompt)
    if line := system_prompts.describe():
        say(line)
    head = choose_head(settings, dataset.train)
    loaded = load_for_training(settings, backend, head)
    encoded = []
    for name, rows in (("train", dataset.train), ("validation", dataset.validation)):
        part = encode_as_set(rows, loaded.chat, settings, head)
        say(f"{name}: {part.report()}")
        if name == "train" and part.encoded:
            check_kept(part.num_read - len(part.dropped), part.num_read, settings.max_dropped, part.report())
        if not part.encoded:
            raise DataError(
                f"{settings.data}: no {name} row fits {settings.max_seq_length} tokens; raise --max_seq_length"
            )
        encoded.append(part)
    train, validation = encoded
    steps_per_epoch = math.ceil(len(train.encoded) / (settings.rows_per_step * world_size()))
    num_steps = settings.max_steps or math.ceil(steps_per_epoch * settings.num_train_epochs)
    for doubt in list_doubts(settings, dataset, num_steps):
        say(f"WARNING {doubt}")
    if rare := [label for label, count in train.count_labels().items() if count == 0]:
        say(f"WARNING no training row has the label {', '.join(rare)}: the head cannot learn to say it")
    objective: Objective[Any] = Classification(loaded) if head else LanguageModelling(loaded)
    return Prepared(loaded, objective, dataset, train, validation, num_steps, system_prompts)


def list_doubts(settings: TrainSettings, dataset: Dataset, num_steps: int) -> list[str]:
    """What will make the weights or the figures of a run worth little, told before its first step."""
    doubts = []
    if num_steps < FEW_STEPS:
        doubts.append(
            f"only {num_steps} optimizer steps, and in fewer than about {FEW_STEPS} a model learns little: raise "
            "--num_train_epochs, or lower --gradient_accumulation_steps"
        )
    warmup = settings.warmup_steps if settings.warmup_steps >= 1 else settings.warmup_steps * num_steps
    if warmup >= num_steps:
        doubts.append(
            f"the warm-up takes {warmup:,.0f} steps and the run has {num_steps:,}, so the learning rate never reaches "
            f"{settings.learning_rate:g}: lower --warmup_steps"
        )
    for name, rows in (("training", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        if (answer := find_sole_answer(rows)) is not None:
            doubts.append(describe_sole_answer(answer, len(rows), name))
    return doubts


def encode_as_set(
    rows: Sequence[Row], chat: ChatFormat, settings: TrainSettings, head: Head | None = None
) -> EncodedRows:
    """Rows -> tokens, with the prompt, length and masks that the settings ask for."""
    return encode_rows(
        rows,
        chat,
        settings.system_prompt,
        max_length=settings.max_seq_length,
        supervise=settings.supervise,
        on_too_long=settings.on_too_long,
        head_share=settings.head_share,
        answer_room=settings.answer_room,
        head=head,
    )
