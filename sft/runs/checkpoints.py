"""Continuing a run: which run, from which checkpoint, and whether it still is the same one.

--resume_from_checkpoint: none starts a run, auto takes the newest checkpoint of --output_dir, a path that checkpoint.
    run_to_continue(settings)                              # the Run as it started, or None for a new one
    find_checkpoint(settings, Path("outputs/demo"))        # Path("outputs/demo/checkpoints/checkpoint-40"), or None
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import RunError
from sft.files import STAGE_PREFIX, adopt, find_damage, held, remove
from sft.runs.run import COMPLETE, LATEST, OUTPUTS, RUN_FILE, Run, make_run_dir, read_run

NONE, AUTO = "none", "auto"
STATE_FILE = "trainer_state.json"
LOCK_FILE = ".training.lock"
# Settings that decide what a step does, or that the optimizer's state depends on; others may change on resume.
KEPT = (
    "init_adapter", "method", "lora_r", "lora_alpha", "lora_layers", "lora_dropout", "target_modules", "use_dora",
    "use_rslora", "modules_to_save", "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules",
    "head", "labels", "pooling", "head_init", "head_dropout", "supervise", "max_seq_length", "on_too_long",
    "head_share",
    "answer_room", "learning_rate", "lr_scheduler_type", "seed", "metric_for_best_model",
    "task", "label_map", "columns", "group_by", "form", "encoding", "validation_data", "max_samples",
)  # fmt: skip
# What decides, of equal rows and rows per step, how many steps a run has.
LENGTH = ("num_train_epochs", "max_steps", "early_stopping_patience", "early_stopping_threshold")


@contextmanager
def claimed_run_dir(settings: TrainSettings) -> Iterator[Path]:
    """The folder of a run, held against other trainings; one that nothing was written to is not there afterwards.

    Raises BusyError if another process trains there, NotWritableError if it cannot be made. A dry run, which
    writes nothing, makes and holds nothing.
    """
    named = find_run_dir(settings)
    if settings.dry_run:
        yield named or OUTPUTS
        return
    is_new = named is None or not named.exists()
    folder = named or make_run_dir(settings.config)
    try:
        with held(folder / LOCK_FILE, f"{folder}: another training is running", "wait, or choose another --output_dir"):
            yield folder
    finally:
        if is_new:
            for empty in (folder / "checkpoints", folder):
                with suppress(OSError):  # it holds something, or is another process's by now
                    empty.rmdir()


def find_run_dir(settings: TrainSettings) -> Path | None:
    """The run's folder: --output_dir, else that of the named checkpoint; None for a new folder.

    auto without --output_dir takes the newest run in outputs/ that was not finished.
    Raises RunError for the base's folder.
    """
    if settings.output_dir:
        if Path(settings.model).is_dir() and Path(settings.output_dir).resolve() == Path(settings.model).resolve():
            raise RunError(f"--output_dir {settings.output_dir}: the folder of --model; name another")
        return Path(settings.output_dir)
    if settings.resume_from_checkpoint == AUTO:
        return _newest_unfinished()
    if settings.resume_from_checkpoint == NONE:
        return None
    return _run_of(_named_checkpoint(settings.resume_from_checkpoint))


def run_to_continue(settings: TrainSettings) -> Run | None:
    """The run to resume, from its run.json; None for a new run.

    Raises RunError for a checkpoint or a run.json that cannot be used.
    """
    wanted = settings.resume_from_checkpoint
    if wanted == NONE:
        return None
    folder = find_run_dir(settings) if wanted == AUTO else _run_of(_named_checkpoint(wanted))
    if folder is None:
        return None
    if not settings.output_dir and wanted == AUTO:
        say(f"--resume_from_checkpoint auto: {folder}, the newest unfinished run")
    return read_run(folder) if wanted != AUTO or (folder / RUN_FILE).exists() else None


def find_checkpoint(settings: TrainSettings, run_dir: Path) -> Path | None:
    """The checkpoint to resume from, or None for a fresh start; a folder with another run is not overwritten.

    A run that ended before its first checkpoint is overwritten, so that a corrected command can be run again.
    """
    wanted, is_taken = settings.resume_from_checkpoint, (run_dir / RUN_FILE).exists()
    if wanted == AUTO:
        for adopted in [] if settings.dry_run else adopt(run_dir / "checkpoints"):
            say(f"{adopted} is complete, although the run ended before it was recorded")
        newest = newest_checkpoint(run_dir)
        if newest is None and is_taken and read_run(run_dir).status == COMPLETE:
            raise RunError(f"{run_dir}: this run is complete and its checkpoints are gone; choose another --output_dir")
        if newest is None:
            say(f"{run_dir} has no checkpoint yet: starting from the beginning")
        return newest
    checkpoint = None if wanted == NONE else _named_checkpoint(wanted)
    is_other = checkpoint is None or _run_of(checkpoint).resolve() != run_dir.resolve()
    if is_taken and is_other and not settings.dry_run and not _holds_nothing(run_dir):
        raise RunError(
            f"{run_dir} already contains a run; choose another --output_dir, or --resume_from_checkpoint auto"
        )
    return checkpoint


def has_nothing_left(before: Run, now: Run, num_steps: int) -> bool:
    """Whether a finished run has made all the steps it is to have, or stopped early and is to stop no later."""
    if before.status != COMPLETE:
        return False
    is_as_long = all(before.settings.get(name) == now.settings[name] for name in LENGTH)
    return is_as_long or int(str(before.metrics.get("steps", 0))) >= num_steps


def check_resumable(before: Run, now: Run, *, allow_mismatch: bool) -> None:
    """Refuse to continue a run on another base, prompt, data set or recipe, naming both values."""
    differences = before.fingerprint.differences(now.fingerprint)
    pairs = [(f"data {key}", before.data[key], now.data[key]) for key in ("sha256", "split")]
    pairs += [(name, before.settings.get(name, now.settings[name]), now.settings[name]) for name in KEPT]
    pairs.append(("rows an optimiser step", before.rows_per_step, now.rows_per_step))
    differences += [f"{name}: began with {began}, now {is_now}" for name, began, is_now in pairs if began != is_now]
    if differences and not allow_mismatch:
        raise RunError(f"{before.path}: cannot resume: {'; '.join(differences)}; put it back, or pass --allow_mismatch")
    for line in differences:
        say(f"WARNING --allow_mismatch: {line}")


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The whole checkpoint of the highest step: outputs/x/checkpoints/checkpoint-50. Broken ones are named."""
    for path in sorted(list_checkpoints(run_dir / "checkpoints"), key=step_of, reverse=True):
        damage = find_damage(path)
        if damage is None:
            return path
        say(f"{path} is broken: {damage}")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Everything named like a checkpoint, whole or not, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def prune_checkpoints(folder: Path, *, limit: int, best: Path | None, is_complete: bool = False) -> None:
    """Delete the oldest until `limit` are left; never the best, nor the newest, which a crash would need.

    So a limit of 1 leaves two until the run is complete, if the newest is not the best.
    """
    found = list_checkpoints(folder)
    newest = found[-1:] if best is None or not is_complete else []
    spared = {path.name for path in (best, *newest) if path is not None}
    surplus = max(0, len(found) - limit)
    for path in [path for path in found if path.name not in spared][:surplus]:
        remove(path)


