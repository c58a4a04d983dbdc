"""A run's log: a progress bar on stderr, one JSON line per step in log.jsonl, and loss.png at the end.

{"step": 120, "loss": 1.342, "learning_rate": 0.00016, "grad_norm": 0.8, "tokens_per_second": 18204, ...}
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prompts import Encoded
from sft.batches import GIBIBYTE
from sft.console import Progress, progress, say
from sft.errors import ConfigError, one_line
from sft.files import parse_json
from sft.runs.run import write_atomically
from sft.training.objective import Sample

LOG_FILE = "log.jsonl"
PLOT_FILE = "loss.png"


class CountsTokens:
    """The part of the trainer that StepLog uses."""

    num_tokens_seen: int


class StepLog(TrainerCallback):
    """Writes log.jsonl and moves the bar. `trainer` is set after the trainer is built: it counts the tokens."""

    def __init__(self, path: Path, total_steps: int) -> None:
        self.path = path
        self.total_steps = total_steps
        self.trainer: CountsTokens | None = None
        self._step_started = time.monotonic()
        self._tokens_before = 0
        self._rates: list[tuple[int, float]] = []  # tokens and seconds of each step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the bar and the log; a resumed run continues after its checkpoint and repeats later steps."""
        if not state.is_world_process_zero:
            return
        cut_behind(self.path, state.global_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._bar: Progress[None] = progress(
            total=self.total_steps, description="train", unit="step", done=state.global_step
        )
        self._started = time.monotonic()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Start the clock of a step; validation between steps does not count."""
        self._step_started = time.monotonic()
        self._tokens_before = self._num_tokens()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Record the speed of the step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        duration_s, num_tokens = time.monotonic() - self._step_started, self._num_tokens() - self._tokens_before
        self._rates.append((num_tokens, duration_s))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Write one line: a training step, or a validation."""
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            figures = {name: value for name, value in logs.items() if name.startswith("eval_")}
            more = "".join(
                f", {name.removeprefix('eval_')} {figures[name]:.4f}" for name in figures if name != "eval_loss"
            )
            say(f"step {state.global_step}/{state.max_steps} | validation loss {logs['eval_loss']:.4f}{more}")
            self._write({"step": state.global_step, **figures})
        elif "loss" in logs:
            num_tokens, duration_s = self._rates[-1]
            line = {
                "step": state.global_step,
                "epoch": round(state.epoch or 0, 4),
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs["grad_norm"],
                "num_tokens": num_tokens,
                "tokens_per_second": round(num_tokens / duration_s, 1),
                "peak_gb": round(peak_memory_gb(), 2),
            }
            self._write(line)
            self._bar.note(
                f"loss {logs['loss']:.3f}, lr {logs['learning_rate']:.1e}, {line['tokens_per_second']:,.0f} tok/s"
            )
            self._bar.update()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Close what on_train_begin opened."""
        if state.is_world_process_zero:
            self._bar.close()
            self._file.close()

    def mean_tokens_per_second(self) -> float:
        """Over all steps but the first, which warms up."""
        steps = self._rates[1:] or self._rates
        return sum(tokens for tokens, _ in steps) / max(sum(seconds for _, seconds in steps), 1e-9) if steps else 0.0

    def _num_tokens(self) -> int:
        return self.trainer.num_tokens_seen if self.trainer else 0

    def _write(self, line: dict[str, float | int]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def peak_memory_gb() -> float:
    """Most memory in use so far, GB of 2**30 bytes: allocated on the GPU, or resident on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIBIBYTE
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (GIBIBYTE if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB on Linux


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl, in order; a line cut off by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(parse_json(text))
        except ValueError:
            continue
    return lines


def cut_behind(path: Path, step: int) -> None:
    """Delete the lines of a log after the step that a run resumes from; without the file, do nothing."""
    if path.exists():
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def plot_losses(log_file: Path, image: Path, unit: str = "nats per supervised token") -> None:
    """Plot training and validation loss against the step, and accuracy on the right if it was measured, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in read_log(log_file) if math.isfinite(line.get("loss", line.get("eval_loss", math.nan)))]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    axes.plot(*zip(*train, strict=True), linewidth=1, label="training, per step") if train else None
    axes.plot(*zip(*validation, strict=True), marker="o", label="validation") if validation else None
    axes.set(xlabel="optimiser step", ylabel=f"loss ({unit})", ylim=(0, None))
    axes.grid(alpha=0.3)
    accuracy = [(line["step"], line["eval_accuracy"]) for line in lines if "eval_accuracy" in line]
    if accuracy:
        right = axes.twinx()
        right.plot(*zip(*accuracy, strict=True), marker="s", color="tab:green", label="validation accuracy")
        right.set(ylabel="accuracy", ylim=(0, 1))
        right.legend(loc="lower right")
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(image)
    pyplot.close(figure)


# Trackers of experiments, through the trainer's own integrations, and sample answers at every validation

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
