"""The server's log: one line for each kind of trouble, however many clients cause it.

with one_line_per_kind():      # uvicorn's, asyncio's and sft.serve's warnings go to stderr, counted
    uvicorn.Server(config).run()
"""

import logging
import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sft.console import say
from sft.errors import one_line

LOGGERS = ("uvicorn.error", "asyncio", "sft.serve")
PERIOD_S = 60.0
MAX_KINDS = 100  # what comes beyond shares one kind, so that the memory for them is bounded


@dataclass
class _Kind:
    said_at: float
    num_unsaid: int = 0


class OneLinePerKind(logging.Handler):
    """Logs the first message of a kind, then at most one per minute, with the number of omitted ones.

    A kind is a logger, the first line of its message before the values are filled in, and the exception's class.
    """

    def __init__(self, period_s: float = PERIOD_S) -> None:
        super().__init__(logging.WARNING)
        self.period_s = period_s
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Say a message, or count it. The first of a kind of fault comes with its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        key = (record.name, str(record.msg).partition("\n")[0], type(error).__name__)
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = ("", "", "")
        kind, now = self._kinds.get(key), time.monotonic()
        if kind is not None and now - kind.said_at < self.period_s:
            kind.num_unsaid += 1
            return
        line = record.getMessage().strip().partition("\n")[0]
        line += f": {type(error).__name__}: {one_line(error, 200)}" if error is not None else ""
        line += f" ({kind.num_unsaid:,} more like it since this was last logged)" if kind and kind.num_unsaid else ""
        self._kinds[key] = _Kind(now)
        with suppress(OSError):  # nobody reads the log any more, which is no reason to stop answering
            say(line)
            # Our own messages and the operating system's refusals explain themselves; a fault of the code does not.
            if (
                kind is None
                and error is not None
                and record.name != "sft.serve"
                and not isinstance(error, (OSError, CancelledError))
            ):
                say("".join(traceback.format_exception(error)).rstrip())


@contextmanager
def one_line_per_kind() -> Iterator[None]:
    """Let the loggers of the server say their warnings through OneLinePerKind."""
    handler, loggers = OneLinePerKind(), [logging.getLogger(name) for name in LOGGERS]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
