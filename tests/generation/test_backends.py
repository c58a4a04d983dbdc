"""The interface behind which answers are written, and what `vllm serve` is told, recorded by a stand-in program.
tests/test_other_servers.py asks the real one."""

import json
import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sft.config.decoding import DECODING
from sft.errors import ConfigError, ModelError
from sft.generation import Generated, generate_batch
from sft.generation import writers as vllm_module
from sft.generation.writers import VllmWriter, check_generator, describe_adapter, open_writer
from sft.models.loading import load_run
from sft.runs.run import open_run

SHORT = DECODING["precise"].model_copy(update={"max_new_tokens": 6})
PROGRAM = """#!{python}
import http.server, json, os, sys
log = open({log!r}, "a", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.send_error(401)
        log.write(json.dumps(body) + "\\n")
        self.answer({{"choices": [{{"token_ids": [*body["prompt"][-2:], body["stop_token_ids"][0]]}}]}})
    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def log_message(self, *_):
        pass
log.write(json.dumps({{"command": sys.argv[1:], "pid": os.getpid()}}) + "\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def prompts_of(loaded, texts: list[str]) -> list[list[int]]:
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]


def test_transformers_behind_the_interface_is_generate_batch(tiny):
    prompts = prompts_of(tiny, ["a", "bb", "ccc"])
    writer = open_writer("transformers", tiny)
    assert writer.generate(prompts, SHORT) == generate_batch(tiny, prompts, SHORT)
    assert writer.without_adapter() is writer


def test_without_vllm_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(vllm_module, "ENVIRONMENT", tmp_path)
    check_generator("transformers", "chat")
    with pytest.raises(ConfigError, match=r"^vllm is not installed; run `make vllm`, or put the `vllm` program of "):
        check_generator("vllm", "precise")


def test_vllm_draws_no_answers_since_its_penalties_look_at_the_question():
    with pytest.raises(ConfigError, match=r"--decoding chat --generator vllm: its penalties also punish words"):
        check_generator("vllm", "chat")


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """A program named vllm that answers a prompt with its last two ids and the first stop id; its log is returned."""
    log, path = tmp_path / "log", tmp_path / "bin" / "vllm"
    path.parent.mkdir()
    path.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def tuned(tiny_run):
    return load_run(open_run(tiny_run))


def test_vllm_gets_the_same_ids_and_end_tokens_and_answers_greedily(tuned, tiny_run, program, monkeypatch):
    monkeypatch.setattr(vllm_module, "CHUNK", 2)
    prompts, seen = prompts_of(tuned, ["a", "bb", "ccc", "dddd"]), []
    known = {1: Generated("known", [1], True)}
    writer = open_writer("vllm", tuned, tiny_run / "adapter")
    answers = writer.generate(prompts, SHORT, known=known, on_answers=seen.append)
    assert isinstance(writer, VllmWriter)
    writer.without_adapter().generate(prompts[:1], SHORT)
    started, *asked = [json.loads(line) for line in program.read_text().splitlines()]
    assert started["command"] == [
        "serve", str(tuned.source.folder), "--served-model-name", "base", "--enable-lora",
        "--lora-modules", f"tuned={tiny_run / 'adapter'}", "--max-lora-rank", "16",
        "--dtype", "float32", "--enforce-eager", "--max-model-len", str(tuned.max_context),
        "--generation-config", "vllm",
        "--host", "127.0.0.1", "--port", started["command"][-1],
    ]  # fmt: skip
    assert [one["model"] for one in asked] == ["tuned", "tuned", "tuned", "base"]
    assert sorted(one["prompt"] for one in asked[:3]) == sorted([prompts[0], prompts[2], prompts[3]])
    assert (asked[0]["temperature"], asked[0]["max_tokens"]) == (0.0, 6)
    assert (asked[0]["stop_token_ids"], asked[0]["return_token_ids"]) == (list(tuned.chat.end_ids), True)
    assert answers[1] == known[1]
    assert answers[0] == Generated(tuned.chat.decode(prompts[0][-2:]), prompts[0][-2:], True)
    assert [sorted(batch) for batch in seen] == [[0, 2], [3]]
    del writer
    with pytest.raises(ProcessLookupError):
        os.kill(started["pid"], 0)


def test_a_server_that_does_not_start_is_told_in_its_own_words(tuned, program):
    (program.parent / "bin" / "vllm").write_text("#!/bin/sh\necho 'ValueError: no such thing'; exit 1\n")
    with pytest.raises(ModelError, match=r"^--generator vllm: it did not start \(ValueError: no such thing\); leave"):
        open_writer("vllm", tuned)


ADAPTER = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changed", "tensor", "named"),
    [
        ({"use_dora": True}, "", "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "", "modules_to_save"),
        ({"trainable_token_indices": [5]}, "", "trained tokens"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "", "trained experts"),
        ({"bias": "all"}, "", "biases"),
        ({"init_lora_weights": "pissa"}, "", "init_lora_weights pissa"),
        ({"alpha_pattern": {"q_proj": 4}}, "", "alphas per layer"),
        ({"r": 600}, "", r"rank 600 \(at most 512\)"),
        ({}, "base_model.model.model.embed_tokens.lora_embedding_A", r"trained weights outside .*embed_tokens.*"),
        ({}, "base_model.model.model.embed_tokens.weight", r"trained weights outside .*embed_tokens.*"),
        ({}, "base_model.model.lm_head.lora_A.weight", r"trained weights outside .*lm_head.*"),
    ],
)
def test_an_adapter_that_vllm_would_refuse_or_load_in_part_is_named(tiny_run, tmp_path, changed, tensor, named):
    config = json.loads((tiny_run / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | changed))
    weights = load_file(tiny_run / "adapter" / "adapter_model.safetensors")
    save_file(weights | ({tensor: weights[ADAPTER].clone()} if tensor else {}), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"^vLLM does not apply an adapter with {named} as it was trained$"):
        describe_adapter(tmp_path, "demo")


def test_rank_stabilised_adapters_are_loaded(tiny_run, tmp_path):
    config = json.loads((tiny_run / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "r": 9}))
    save_file(load_file(tiny_run / "adapter" / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    assert describe_adapter(tmp_path, "demo")[-2:] == ["--max-lora-rank", "16"]
