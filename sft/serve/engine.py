"""The model's thread: requests come in from anywhere, one thread computes, tokens go back as they are drawn.

engine = Engine(loaded, max_batch=16, max_waiting=64)
ticket = engine.submit(prompt_ids, decoding, max_new_tokens, deliver)     # deliver(token_id), ..., deliver(None)
scores = engine.score(prompt_ids, ("负面", "正面")).result()
engine.close()                                                            # running answers are finished first

First come, first served; up to max_batch answers are written together, a token for each in turn.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from sft.class_scoring import score_choices
from sft.config.decoding import Decoding
from sft.console import say
from sft.models.loaded import LoadedModel
from sft.serve.batch import Row, RunningBatch, can_batch


class QueueFull(Exception):
    """As many requests wait as may."""


class EngineError(Exception):
    """The model failed on a request: what deliver gets instead of a token."""


class Ticket:
    """A request that was taken; cancel() ends it before its next token."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop writing this answer; harmless where it has ended."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody gave up on the answer."""
        return self._cancelled.is_set()


Deliver = Callable[[int | Exception | None], None]
Scoring = tuple[Sequence[int], Sequence[str], Sequence[str], "Future[list[float]]"]


class Engine:
    """One model, one thread. Safe to call from any thread."""

    def __init__(self, loaded: LoadedModel, *, max_batch: int, max_waiting: int) -> None:
        self.loaded = loaded
        self.max_batch = max_batch if can_batch(loaded) else 1
        self.max_waiting = max_waiting
        self._batch = RunningBatch(loaded)
        self._waiting: deque[Row] = deque()
        self._scorings: deque[Scoring] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests that are not being worked on yet."""
        return len(self._waiting) + len(self._scorings)

    @property
    def num_running(self) -> int:
        """Answers being written."""
        return len(self._batch.rows)

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, max_new_tokens: int, deliver: Deliver) -> Ticket:
        """Queue an answer; deliver is called on the engine's thread. Raises QueueFull."""
        ticket = Ticket()
        row = Row(prompt_ids, decoding, max_new_tokens, deliver, lambda: ticket.is_cancelled)
        with self._changed:
            self._check_room()
            self._waiting.append(row)
            self._changed.notify()
        return ticket

    def score(
        self, prompt_ids: Sequence[int], labels: Sequence[str], classes: Sequence[str] | None = None
    ) -> "Future[list[float]]":
        """Log-probabilities of the labels (sft.class_scoring); classes: what they stand for, where it is another word.

        Raises QueueFull.
        """
        future: Future[list[float]] = Future()
        with self._changed:
            self._check_room()
            self._scorings.append((prompt_ids, labels, classes or labels, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Take no more requests, finish those there are, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _check_room(self) -> None:
        # Places in the batch count as room: a request that can start at once does not wait.
        free = max(0, self.max_batch - self.num_running)
        if self._is_closing or self.num_waiting >= self.max_waiting + free:
            raise QueueFull

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.num_waiting or self.num_running or self._is_closing)
                if self._is_closing and not self.num_waiting and not self.num_running:
                    return
                scorings = [self._scorings.popleft() for _ in range(min(len(self._scorings), self.max_batch))]
                free = self.max_batch - self.num_running
                rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), free))]
            if scorings:
                self._score(scorings)
            for row in rows:
                if row.is_cancelled():
                    row.deliver(None)
                else:
                    self._guarded(lambda row=row: self._batch.add(row), [row])  # type: ignore[misc]
            self._guarded(self._batch.step, self._batch.rows)

    def _guarded(self, compute: Callable[[], None], rows: Sequence[Row]) -> None:
        """Whatever the model stumbles over is told to the requests it concerns; the thread lives on."""
        concerned = list(rows)
        try:
            compute()
        except Exception as error:
            say(f"error while answering: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            if compute == self._batch.step:
                self._batch.clear()
            for row in concerned:
                row.deliver(EngineError("the model failed on this request"))

    def _score(self, scorings: Sequence[Scoring]) -> None:
        prompts, labels, classes, futures = zip(*scorings, strict=True)
        try:
            found = score_choices(self.loaded, prompts, labels, classes, shown=False)
        except Exception as error:
            say(f"error while scoring: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            for future in futures:
                future.set_exception(EngineError("the model failed on this request"))
            return
        for future, scores in zip(futures, found, strict=True):
            if not future.cancelled():
                future.set_result(scores)
