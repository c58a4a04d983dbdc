import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from sft.config.serve import ServeSettings
from sft.errors import ConfigError
from sft.runs.run import open_run
from sft.serve.vllm import build_command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "demo")
    return open_run(tmp_path / "demo")


def test_an_adapter_is_served_on_its_base_with_the_runs_prompt_as_template(run, tiny_model_folder):
    command = build_command(run, ServeSettings(port=9000, max_batch=4))
    template = run.path / "export" / "chat_template.jinja"
    assert command == [
        "vllm", "serve", str(tiny_model_folder), "--enable-lora", "--lora-modules", f"demo={run.adapter_dir}",
        "--max-lora-rank", "16", "--dtype", "float32", "--enforce-eager", "--generation-config", str(template.parent),
        "--chat-template", str(template),
        "--host", "127.0.0.1", "--port", "9000", "--max-num-seqs", "4",
    ]  # fmt: skip
    assert '"Be brief."' in template.read_text()
    config = GenerationConfig.from_pretrained(template.parent)
    assert (config.eos_token_id, config.temperature) == ([2, 0], 0.0)  # <|im_end|>, <|endoftext|>; greedy


def test_an_adapter_that_vllm_does_not_take_has_to_be_merged_first(run):
    config = run.adapter_dir / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(ConfigError, match=r"^demo: vLLM does not apply an adapter with DoRA .* --merge` first, then"):
        build_command(run, ServeSettings())


def test_a_run_on_four_bits_is_served_on_four_bits_and_on_a_cpu_merged(run, monkeypatch):
    run.settings["method"] = "qlora"
    with pytest.raises(
        ConfigError, match=r"^demo: vLLM has no base in 4 bits on a CPU; run `python export.py .* --merge`"
    ):
        build_command(run, ServeSettings())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = build_command(run, ServeSettings())
    assert command[command.index("--quantization") + 1] == "bitsandbytes"


def test_weights_that_were_trained_themselves_are_served_from_the_run(full_run, tmp_path):
    shutil.copytree(full_run, tmp_path / "demo")
    run = open_run(tmp_path / "demo")
    command = build_command(run, ServeSettings())
    template = run.path / "export" / "chat_template.jinja"
    assert command == [
        "vllm", "serve", str(run.path / "model"), "--served-model-name", "demo",
        "--dtype", "float32", "--enforce-eager", "--generation-config", str(template.parent),
        "--chat-template", str(template), "--host", "127.0.0.1", "--port", "8000", "--max-num-seqs", "16",
    ]  # fmt: skip


def test_merged_weights_of_this_very_run_are_served_instead(run, tiny_model_folder):
    merged = run.path / "export" / "merged"
    shutil.copytree(tiny_model_folder, merged)
    record = {"merged": {"adapter": run.adapter, "fingerprint": run.fingerprint.digest}}
    (run.path / "export" / "export.json").write_text(json.dumps(record))
    (merged / "generation_config.json").write_text('{"eos_token_id": [2], "temperature": 0.7}')
    assert build_command(run, ServeSettings(name="shop")) == [
        "vllm", "serve", str(merged), "--served-model-name", "shop", "--dtype", "float32", "--enforce-eager",
        "--generation-config", str(merged.parent), "--host", "127.0.0.1", "--port", "8000", "--max-num-seqs", "16",
    ]  # fmt: skip
    assert json.loads((merged.parent / "generation_config.json").read_text()) == {"eos_token_id": [2], "temperature": 0}
    record["merged"]["adapter"] = "sha256 of another training"
    (run.path / "export" / "export.json").write_text(json.dumps(record))
    assert "--enable-lora" in build_command(run, ServeSettings())


def serve_with(path: Path | str, run, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "serve.py", "--run", str(run.path), "--backend", "vllm"]
    values = {**os.environ, **environment, "PATH": str(path)}
    return subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_vllm_gets_the_key_in_its_environment_and_not_on_its_command_line(run, tmp_path):
    fake = tmp_path / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport os, sys\nprint(os.environ['VLLM_API_KEY'], sys.argv[1:])\n")
    fake.chmod(0o755)
    done = serve_with(fake.parent, run, QWEN_SFT_API_KEY="sk-secret")
    assert done.stdout.startswith("sk-secret ['serve', ")
    assert "sk-secret" not in done.stderr + done.stdout.removeprefix("sk-secret")
