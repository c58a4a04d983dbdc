"""Trackers of experiments, through the trainer's own integrations, and sample answers at every validation.

samples.jsonl   {"step": 100, "id": "reviews-17", "reference": "positive", "prediction": "negative"}
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prompts import Encoded
from sft.console import say
from sft.errors import ConfigError, one_line
from sft.training.log import cut_behind
from sft.training.objective import Sample

SAMPLES_FILE = "samples.jsonl"
NONE = "none"
OFFLINE = {  # the remedy if a tracker cannot start
    "wandb": "log in (wandb login), set WANDB_MODE=offline, ",
    "swanlab": "log in (swanlab login), set SWANLAB_MODE=offline, ",
    "trackio": "",
}


def check_trackers(names: Sequence[str]) -> list[str]:
    """The trainer's trackers: ["wandb"], [] for none. Raises ConfigError if a package is missing."""
    wanted = [name for name in names if name != NONE]
    for name in wanted:
        if find_spec(name) is None:
            raise ConfigError(f"report_to {name}: the package is not installed; pip install {name}")
    return wanted


def mend_trackers(callbacks: Sequence[TrainerCallback]) -> None:
    """Make a tracker that cannot start (no key, no network) end the run with one line, before its first step.

    SwanLab from 0.8 on raises if it has no run yet; transformers 5.17 expects None before it starts one.
    """
    for callback in callbacks:
        name = type(callback).__name__.removesuffix("Callback").lower()
        if name in OFFLINE:
            callback.setup = partial(_set_up, name, callback.setup)
        if name == "swanlab":
            library = callback._swanlab
            library.get_run = partial(_run_or_none, library.get_run)


def _set_up(name: str, set_up: Callable[..., None], *arguments: object, **more: object) -> None:
    try:
        set_up(*arguments, **more)
    except Exception as error:  # libraries raise all kinds of errors
        why = one_line(error, 200)
        raise ConfigError(
            f"report_to {name}: cannot begin ({type(error).__name__}: {why}); {OFFLINE[name]}or leave it out"
        ) from None


def _run_or_none(get_run: Callable[[], object]) -> object:
    try:
        return get_run()
    except RuntimeError:
        return None


class SampleLog(TrainerCallback):
    """Answers a few validation rows after every validation: into samples.jsonl, and to the trackers as a table."""

    def __init__(
        self,
        answer: Callable[[Sequence[Encoded]], Sequence[Sample]],
        rows: Sequence[Encoded],
        names: Sequence[str],
        path: Path,
    ) -> None:
        """answer: the objective's."""
        self.answer, self.rows, self.names, self.path = answer, list(rows), list(names), path
        self.trackers: Sequence[TrainerCallback] = ()  # the trainer's callbacks, once it is built

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Delete the records of steps that are repeated."""
        if state.is_world_process_zero:
            cut_behind(self.path, state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Ask, write down, send."""
        if not state.is_world_process_zero:
            return
        table = [[name, *sample] for name, sample in zip(self.names, self.answer(self.rows), strict=True)]
        with self.path.open("a", encoding="utf-8") as file:
            for name, reference, prediction in table:
                line = {"step": state.global_step, "id": name, "reference": reference, "prediction": prediction}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for tracker in self.trackers:
            _send(tracker, table, state.global_step)


def _send(tracker: TrainerCallback, table: Sequence[Sequence[str]], step: int) -> None:
    """The samples in the form each tracker has for them; a failing tracker is reported, and the run continues."""
    columns, kind = ["id", "reference", "prediction"], type(tracker).__name__
    try:
        if kind == "TensorBoardCallback" and tracker.tb_writer is not None:
            lines = [" | ".join(columns), " | ".join("---" for _ in columns), *(" | ".join(row) for row in table)]
            tracker.tb_writer.add_text("samples", "\n".join(lines), step)
        elif kind == "WandbCallback":
            tracker._wandb.log({"samples": tracker._wandb.Table(columns=columns, data=list(table))})
        elif kind == "SwanLabCallback":
            text = "\n".join(f"{name}: {reference} -> {prediction}" for name, reference, prediction in table)
            tracker._swanlab.log({"samples": tracker._swanlab.Text(text)}, step=step)
        elif kind == "TrackioCallback":
            rows = Dataset.from_list([dict(zip(columns, row, strict=True)) for row in table])
            tracker._trackio.log({"samples": tracker._trackio.Table(dataframe=rows.to_pandas())})
    except Exception as error:  # the run is worth more than its tracker
        say(f"{kind}: samples were not sent ({type(error).__name__}: {one_line(error, 120)})")
