"""The model's thread: requests arrive from any thread, one thread computes, tokens are returned as they are sampled.

engine = Engine(loaded, max_batch=16, max_waiting=64)
ticket = engine.submit(prompt_ids, decoding, max_new_tokens, deliver)     # deliver(token_id), ..., deliver(None)
scores = engine.score(prompt_ids, ("负面", "正面")).result()
engine.close()                                                            # running answers are finished first

First come, first served; up to max_batch answers are written together, a token for each in turn. Answers of the untuned
model (the adapter switched off) are a batch of their own, which takes turns with the tuned one's. What fails is told to
the requests it concerns, whether or not they still listen, and the next ones are answered.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack

from sft.config.decoding import Decoding
from sft.generation.decode import Row, RunningBatch, can_batch
from sft.models.loaded import LoadedModel
from sft.scoring import score_choices

logger = logging.getLogger("sft.serve")


class QueueFull(Exception):
    """The queue of waiting requests is full."""


class EngineError(Exception):
    """The model failed on a request; deliver gets this instead of a token."""


class EngineEnded(Exception):
    """The thread is no more: nothing will be answered until the server is restarted."""


class Ticket:
    """A request that was taken; cancel() ends it before its next token."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self.leave_queue: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Stop generating this answer, or waiting for it; harmless if it has ended."""
        self._cancelled.set()
        self.leave_queue()

    @property
    def is_cancelled(self) -> bool:
        """Whether the client gave up on the answer."""
        return self._cancelled.is_set()


Deliver = Callable[[int | Exception | None], None]
Scoring = tuple[Sequence[int], Sequence[str], Sequence[str], bool, "Future[list[float]]"]  # bool: by the untuned model


