"""Runs that end before their last step: on a signal, or because they no longer improve.

with stop_on_signals() as stop:        # Ctrl-C or SIGTERM: finish the step, save, leave; a second one leaves at once
    trainer = RowTrainer(..., callbacks=[StopWhenAsked(stop)])
"""

import operator
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.console import say
from sft.training.processes import any_process

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a stop was requested. `is_saving` is False while there is nothing to save: then one is enough."""

    def __init__(self) -> None:
        self.asked = False
        self.is_urgent = False  # a second signal came
        self.is_saving = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.is_urgent = self.asked
        if self.asked or not self.is_saving:
            raise KeyboardInterrupt
        self.asked = True
        say(f"{signal.Signals(number).name}: finishing this step and saving it; once more leaves at once")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle the signals inside this context; in a thread, where Python has no signals, nothing changes."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopWhenAsked(TrainerCallback):
    """Saves after the step in which a stop was requested, then raises KeyboardInterrupt."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self._is_ending = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """From now on a signal saves before the run ends."""
        self.stop.is_saving = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End all processes after the same step, whichever of them got the signal."""
        if any_process(self.stop.asked):
            self._is_ending = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End once the checkpoint is complete; a signal during validation or saving waits for the next step."""
        if self._is_ending:
            raise KeyboardInterrupt


class EarlyStopping(TrainerCallback):
    """Ends the run when `patience` validations in a row were not better than the best before them.

    It keeps no state: what it needs is in the trainer's log history, which every checkpoint holds.
    """

    def __init__(self, metric: str, patience: int, threshold: float, *, greater_is_better: bool) -> None:
        self.metric, self.patience, self.threshold = metric, patience, threshold
        self.greater_is_better = greater_is_better

    def is_over(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the run should stop, by this history."""
        values = [float(line[self.metric]) for line in history if self.metric in line]
        return count_without_gain(values, self.threshold, self.greater_is_better) >= self.patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop if patience has run out; the step is saved, too, so that a resumed run ends at the same step."""
        if self.is_over(state.log_history):
            say(f"early stopping: {self.patience} validations without a better {self.metric}")
            control.should_training_stop = control.should_save = True


def count_without_gain(values: Sequence[float], threshold: float, greater_is_better: bool) -> int:
    """How many of the last values did not beat the best before them: [3, 2, 2.5, 2.2], 0, False -> 2."""
    beats = operator.gt if greater_is_better else operator.lt
    best, count = None, 0
    for value in values:
        if best is None or (beats(value, best) and abs(value - best) > threshold):
            best, count = value, 0
        else:
            count += 1
    return count


def is_greater_better(metric: str) -> bool:
    """Accuracy, F1 and the like should grow; losses, perplexity and error rates should fall."""
    return not any(part in metric for part in ("loss", "perplexity", "rate", "brier", "ece"))
