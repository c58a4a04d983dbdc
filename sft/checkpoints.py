"""Continuing a run: which run, from which checkpoint, and whether it still is the same one.

--resume_from_checkpoint none begins a run, auto takes the newest checkpoint of --output_dir, a path that one.
    run_to_continue(settings)                              # the Run as it began, or None for a new one
    find_checkpoint(settings, Path("outputs/demo"))        # Path("outputs/demo/checkpoints/checkpoint-40"), or None
"""

import re
from pathlib import Path

from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import RunError
from sft.runs import COMPLETE, RUN_FILE, Run, new_run_dir, read_run
from sft.staging import adopt, find_damage, remove

NONE, AUTO = "none", "auto"
STATE_FILE = "trainer_state.json"
# What a step does, and what the optimizer's saved state belongs to; the other settings may change half-way.
KEPT = (
    "method", "lora_r", "lora_alpha", "lora_layers", "lora_dropout", "target_modules", "use_dora", "use_rslora",
    "modules_to_save", "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "head", "labels",
    "pooling", "head_dropout", "supervise", "max_seq_length", "on_too_long", "head_share", "learning_rate",
    "lr_scheduler_type", "seed", "metric_for_best_model",
)  # fmt: skip


def find_run_dir(settings: TrainSettings) -> Path:
    """Where the run goes: --output_dir, else the run that a named checkpoint is from, else a new folder of today."""
    if settings.output_dir:
        return Path(settings.output_dir)
    if settings.resume_from_checkpoint == AUTO:
        raise RunError("--resume_from_checkpoint auto needs --output_dir: the run folder to continue")
    if settings.resume_from_checkpoint == NONE:
        return new_run_dir(settings.config)
    return _run_of(_named_checkpoint(settings.resume_from_checkpoint))


def run_to_continue(settings: TrainSettings) -> Run | None:
    """The run that is to go on, as its run.json has it; None where a new one begins.

    Raises RunError for a checkpoint or a run.json that cannot be used.
    """
    wanted = settings.resume_from_checkpoint
    if wanted == NONE:
        return None
    folder = find_run_dir(settings) if wanted == AUTO else _run_of(_named_checkpoint(wanted))
    return read_run(folder) if wanted != AUTO or (folder / RUN_FILE).exists() else None


def find_checkpoint(settings: TrainSettings, run_dir: Path) -> Path | None:
    """The checkpoint to go on from, or None for the beginning; a folder that holds another run is not overwritten."""
    wanted, is_taken = settings.resume_from_checkpoint, (run_dir / RUN_FILE).exists()
    if wanted == AUTO:
        for adopted in [] if settings.dry_run else adopt(run_dir / "checkpoints"):
            say(f"{adopted} was written whole, though the run was ended before it could say so")
        newest = newest_checkpoint(run_dir)
        if newest is None and is_taken and read_run(run_dir).status == COMPLETE:
            raise RunError(f"{run_dir}: this run is complete and its checkpoints are gone; choose another --output_dir")
        if newest is None:
            say(f"{run_dir} has no checkpoint yet: from the beginning")
        return newest
    checkpoint = None if wanted == NONE else _named_checkpoint(wanted)
    is_other = checkpoint is None or _run_of(checkpoint).resolve() != run_dir.resolve()
    if is_taken and is_other and not settings.dry_run:
        raise RunError(f"{run_dir} holds a run already; choose another --output_dir, or --resume_from_checkpoint auto")
    return checkpoint


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

    So a limit of 1 leaves two where the newest is not the best, until the run is complete.
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


def _named_checkpoint(wanted: str) -> Path:
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
