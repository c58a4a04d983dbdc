"""Serve a run over HTTP as OpenAI's API, to be asked with any client of it.

Reads the run folder (model, prompt); listens on 127.0.0.1:8000 unless told otherwise. A key that clients must send
comes from QWEN_SFT_API_KEY. SIGTERM and Ctrl-C let running answers finish, for --shutdown_timeout_s at most.

    python serve.py
    python serve.py --run outputs/demo --port 8080 --max_new_tokens 256
    python serve.py --backend vllm
"""

import signal
import sys

from sft.config.layers import load_settings
from sft.config.serve import ServeSettings
from sft.console import run_command, say
from sft.errors import ConfigError
from sft.runs.system_prompts import tell_differing


def main(argv: list[str] | None = None) -> None:
    """Parse, find the run, serve until told to end."""
    settings = load_settings(ServeSettings, argv)
    signal.signal(signal.SIGTERM, end_before_listening)
    from sft.models.adopted import open_tuned

    run = None if settings.is_untuned else open_tuned(settings)
    settings.announce()
    tell_differing(run, "a system message of the client's sets another")
    if settings.backend == "vllm":
        from sft.serve.vllm import hand_over

        if run is None:
            raise ConfigError("--backend vllm serves a run; for an untuned model call `vllm serve` yourself")
        hand_over(run, settings)

    from sft.serve.server import serve  # heavy: after --help, and after a run was found

    serve(settings, run)


def end_before_listening(*_: object) -> None:
    """SIGTERM while the model loads: there is no answer to finish yet."""
    say("ended before it listened")
    sys.exit(0)


if __name__ == "__main__":
    run_command(main)