def step_of(checkpoint: Path) -> int:
    """50 for outputs/x/checkpoints/checkpoint-50."""
    return int(checkpoint.name.rsplit("-", 1)[-1])


def _holds_nothing(run_dir: Path) -> bool:
    """Whether a run was started and has saved nothing, leftovers of a kill included."""
    try:
        run = read_run(run_dir)
    except RunError:
        return False
    saved = [*list_checkpoints(run.checkpoints_dir), *run.checkpoints_dir.glob(f"{STAGE_PREFIX}*")]
    return run.status != COMPLETE and not saved and not run.weights_dir.exists()


def _newest_unfinished() -> Path | None:
    """The most recently started unfinished run in outputs/; None if there is none."""
    found = []
    for path in OUTPUTS.glob(f"*/{RUN_FILE}"):
        if path.parent.name != LATEST:
            with suppress(RunError):  # another version's: not for this one to continue
                if (run := read_run(path.parent)).status != COMPLETE:
                    found.append((run.created, path.parent))
    return max(found)[1] if found else None


def _named_checkpoint(wanted: str) -> Path:
    inner = Path(wanted).parent / "checkpoints" / Path(wanted).name
    if not Path(wanted).exists() and inner.is_dir():  # other tools have them in the run folder itself
        wanted = str(inner)
    if not Path(wanted).is_dir() or not re.fullmatch(r"checkpoint-\d+", Path(wanted).name):
        raise RunError(f"{wanted}: no checkpoint; name a folder like outputs/demo/checkpoints/checkpoint-50, or auto")
    if damage := find_damage(Path(wanted)):
        raise RunError(f"{wanted} is broken: {damage}; name another, or take --resume_from_checkpoint auto")
    if not (_run_of(Path(wanted)) / RUN_FILE).is_file():
        raise RunError(f"{wanted}: belongs to no run, there is no {_run_of(Path(wanted)) / RUN_FILE}; name another")
    return Path(wanted)


def _run_of(checkpoint: Path) -> Path:
    """outputs/x for outputs/x/checkpoints/checkpoint-50."""
    return checkpoint.parent.parent if len(checkpoint.parts) > 2 else checkpoint.absolute().parent.parent
