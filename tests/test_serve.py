"""`python serve.py` as a process: it listens, and SIGTERM lets running answers finish."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
        client = openai.OpenAI(base_url=wait_for_address(server), api_key="none", max_retries=0)
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


def wait_for_address(server: subprocess.Popen) -> str:
    lines = []
    while not (found := re.search(r"listening on (http://\S+)", "".join(lines))):
        lines.append(server.stderr.readline())
        assert lines[-1], "".join(lines)
    return found.group(1)


@pytest.mark.parametrize(
    "wishes",
    [
        pytest.param((signal.SIGTERM, signal.SIGTERM), marks=pytest.mark.slow, id="SIGTERM twice"),
        pytest.param((signal.SIGINT, signal.SIGINT), id="Ctrl-C twice", marks=pytest.mark.slow),
    ],
)
def test_answers_cut_off_by_a_shutdown_get_an_error_and_the_log_does_not_call_them_finished(wishes):
    patience = "0.1" if wishes[0] is signal.SIGTERM else "60"
    server = start("--model", "embedded", "--port", "0", "--name", "m", "--shutdown_timeout_s", patience)
    try:
        client = openai.OpenAI(base_url=wait_for_address(server), api_key="none", max_retries=0)
        question = [{"role": "user", "content": "List the numbers from 1 to 200, separated by commas: 1, 2, 3,"}]
        with ThreadPoolExecutor() as pool:
            whole = pool.submit(client.chat.completions.create, model="m", messages=question, max_tokens=2000)
            stream = iter(client.chat.completions.create(model="m", messages=question, max_tokens=2000, stream=True))
            next(stream)
            for wish in wishes:
                server.send_signal(wish)
                time.sleep(0.3)  # two signals at once are one
            with pytest.raises(openai.APIError, match="the server is shutting down; try again later"):
                list(stream)
            with pytest.raises(openai.InternalServerError) as refused:
                whole.result()
        assert (refused.value.status_code, refused.value.code) == (503, "server_ending")
        rest = server.communicate(timeout=60)[1].splitlines()
        assert server.returncode == (0 if wishes[0] is signal.SIGTERM else 130)
        assert [line for line in rest if "POST" not in line] == [
            "ended; 2 answers were cut off with an error",
            *(["interrupted"] if wishes[0] is signal.SIGINT else []),
        ]
    finally:
        server.kill()
        server.wait()


def test_sigterm_while_the_model_loads_ends_it_in_a_line():
    server = start("--model", "embedded", "--port", "0")
    try:
        assert server.stderr.readline() == "flags: model=embedded port=0\n"
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60)[1].splitlines()[-1] == "ended before it listened"
        assert server.returncode == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_an_open_address_needs_a_key_and_a_taken_port_is_refused_before_anything_is_loaded(tiny_run):
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
