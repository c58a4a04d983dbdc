"""The flow of a training run: data -> tokens -> model -> steps -> run folder.

    result = fit(settings, open_dataset(settings.data))    # outputs/<run>/ is complete when this returns

`prepare` makes everything that the first step needs (rows, model, tokens, objective) and prints how many rows were
kept.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from prompts import Fingerprint
from prompts.tasks import get_task
from sft.backend import TRANSFORMERS, is_launched_sharded
from sft.config.train import TrainSettings
from sft.console import say
from sft.console.narration import show_path
from sft.data import Dataset
from sft.data.dataset import SPLIT_RULE
from sft.data.rows.reading import described_tasks
from sft.encoding import EncodedRows, encode_rows
from sft.errors import ConfigError, DataError
from sft.files import told_when_full
from sft.metrics.loss import LARGEST_EXPONENT
from sft.models.adopted import describe_lineage
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training, save_tuned
from sft.models.source import hash_files
from sft.runs.checkpoints import (
    check_resumable,
    claimed_run_dir,
    find_checkpoint,
    has_nothing_left,
    newest_checkpoint,
    prune_checkpoints,
    run_to_continue,
    step_of,
)
from sft.runs.labels import choose_head, describe_head, describe_sole_answer, find_sole_answer
from sft.runs.run import TRAINING, Run, continue_command, git_revision, package_versions
from sft.runs.system_prompts import SystemPrompts, survey_system_prompts
from sft.training.arguments import (
    EarlyStopping,
    StopRequest,
    StopWhenAsked,
    build_arguments,
    choose_epochs,
    is_greater_better,
    stop_on_signals,
)
from sft.training.guard import check_kept
from sft.training.log import (
    LOG_FILE,
    PLOT_FILE,
    SAMPLES_FILE,
    SampleLog,
    StepLog,
    check_trackers,
    mend_trackers,
    peak_memory_gb,
    plot_losses,
)
from sft.training.memory import limit_memory
from sft.training.objective import Classification, LabelMeasure, LanguageModelling, Objective, TokenAccuracy
from sft.training.processes import (
    check_settings,
    describe_hardware,
    from_first,
    is_first,
    join,
    pack_rows,
    tell_of_copies,
    world_size,
)
from sft.training.rehearsal import Rehearsal, rehearsing
from sft.training.replay import records_unasked
from sft.training.trainer import Measure, RowTrainer

SHOWN_OF_REHEARSAL = (
    "micro_batch_tokens", "micro_batches_per_step", "longest_batch_tokens", "recomputed_layers", "unpacks", "host_gb",
    "tokens_per_second", "peak_gb", "step_s", "estimated_duration_s",
)  # fmt: skip
FEW_STEPS = 50  # optimizer steps, below which an adapter has hardly left its base: warm-up and decay take a good part
MEASURED_LABELS = (
    1000  # validation rows whose label accuracy is reported: to about 3 points, in a third of a step\'s time a token
)


@dataclass
class TrainResult:
    """What train.py prints: the run folder (None after a dry run) and its figures."""

    run_dir: Path | None
    metrics: dict[str, object]


def fit(settings: TrainSettings, dataset: Dataset, *, backend: str = TRANSFORMERS) -> TrainResult:
    """Train on the dataset as the settings say and leave a finished run folder.

    Raises a UserError for anything the user can fix; a loss that is not finite stops the run within the step. Ctrl-C or
    SIGTERM saves after the step, says how to continue, and raises KeyboardInterrupt.
    """
    with stop_on_signals() as stop, ExitStack() as claimed:
        check_settings(settings)
        check_trackers(settings.report_to)
        join(on_cpu=not torch.cuda.is_available())
        run_dir = from_first(lambda: claimed.enter_context(claimed_run_dir(settings)))
        checkpoint = from_first(lambda: find_checkpoint(settings, run_dir))
        prepared = prepare(settings, dataset, backend)
        settings = settings.model_copy(
            update={"num_train_epochs": prepared.num_epochs}
        )  # run.json records the chosen number
        if settings.dry_run:
            return TrainResult(None, rehearse_only(settings, prepared))
        before = run_to_continue(settings) if checkpoint else None
        run = describe_run(settings, prepared, run_dir, before)
        if before is not None:
            check_resumable(before, run, allow_mismatch=settings.allow_mismatch)
            if has_nothing_left(before, run, prepared.num_steps):
                say(f"{run_dir} is complete and has no step left to make; give it more with --max_steps")
                return TrainResult(run_dir, before.metrics)
        if checkpoint is not None:
            say(f"resumes after step {step_of(checkpoint)} of {prepared.num_steps}: {show_path(checkpoint)}")
        with told_when_full(run_dir, continue_command(run_dir)):
            return train_and_finish(settings, prepared, run, checkpoint, stop)


@dataclass
class Prepared:
    """Everything there is before the first step."""

    loaded: LoadedModel
    objective: Objective[Any]
    dataset: Dataset
    train: EncodedRows
    validation: EncodedRows
    packs: list[list[int]]  # training rows that count as one row of a step
    num_epochs: float
    num_steps: int
    system_prompts: SystemPrompts


def prepare(settings: TrainSettings, dataset: Dataset, backend: str) -> Prepared:
    """Load the model and encode the rows; prints how many rows were kept, and warnings."""
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
        part = encode_rows(rows, loaded.chat, settings.system_prompt, settings.rules, head)
        say(f"{name}: {part.report()}")
        if name == "train" and part.encoded:
            check_kept(part.num_read - len(part.dropped), part.num_read, settings.max_dropped, part.report())
        if not part.encoded:
            raise DataError(
                f"{settings.data}: no {name} row fits {settings.max_seq_length} tokens; raise --max_seq_length"
            )
        encoded.append(part)
    train, validation = encoded
    longest = max(len(row.input_ids) for row in (*train.encoded, *validation.encoded))
    if longest > loaded.max_context:
        say(
            f"WARNING the longest row has {longest:,} tokens, and {loaded.source.name} was built for "
            f"{loaded.max_context:,}: --rope_scaling yarn lets it read them, --max_seq_length {loaded.max_context} cuts"
        )
    packs = pack_documents(train, settings)
    rows_per_step = settings.rows_per_step * world_size()
    num_epochs = settings.num_train_epochs or choose_epochs(len(packs), rows_per_step)
    num_steps = settings.max_steps or math.ceil(math.ceil(len(packs) / rows_per_step) * num_epochs)
    for doubt in list_doubts(settings, dataset, num_steps):
        say(f"WARNING {doubt}")
    if rare := [label for label, count in train.count_labels().items() if count == 0]:
        say(f"WARNING no training row has the label {', '.join(rare)}: the head cannot learn it")
    objective: Objective[Any] = Classification(loaded) if head else LanguageModelling(loaded)
    return Prepared(loaded, objective, dataset, train, validation, packs, num_epochs, num_steps, system_prompts)


def pack_documents(rows: EncodedRows, settings: TrainSettings) -> list[list[int]]:
    """The rows of a step: documents are packed to max_seq_length, other rows are single. Prints the number of packs."""
    is_document = [get_task(row["task"]).kind == "document" for row in rows.rows]
    packs = pack_rows([len(row.input_ids) for row in rows.encoded], is_document, settings.max_seq_length)
    if count := sum(is_document):
        say(
            f"{count:,} documents or windows packed into {len(packs) - len(is_document) + count:,} rows of at most "
            f"{settings.max_seq_length:,} tokens; none of them sees another"
        )
    return packs


def list_doubts(settings: TrainSettings, dataset: Dataset, num_steps: int) -> list[str]:
    """Problems that would make a run's weights or figures useless, reported before step 1."""
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
    if settings.neftune_noise_alpha and any(get_task(row["task"]).kind == "document" for row in dataset.train):
        doubts.append("NEFTune's noise is made for answers to instructions; for documents pass --neftune_noise_alpha 0")
    for name, rows in (("training", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        if (answer := find_sole_answer(rows)) is not None:
            doubts.append(describe_sole_answer(answer, len(rows), name))
    return doubts


def train_and_finish(
    settings: TrainSettings, prepared: Prepared, run: Run, checkpoint: Path | None, stop: StopRequest
) -> TrainResult:
    """All steps, then the best weights, the plot and the figures: the run is complete."""
    log = StepLog(run.path / LOG_FILE, prepared.num_steps)
    callbacks = [log, *choose_callbacks(settings, prepared, run.path, stop)]
    trainer = build_trainer(settings, prepared, run.checkpoints_dir, callbacks, tell_plan)
    log.trainer = trainer
    started = time.monotonic()
    if is_first():
        run.save()
    try:
        trainer.train_from(checkpoint, prepared.num_steps)
    except KeyboardInterrupt:
        if not stop.is_urgent:
            trainer.finish_saving()
        num_saved = step_of(newest) if (newest := newest_checkpoint(run.path)) else 0
        done = f"{trainer.state.global_step} of {prepared.num_steps} steps done, {num_saved} saved"
        say(f"{done}; resume with: {continue_command(run.path)}")
        raise
    stop.is_saving = False  # from here on a signal ends the command at once; the checkpoints hold everything
    weights = trainer.gather_weights() if trainer.is_sharded else None
    figures = best_figures(trainer.state.log_history, trainer.state.best_global_step)
    if figures and not settings.is_classifier:
        figures["perplexity"] = math.exp(min(figures["eval_loss"], LARGEST_EXPONENT))
    metrics: dict[str, object] = {
        "steps": trainer.state.global_step,
        **figures,
        "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name,
        "tokens_per_second": round(log.mean_tokens_per_second() * world_size(), 1),
        "peak_gb": round(peak_memory_gb(), 2),
        "duration_s": round(time.monotonic() - started, 1),
    }
    if is_first():
        run.adapter = save_tuned(prepared.loaded, run.weights_dir, run.fingerprint, weights=weights)
        run.files = hash_files(run.weights_dir)
        plot_losses(run.path / LOG_FILE, run.path / PLOT_FILE, prepared.objective.loss_unit)
        run.finish(metrics)
        prune_checkpoints(
            run.checkpoints_dir, limit=settings.save_total_limit, best=trainer.best_checkpoint, is_complete=True
        )
    return TrainResult(run.path, metrics)


def choose_callbacks(
    settings: TrainSettings, prepared: Prepared, run_dir: Path, stop: StopRequest
) -> list[TrainerCallback]:
    """What the settings add to a trainer: samples, early stopping, and the end on request, which comes last."""
    callbacks: list[TrainerCallback] = []
    asked = [place for place, row in enumerate(prepared.validation.rows) if get_task(row["task"]).kind != "document"]
    if chosen := asked[: settings.num_sample_predictions]:
        rows = [prepared.validation.encoded[place] for place in chosen]
        names = [str(prepared.validation.rows[place]["id"]) for place in chosen]
        callbacks.append(SampleLog(prepared.objective.answer, rows, names, run_dir / SAMPLES_FILE))
    if settings.early_stopping_patience:
        metric = settings.metric_for_best_model
        callbacks.append(
            EarlyStopping(
                metric,
                settings.early_stopping_patience,
                settings.early_stopping_threshold,
                greater_is_better=is_greater_better(metric),
            )
        )
    return [*callbacks, StopWhenAsked(stop)]


def tell_plan(rehearsal: Rehearsal) -> None:
    """Plan, peak and time, before step 1."""
    say(rehearsal.report())


def best_figures(history: Sequence[dict[str, float]], step: int | None) -> dict[str, float]:
    """The validation of the best step, whichever figure chose it; of the last one if none was chosen.

    {"eval_loss": 0.31, "eval_macro_f1": 0.92}
    """
    validations = {int(line["step"]): line for line in history if "eval_loss" in line}
    found = validations.get(step or max(validations, default=0), {})
    return {name: value for name, value in found.items() if name.startswith("eval_")}


def build_trainer(
    settings: TrainSettings,
    prepared: Prepared,
    checkpoints_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    on_rehearsed: Callable[[Rehearsal], None] | None = None,
) -> RowTrainer:
    """The trainer over the prepared rows."""
    loaded, by_label = prepared.loaded, choose_label_measure(settings, prepared)
    trainer = RowTrainer(
        loaded,
        prepared.train.encoded,
        prepared.validation.encoded,
        build_arguments(
            settings, loaded.precision, checkpoints_dir, num_steps=prepared.num_steps, backend=loaded.backend
        ),
        objective=prepared.objective,
        packs=prepared.packs,
        micro_batch_tokens=settings.micro_batch_tokens,
        recomputes=settings.gradient_checkpointing,
        offloads=settings.activation_offloading,
        replays=records_unasked(prepared.num_steps, settings.has_adapter)
        if settings.cuda_graphs is None
        else settings.cuda_graphs,
        train_names=[str(row["id"]) for row in prepared.train.rows],
        validation_names=[str(row["id"]) for row in prepared.validation.rows],
        neftune_noise_alpha=settings.neftune_noise_alpha,
        measures=choose_measures(settings, prepared, by_label),
        callbacks=callbacks,
        before_first_step=rehearsing(on_rehearsed) if on_rehearsed else None,
    )
    check_metric(settings.metric_for_best_model, trainer)
    tell_of_copies(is_sharded=trainer.is_sharded)
    mend_trackers(trainer.callback_handler.callbacks)
    for callback in callbacks:
        if isinstance(callback, SampleLog):
            callback.trackers = trainer.callback_handler.callbacks
    return trainer


def choose_measures(settings: TrainSettings, prepared: Prepared, by_label: LabelMeasure | None) -> list[Measure]:
    """Metrics of every validation besides the objective's own."""
    measures: list[Measure] = [by_label] if by_label else []
    is_asked = settings.compute_accuracy or settings.metric_for_best_model in TokenAccuracy.figures
    if is_asked and not settings.is_classifier:
        measures.append(TokenAccuracy(prepared.validation))
    return measures


def choose_label_measure(settings: TrainSettings, prepared: Prepared) -> LabelMeasure | None:
    """Accuracy of label rows of the validation set, at most MEASURED_LABELS unless it chooses the best checkpoint.

    None if there is no such row. With sharded weights only on request, because every process then computes all rows.
    """
    is_asked = settings.metric_for_best_model in LabelMeasure.figures
    if settings.is_classifier or (is_launched_sharded() and not is_asked):
        return None
    return LabelMeasure(prepared.validation, None if is_asked else MEASURED_LABELS) or None


def check_metric(name: str, trainer: RowTrainer) -> None:
    """Raises ConfigError for a figure to choose the best by that no validation will report."""
    reported = [f"eval_{figure}" for figure in trainer.objective.figures]
    reported += [figure for measure in trainer.measures for figure in getattr(measure, "figures", ())]
    reported = list(dict.fromkeys(reported))
    if name not in reported:
        raise ConfigError(
            f"metric_for_best_model: no validation of this run reports {name!r}; take {', '.join(reported)}"
        )


def describe_run(settings: TrainSettings, prepared: Prepared, run_dir: Path, before: Run | None) -> Run:
    """The run as its run.json will have it from the first step on, status "training"; before: what it continues."""
    loaded = prepared.loaded
    tasks = sorted({str(row["task"]) for row in prepared.dataset.train})
    base = {"name": loaded.source.name, **loaded.source.identity()}
    if loaded.source.revision:
        base["revision"] = loaded.source.revision
    system_prompt = prepared.system_prompts.chosen
    if before is not None and before.settings.get("system_prompt") == settings.system_prompt:
        system_prompt = before.system_prompt  # runs of earlier versions did not take that of their rows
    return Run(
        path=run_dir,
        status=TRAINING,
        settings=settings.model_dump(mode="json"),
        origins=settings.origins,
        base=base,
        system_prompt=system_prompt,
        fingerprint=Fingerprint.of(loaded.chat, system_prompt, tasks, loaded.source.identity(), loaded.head),
        data={
            "path": str(prepared.dataset.path),
            "sha256": prepared.dataset.sha256,
            "split": prepared.dataset.split,
            "split_rule": SPLIT_RULE,
            "tasks": tasks,
            "system_prompts": prepared.system_prompts.to_json(),
            "train": prepared.train.counts(),
            "validation": prepared.validation.counts(),
        },
        backend=loaded.backend,
        head=describe_head(loaded.head, settings.head_dropout) if loaded.head else None,
        quantisation="nf4" if settings.method == "qlora" else None,
        processes=world_size(),
        hardware=describe_hardware(),
        described_tasks=described_tasks(tasks),
        versions=package_versions(),
        git_revision=git_revision(),
        lineage=before.lineage if before is not None else describe_lineage(settings),
    )


class RehearsedError(Exception):
    """Raised in place of the first step of a dry run."""


def rehearse_only(settings: TrainSettings, prepared: Prepared) -> dict[str, object]:
    """Do everything before the first step and return what the run would take; writes nothing."""
    found: list[Rehearsal] = []

    def end(rehearsal: Rehearsal) -> None:
        found.append(rehearsal)
        raise RehearsedError

    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(settings, prepared, Path(folder), on_rehearsed=end)
        try:
            trainer.train()
        except RehearsedError:
            say(found[0].report())
    return {"steps": prepared.num_steps, **{name: asdict(found[0])[name] for name in SHOWN_OF_REHEARSAL}}
