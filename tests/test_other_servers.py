"""What vLLM and llama-server, the programs themselves, answer for a run of the embedded model: the same as the run.

They are installed by `make vllm` (3.5 GB) and `make llama-server` (70 MB), or taken from the PATH.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sft.config.decoding import choose_decoding
from sft.generation.writers import ENVIRONMENT
from sft.inference.predictor import Predictor

ROOT = Path(__file__).parent.parent
VLLM = shutil.which("vllm") or shutil.which("vllm", path=str(ENVIRONMENT / "bin"))
LLAMA_SERVER = shutil.which("llama-server") or shutil.which("llama-server", path=str(ROOT / ".llama" / "bin"))
with_vllm = pytest.mark.skipif(VLLM is None, reason="vllm is not installed: make vllm")
with_llama_server = pytest.mark.skipif(LLAMA_SERVER is None, reason="llama-server is not installed: make llama-server")
QUESTIONS = ("What is LoRA?", "Name three fruits.", "What is 2+2?")
NUM_TOKENS = 24

pytestmark = pytest.mark.slow


def run_script(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A LoRA run of five steps on the embedded model, without a warm-up: enough to answer unlike its base."""
    folder = tmp_path_factory.mktemp("other_servers") / "shop"
    run_script(
        "train.py", "--model", "embedded", "--method", "lora", "--data", "examples/my_dataset.json", "--lora_r", 8,
        "--max_steps", 5, "--warmup_steps", 0, "--learning_rate", 1e-3, "--num_sample_predictions", 0,
        "--output_dir", folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def own_answers(run) -> dict[str, str]:
    """The run's own greedy answers, in fp32 as everywhere on a CPU."""
    predictor = Predictor(run, decoding=choose_decoding("precise", max_new_tokens=NUM_TOKENS))
    answers = predictor.predict_batch(QUESTIONS)
    return {question: answer.answer for question, answer in zip(QUESTIONS, answers, strict=True)}


@contextmanager
def started(command: Callable[[int], list[object]], log: Path, **environment: str) -> Iterator[Callable[[str], str]]:
    """A server on a free port of this machine, once it is ready: what it answers to a question, greedily."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command(port))), cwd=ROOT, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 600
        while not _is_ready(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield lambda question: _ask(port, question)
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # also while a model is read: llama-server answers 503
        return False


def _ask(port: int, question: str) -> str:
    """No temperature is sent to vLLM or needed by it; llama-server draws without one."""
    body = {"model": "shop", "messages": [{"role": "user", "content": question}], "max_tokens": NUM_TOKENS}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def serve_with_vllm(run: Path) -> Callable[[int], list[object]]:
    return lambda port: [
        sys.executable,
        "serve.py",
        "--run",
        run,
        "--backend",
        "vllm",
        "--name",
        "shop",
        "--port",
        port,
    ]


@with_vllm
def test_vllm_serves_the_adapter_and_then_the_merged_weights_with_the_runs_own_answers(run, own_answers, tmp_path):
    copy = shutil.copytree(run, tmp_path / "shop")
    with started(serve_with_vllm(copy), tmp_path / "log", VLLM_CPU_KVCACHE_SPACE="1") as ask:
        assert {question: ask(question) for question in QUESTIONS} == own_answers
    assert "--enable-lora" in (tmp_path / "log").read_text()
    run_script("export.py", "--run", copy, "--merge", "--dtype", "fp32", "--num_prompts", 1, "--max_new_tokens", 4)
    with started(serve_with_vllm(copy), tmp_path / "log", VLLM_CPU_KVCACHE_SPACE="1") as ask:
        assert {question: ask(question) for question in QUESTIONS} == own_answers
    assert f"vllm serve {copy / 'export' / 'merged'}" in (tmp_path / "log").read_text()


@with_vllm
def test_evaluate_has_the_same_predictions_from_vllm_for_the_run_and_its_base(run, tmp_path):
    reference = (
        "An answer of many words, so that there is room for as many tokens as the other tests read of an answer."
    )
    rows = [{"instruction": question, "input": "", "output": reference} for question in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = {}
    for generator in ("transformers", "vllm"):
        copy = shutil.copytree(run, tmp_path / generator)
        run_script(
            "evaluate.py", "--run", copy, "--data", tmp_path / "rows.jsonl",
            "--max_new_tokens", NUM_TOKENS, "--generator", generator,
        )  # fmt: skip
        lines = (copy / "evaluation" / "predictions.jsonl").read_text().splitlines()
        predictions[generator] = [(row["prediction"], row["base_prediction"]) for row in map(json.loads, lines)]
    assert predictions["vllm"] == predictions["transformers"]
    assert any(tuned != base for tuned, base in predictions["vllm"])


@with_llama_server
def test_llama_server_answers_a_chat_as_the_run_does(run, own_answers, tmp_path):
    """With the template and the end token inside the file, which it is given nothing beside."""
    run_script(
        "export.py", "--run", run, "--gguf", "f16", "--dtype", "fp32", "--num_prompts", 1, "--max_new_tokens", 4,
        "--output_dir", tmp_path,
    )  # fmt: skip
    file = tmp_path / "gguf" / "shop-f16.gguf"
    flags = ["--temp", 0, "--ctx-size", 2048, "--no-webui"]
    with started(
        lambda port: [LLAMA_SERVER, "-m", file, "--host", "127.0.0.1", "--port", port, *flags], tmp_path / "log"
    ) as ask:
        assert {question: ask(question) for question in QUESTIONS} == own_answers
