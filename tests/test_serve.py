"""`python serve.py` as a process: it listens, and SIGTERM lets running answers finish."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).parent.parent


def start(*flags: str, **environment: str) -> subprocess.Popen:
    values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "serve.py", *flags],
        cwd=ROOT,
        env=values,
        stderr=subprocess.PIPE,
        text=True,
        # background jobs of a shell ignore it, and so do the processes they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("wish", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_running_answer_is_finished_before_the_server_ends(tiny_run, wish):
    server = start("--run", str(tiny_run), "--port", "0", "--decoding", "precise")
    try:
        lines = []
        while not (found := re.search(r"listening on (http://\S+)", "".join(lines))):
            lines.append(server.stderr.readline())
            assert lines[-1], "".join(lines)
        client = openai.OpenAI(base_url=found.group(1), api_key="none", max_retries=0)
        question = [{"role": "user", "content": "hi"}]
        stream = iter(
            client.chat.completions.create(
                model=tiny_run.name, messages=question, stream=True, max_tokens=450, temperature=1, seed=5
            )
        )
        next(stream)
        server.send_signal(wish)
        *_, last = stream
        assert last.choices[0].finish_reason in ("stop", "length")
        rest = server.communicate(timeout=60)[1]
        assert server.returncode == (0 if wish is signal.SIGTERM else 130), rest
        assert "ended; answers that were running have been finished" in rest
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_an_open_address_needs_a_key_and_a_taken_port_is_told_before_anything_is_loaded(tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = start("--run", str(tiny_run), "--port", port)
        open_to_all = start("--run", str(tiny_run), "--host", "0.0.0.0", "--port", "0")
        said = busy.communicate(timeout=120)[1], open_to_all.communicate(timeout=120)[1]
    assert (busy.returncode, open_to_all.returncode) == (2, 2)
    assert said[0].splitlines()[-1] == (
        f"error: 127.0.0.1:{port}: Address already in use; choose another --port or --host"
    )
    assert said[1].splitlines()[-1] == (
        "error: --host 0.0.0.0 is open to others; set QWEN_SFT_API_KEY, or serve on 127.0.0.1"
    )
