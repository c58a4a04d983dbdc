"""The flow of a training run: data -> tokens -> model -> steps -> run folder.

result = fit(settings, open_dataset(settings.data))    # outputs/<run>/ is complete when this returns
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import set_seed

from prompts import Fingerprint
from sft.backend import TRANSFORMERS
from sft.checkpoints import check_resumable, find_checkpoint, find_run_dir, newest_checkpoint, run_to_continue, step_of
from sft.config.train import TrainSettings
from sft.console import say
from sft.data import Dataset
from sft.encoding import EncodedRows, encode_rows
from sft.errors import DataError
from sft.metrics.loss import LARGEST_EXPONENT
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training, save_adapter
from sft.runs import TRAINING, Run, continue_command, git_revision, package_versions
from sft.training.arguments import build_arguments
from sft.training.log import LOG_FILE, PLOT_FILE, StepLog, peak_memory_gb, plot_losses
from sft.training.trainer import RowTrainer, as_dataset


@dataclass
class TrainResult:
    """What train.py prints: the run folder (None after a dry run) and its figures."""

    run_dir: Path | None
    metrics: dict[str, object]


@dataclass
class Prepared:
    """Everything there is before the first step."""

    loaded: LoadedModel
    dataset: Dataset
    train: EncodedRows
    validation: EncodedRows
    num_steps: int


def fit(settings: TrainSettings, dataset: Dataset, *, backend: str = TRANSFORMERS) -> TrainResult:
    """Train on the dataset as the settings say and leave a finished run folder.

    Raises UserErrors for what the user can mend; a loss that is not finite stops the run within the step. After Ctrl-C
    it says how to go on, and raises KeyboardInterrupt again.
    """
    run_dir = find_run_dir(settings)
    checkpoint = find_checkpoint(settings, run_dir)
    prepared = prepare(settings, dataset, backend)
    if settings.dry_run:
        return TrainResult(None, try_longest_batch(settings, prepared))
    run = start_run(settings, prepared, run_dir, before=run_to_continue(settings) if checkpoint else None)

    log = StepLog(run_dir / LOG_FILE, prepared.num_steps)
    trainer = build_trainer(settings, prepared, run.checkpoints_dir, log)
    started = time.monotonic()
    try:
        trainer.train_from(checkpoint, prepared.num_steps)
    except KeyboardInterrupt:
        num_saved = step_of(newest) if (newest := newest_checkpoint(run_dir)) else 0
        done = f"{trainer.state.global_step} of {prepared.num_steps} steps done, {num_saved} saved"
        say(f"{done}; go on with: {continue_command(run_dir)}")
        raise
    best_loss = trainer.state.best_metric
    run.adapter = save_adapter(prepared.loaded, run.adapter_dir, run.fingerprint)
    plot_losses(run_dir / LOG_FILE, run_dir / PLOT_FILE)
    metrics: dict[str, object] = {
        "steps": trainer.state.global_step,
        "eval_loss": best_loss,
        "perplexity": math.exp(min(best_loss, LARGEST_EXPONENT)) if best_loss is not None else None,
        "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name,
        "tokens_per_second": round(log.mean_tokens_per_second(), 1),
        "peak_gb": round(peak_memory_gb(), 2),
        "duration_s": round(time.monotonic() - started, 1),
    }
    run.finish(metrics)
    return TrainResult(run_dir, metrics)


def prepare(settings: TrainSettings, dataset: Dataset, backend: str) -> Prepared:
    """Rows, model and tokens; says what was kept and how many steps there will be."""
    if not dataset.train or not dataset.validation:
        counts = f"{len(dataset.train)} and {len(dataset.validation)}"
        raise DataError(f"{settings.data}: needs training and validation rows, has {counts}; give it more rows")
    set_seed(settings.seed)
    loaded = load_for_training(settings, backend)
    encoded = []
    for name, rows in (("train", dataset.train), ("validation", dataset.validation)):
        part = encode_rows(
            rows,
            loaded.chat,
            settings.system_prompt,
            max_length=settings.max_seq_length,
            supervise=settings.supervise,
            on_too_long=settings.on_too_long,
            head_share=settings.head_share,
        )
        say(f"{name}: {part.report()}")
        if not part.encoded:
            raise DataError(
                f"{settings.data}: no {name} row fits {settings.max_seq_length} tokens; raise --max_seq_length"
            )
        encoded.append(part)
    train, validation = encoded
    steps_per_epoch = math.ceil(
        math.ceil(len(train.encoded) / settings.per_device_train_batch_size) / settings.gradient_accumulation_steps
    )
    num_steps = settings.max_steps or math.ceil(steps_per_epoch * settings.num_train_epochs)
    return Prepared(loaded, dataset, train, validation, num_steps)


def build_trainer(settings: TrainSettings, prepared: Prepared, checkpoints_dir: Path, log: StepLog) -> RowTrainer:
    """The trainer over the prepared rows, narrated by `log`."""
    trainer = RowTrainer(
        prepared.loaded,
        prepared.train.encoded,
        prepared.validation.encoded,
        build_arguments(settings, prepared.loaded.precision, checkpoints_dir, num_steps=prepared.num_steps),
        train_names=[str(row["id"]) for row in prepared.train.rows],
        validation_names=[str(row["id"]) for row in prepared.validation.rows],
        neftune_noise_alpha=settings.neftune_noise_alpha,
        callbacks=[log],
    )
    log.trainer = trainer
    return trainer


def start_run(settings: TrainSettings, prepared: Prepared, run_dir: Path, *, before: Run | None) -> Run:
    """Create the run folder with its run.json, status "training"; `before` is the run it continues, and must match."""
    loaded = prepared.loaded
    tasks = sorted({str(row["task"]) for row in prepared.dataset.train})
    base = {"name": loaded.source.name, **loaded.source.identity()}
    if loaded.source.revision:
        base["revision"] = loaded.source.revision
    run = Run(
        path=run_dir,
        status=TRAINING,
        settings=settings.model_dump(mode="json"),
        origins=settings.origins,
        base=base,
        system_prompt=settings.system_prompt,
        fingerprint=Fingerprint.of(loaded.chat, settings.system_prompt, tasks, loaded.source.identity()),
        data={
            "path": str(prepared.dataset.path),
            "sha256": prepared.dataset.sha256,
            "split": prepared.dataset.split,
            "tasks": tasks,
            "train": prepared.train.counts(),
            "validation": prepared.validation.counts(),
        },
        backend=loaded.backend,
        versions=package_versions(),
        git_revision=git_revision(),
    )
    if before is not None:
        check_resumable(before, run, allow_mismatch=settings.allow_mismatch)
    run_dir.mkdir(parents=True, exist_ok=True)
    run.save()
    return run


def try_longest_batch(settings: TrainSettings, prepared: Prepared) -> dict[str, object]:
    """One optimiser step on the longest rows there are, then what a run would take; nothing is written."""
    import tempfile

    longest = sorted(prepared.train.encoded, key=lambda row: -len(row.input_ids))[
        : settings.per_device_train_batch_size
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = StepLog(Path(folder) / LOG_FILE, prepared.num_steps)
        trainer = build_trainer(settings, prepared, Path(folder), log)
        trainer.create_optimizer()
        trainer.model.train()
        durations = []
        for _ in range(2):  # the first one warms up
            began = time.monotonic()
            batch = trainer._prepare_inputs(trainer.data_collator(list(as_dataset(longest))))
            trainer.accelerator.backward(trainer.compute_loss(trainer.model, batch))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            durations.append(time.monotonic() - began)
        trainer.optimizer.step()
    num_tokens = sum(len(row.input_ids) for row in longest)
    epochs = prepared.num_steps * settings.rows_per_step / len(prepared.train.encoded)
    rate = num_tokens / durations[-1]
    report: dict[str, object] = {
        "steps": prepared.num_steps,
        "longest_batch_tokens": num_tokens,
        "tokens_per_second": round(rate, 1),
        "peak_gb": round(peak_memory_gb(), 2),
        "estimated_duration_s": round(prepared.train.num_tokens * epochs / rate),
    }
    return report