class Engine:
    """One model, one thread. Safe to call from any thread."""

    def __init__(self, loaded: LoadedModel, *, max_batch: int, max_waiting: int) -> None:
        self.loaded = loaded
        self.max_batch = max_batch if can_batch(loaded) else 1
        self.max_waiting = max_waiting
        self._batch = RunningBatch(loaded)
        self._base_batch = RunningBatch(loaded)  # with the adapter off
        self._adapter_off, self._is_untuned = ExitStack(), False
        self._waiting: deque[tuple[Row, RunningBatch]] = deque()  # with the batch it is to join
        self._scorings: deque[Scoring] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_busy = False
        self._progressed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests that are not being worked on yet."""
        return len(self._waiting) + len(self._scorings)

    @property
    def num_running(self) -> int:
        """Answers being written."""
        return len(self._batch.rows) + len(self._base_batch.rows)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread is running."""
        return self._thread.is_alive()

    @property
    def step_age_s(self) -> float:
        """Seconds that the current step has taken so far; 0 if the engine is idle."""
        return time.monotonic() - self._progressed_at if self._is_busy else 0.0

    def submit(
        self,
        prompt_ids: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
        deliver: Deliver,
        *,
        untuned: bool = False,
    ) -> Ticket:
        """Queue an answer; deliver is called on the engine's thread. untuned: of the model as it was before tuning.

        Raises QueueFull and EngineEnded.
        """
        ticket = Ticket()
        row = Row(prompt_ids, decoding, max_new_tokens, deliver, lambda: ticket.is_cancelled)
        waiting = (row, self._base_batch if untuned else self._batch)
        ticket.leave_queue = lambda: self._leave_queue(waiting)
        with self._changed:
            self._check_room()
            self._waiting.append(waiting)
            self._changed.notify()
        return ticket

    def score(
        self,
        prompt_ids: Sequence[int],
        labels: Sequence[str],
        classes: Sequence[str] | None = None,
        *,
        untuned: bool = False,
    ) -> "Future[list[float]]":
        """Log-probabilities of the labels (sft.scoring); classes: their meaning, if it is another word.

        Raises QueueFull and EngineEnded.
        """
        future: Future[list[float]] = Future()
        with self._changed:
            self._check_room()
            self._scorings.append((prompt_ids, labels, classes or labels, untuned, future))
            self._changed.notify()
        return future

    def close(self, timeout_s: float | None = None) -> None:
        """Accept no more requests, finish the running ones and end the thread; give up after timeout_s."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _check_room(self) -> None:
        if not self.is_alive and not self._is_closing:
            raise EngineEnded
        # Places in the batch count as room: a request that can start at once does not wait.
        free = max(0, self.max_batch - self.num_running)
        if self._is_closing or self.num_waiting >= self.max_waiting + free:
            raise QueueFull

    def _leave_queue(self, waiting: tuple[Row, RunningBatch]) -> None:
        """A request whose client has gone leaves the queue."""
        with self._changed:
            if waiting not in self._waiting:
                return
            self._waiting.remove(waiting)
        _tell(waiting[0], None)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # nothing should get here; if it does, nobody may wait for an answer forever
            logger.error("error: the engine has ended, restart the server", exc_info=error)
        finally:
            with self._changed:
                rows = [*(row for row, _ in self._waiting), *self._batch.rows, *self._base_batch.rows]
                scorings = list(self._scorings)
                self._waiting.clear()
                self._scorings.clear()
                self._batch.clear()
                self._base_batch.clear()
                self._is_busy = False
            for row in rows:
                _tell(row, EngineError("the model failed on this request"))
            _fail([future for *_, future in scorings if future.set_running_or_notify_cancel()])

    def _work(self) -> None:
        while True:
            if not self.num_running:
                self._switch(untuned=False)
            with self._changed:
                self._is_busy = False
                self._changed.wait_for(lambda: self.num_waiting or self.num_running or self._is_closing)
                if self._is_closing and not self.num_waiting and not self.num_running:
                    return
                self._progressed_at, self._is_busy = time.monotonic(), True
                scorings = [self._scorings.popleft() for _ in range(min(len(self._scorings), self.max_batch))]
            # From here on a future cannot be cancelled, so that its result can be set whoever is gone by then.
            wanted = [scoring for scoring in scorings if scoring[-1].set_running_or_notify_cancel()]
            if wanted:
                try:
                    for untuned in (False, True):
                        if alike := [scoring for scoring in wanted if scoring[-2] is untuned]:
                            self._score(alike, untuned=untuned)
                finally:
                    _fail([future for *_, future in wanted if not future.done()])
            for _ in range(self.max_batch - self.num_running):
                self._progressed_at = time.monotonic()
                with self._changed:
                    if not self._waiting:
                        break
                    row, batch = self._waiting.popleft()
                if row.is_cancelled():
                    _tell(row, None)
                else:
                    self._guarded(batch, row)
            for batch in (self._batch, self._base_batch):
                self._progressed_at = time.monotonic()
                if batch.rows:
                    self._guarded(batch)

    def _guarded(self, batch: RunningBatch, joining: Row | None = None) -> None:
        """A step of a batch, or a row that joins it. Whatever the model stumbles over is told to the requests it
        concerns; the thread lives on.

        A row that fails before it has joined (joining) leaves the batch as it was; else the batch is lost.
        """
        concerned = [*batch.rows, *([joining] if joining else [])]
        try:
            self._switch(untuned=batch is self._base_batch)
            if joining:
                batch.join([joining])
            else:
                batch.step()
        except Exception as error:
            logger.error("error while answering", exc_info=error)
            if joining is None:
                batch.clear()
            kept = batch.rows
            for row in concerned:
                if row not in kept:
                    _tell(row, EngineError("the model failed on this request"))

    def _switch(self, *, untuned: bool) -> None:
        """Switch the adapter on or off if necessary; it takes milliseconds, so it stays until another batch needs
        it."""
        if untuned == self._is_untuned:
            return
        if untuned:
            self._adapter_off.enter_context(self.loaded.adapter_off())
        else:
            self._adapter_off.close()
        self._is_untuned = untuned

    def _score(self, scorings: Sequence[Scoring], *, untuned: bool = False) -> None:
        prompts, labels, classes, _, futures = zip(*scorings, strict=True)
        found: list[list[float]] | None = None
        try:
            self._switch(untuned=untuned)
            found = score_choices(self.loaded, prompts, labels, classes, shown=False)
        except Exception as error:
            logger.error("error while scoring", exc_info=error)
        if found is not None:
            for future, scores in zip(futures, found, strict=True):
                future.set_result(scores)
        elif len(scorings) > 1:  # one of them may be at fault, or together they were too much for the memory
            for scoring in scorings:
                self._score([scoring], untuned=untuned)
        else:
            _fail(futures)


def _fail(futures: "Sequence[Future[list[float]]]") -> None:
    for future in futures:
        future.set_exception(EngineError("the model failed on this request"))


def _tell(row: Row, item: Exception | None) -> None:
    """Deliver the end of an answer to its waiting client; a client that has gone is not an error of the engine."""
    try:
        row.deliver(item)
    except Exception as error:
        logger.warning("an answer's end could not be delivered", exc_info=error)
