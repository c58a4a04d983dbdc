"""A server on 127.0.0.1 in this process, on the tiny model, and OpenAI's own client for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import openai
import pytest

from sft.config.serve import ServeSettings
from sft.conversation import limits_of
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.serve.app import Service
from sft.serve.engine import Engine
from sft.serve.log import one_line_per_kind
from sft.serve.served import list_served
from sft.serve.server import Server, configure, listen

KEY = "sk-tests"


@dataclass
class Running:
    """A server that listens."""

    service: Service
    url: str

    def client(self, key: str = KEY) -> openai.OpenAI:
        """OpenAI's client; it does not try again, so that a test sees each answer."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def run_server(loaded, run, key: str | None = KEY, *, with_base: bool = False, **settings) -> Iterator[Running]:
    """Serve a model until the block ends."""
    chosen = ServeSettings(**{"max_new_tokens": 16, "decoding": "precise", "shutdown_timeout_s": 5, **settings})
    engine = Engine(loaded, max_batch=chosen.max_batch, max_waiting=chosen.max_waiting)
    prompt, served = run.system_prompt if run else None, list_served("tiny", run, with_base=with_base)
    service = Service(engine, chosen, served, prompt, key, limits_of(run, loaded.max_context))
    listener = listen("127.0.0.1", 0)
    server = Server(configure(service), service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    with one_line_per_kind():
        thread.start()
        try:
            yield Running(service, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def loaded(tiny_run):
    """The tiny run in memory."""
    return load_run(open_run(tiny_run))


@pytest.fixture(scope="module")
def server(loaded, tiny_run) -> Iterator[Running]:
    """The tiny run, served."""
    with run_server(loaded, open_run(tiny_run)) as running:
        yield running


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return as soon as the condition holds; fail where it never does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.01)
