"""The server's life: load, listen, serve, and on SIGTERM finish the running answers, or notify them, before it ends.

serve(settings, run)      # returns when the server has ended
"""

import asyncio
import os
import signal
import socket
from types import FrameType

import uvicorn

from sft.config.serve import ServeSettings
from sft.console import say
from sft.conversation import limits_of
from sft.errors import ConfigError
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_run
from sft.runs.run import Run
from sft.serve.app import Service, build_app
from sft.serve.connections import BACKLOG, Connections, fit_open_files
from sft.serve.engine import Engine
from sft.serve.guard import read_api_key
from sft.serve.log import one_line_per_kind
from sft.serve.served import list_served

GRACE_S = 5  # seconds for clients to read that the server ends


class Server(uvicorn.Server):
    """Answers have shutdown_timeout_s after the first signal, and none after Ctrl-C that is pressed again."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish running answers, or notify them."""
        loop = asyncio.get_running_loop()
        clock = loop.call_later(self.service.settings.shutdown_timeout_s, self.service.cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            clock.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn leaves at once at the second Ctrl-C, with answers and the model's thread in mid-air."""
        if self.should_exit:
            if sig == signal.SIGINT:
                self.service.cut_off()
            return
        super().handle_exit(sig, frame)


def serve(settings: ServeSettings, run: Run | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ConfigError for an address in use, and what load_run raises."""
    api_key = read_api_key(settings.host)
    listener = listen(settings.host, settings.port)  # before the weights: a taken port is reported at once
    trusted = settings.trust_remote_code
    if run is not None:
        loaded = load_run(run, allow_mismatch=settings.allow_mismatch, trust_remote_code=trusted)
    else:
        loaded = load_base(str(settings.model), trust_remote_code=trusted)
    name = settings.name or (run.path.name if run is not None else str(settings.model).rstrip("/").split("/")[-1])
    serve_model(settings, run, loaded, name, listener, api_key)


def serve_model(
    settings: ServeSettings,
    run: Run | None,
    loaded: LoadedModel,
    name: str,
    listener: socket.socket,
    api_key: str | None,
) -> None:
    """Serve a model that is in memory."""
    engine = Engine(loaded, max_batch=settings.max_batch, max_waiting=settings.max_waiting)
    limits = limits_of(run, loaded.max_context, max_seq_length=settings.max_seq_length)
    served = list_served(name, run, with_base=loaded.holds_base)
    system_prompt = run.system_prompt if run else settings.system_prompt
    service = Service(engine, settings, served, system_prompt, api_key, limits)
    config = configure(service)
    host, port = listener.getsockname()[:2]
    say(f"models: {', '.join(service.served)}; {'with' if api_key else 'without'} an API key; Ctrl-C ends")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    say(f"a page to try it: {address}/")
    say(f"listening on {address}/v1")
    # uvicorn raises the signal again when it is done; SIGTERM is a wish, not a failure: exit code 0, and the same
    # if it is sent twice, so it stays ignored until the process has ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with one_line_per_kind():
            Server(config, service).run(sockets=[listener])
    finally:
        listener.close()
        cut = service.num_cut_off
        fate = f"{cut:,} answers were cut off with an error" if cut else "answers that were running have been finished"
        say(f"ended; {fate}")
        if engine.is_alive:  # a thread inside torch would abort the interpreter's own end
            say("the model is still computing a step and is left alone")
            os._exit(1)


def configure(service: Service) -> uvicorn.Config:
    """The HTTP server around the application, with connection limits that apply before any request."""
    settings = service.settings
    allowed = fit_open_files(settings.max_connections)
    if allowed < settings.max_connections:
        say(f"NOTE: at most {allowed:,} connections, not {settings.max_connections:,}: see `ulimit -n`, open files")
    connections = Connections(max_connections=allowed, client_timeout_s=settings.client_timeout_s)
    return uvicorn.Config(
        build_app(service),
        http=connections.accept,  # type: ignore[arg-type]  # uvicorn calls it as it would a protocol class
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(settings.shutdown_timeout_s) + GRACE_S,
        server_header=False,
    )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises ConfigError if it cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: {os.strerror(error.errno or 0)}; choose another --port or --host") from None
    return listener
