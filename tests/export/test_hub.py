"""The real huggingface_hub client pushes to a hub on 127.0.0.1; what arrives loads, and holds no secret."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
import yaml
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sft.errors import RunError
from sft.export.hub import prepare_push, send
from sft.models.loading import load_run
from sft.runs.run import open_run
from tests.export.conftest import TOKEN

ROOT = Path(__file__).parents[2]
ADAPTER_FILES = [
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "prompt_fingerprint.json",
    "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip


@pytest.fixture
def push(strong_run, tmp_path):
    run = open_run(strong_run)
    return prepare_push(run, run.adapter_dir, "adapter", "ada/reviews", tmp_path / "stage")


def test_an_adapter_is_pushed_private_and_what_arrives_loads(hub, push, strong_run, tmp_path):
    assert send(push, private=True) == f"{hub.url}/ada/reviews"
    repository = hub.repositories["ada/reviews"]
    assert repository.private
    assert sorted(repository.files) == ADAPTER_FILES
    assert len(hub.objects) == 1  # the weights went by LFS
    folder = snapshot_download("ada/reviews", local_dir=tmp_path / "arrived", endpoint=hub.url, token=TOKEN)
    loaded = load_run(open_run(strong_run))
    base = AutoModelForCausalLM.from_pretrained(loaded.source.folder)
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        assert torch.equal(PeftModel.from_pretrained(base, folder)(ids).logits, loaded.model(ids).logits)


def test_nothing_that_is_sent_names_the_token_or_this_machine(push, strong_run):
    base = str(load_run(open_run(strong_run)).source.folder)
    for path in push.folder.iterdir():
        content = path.read_bytes()
        for secret in (TOKEN, base, str(strong_run), str(Path.home())):
            assert secret.encode() not in content, path.name


def test_checkpoints_optimizer_state_and_logs_are_not_among_what_is_sent(strong_run, tmp_path):
    run = open_run(strong_run)
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "trainer_state.json", "run.json", ".env"):
        (tmp_path / name).write_text("secret")
    for path in run.adapter_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "checkpoint-2").mkdir()
    assert list(prepare_push(run, tmp_path, "adapter", "a/b", tmp_path / "stage").files) == ADAPTER_FILES


def test_the_original_files_stay_as_they_were(push, strong_run):
    assert "base_model_name_or_path" in (config := json.loads((strong_run / "adapter/adapter_config.json").read_text()))
    assert config["base_model_name_or_path"].startswith("/")


def test_the_card_says_what_it_is_and_how_it_was_made(push):
    text = (push.folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["qwen-sft", "sft", "chatml", "instruct"],
    }  # the base is a folder of this machine: no base_model
    for part in ("# ada/reviews", "Be brief.", "sha256", "validation loss", "| lora_r | 16 |", "base weights: sha256"):
        assert part in body


def test_a_public_repository_is_not_filled_by_mistake(hub, push):
    send(push, private=False)
    with pytest.raises(RunError, match=r"^ada/reviews exists and is public; pass --no-private, or name another"):
        send(push, private=True)
    send(push, private=False)
    assert len(hub.repositories["ada/reviews"].commits) == 2


def test_without_a_token_or_with_a_wrong_one_one_line_says_so(hub, push, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match=r"^ada/reviews: the hub refused \(401\); does the token have write access\?$"):
        send(push, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RunError, match=r"^no token for the hub: run `hf auth login`, or set HF_TOKEN"):
        send(push, private=True)


def test_a_hub_that_does_not_answer_is_one_line(hub, push):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(RunError, match=r"^ada/reviews: no answer from the hub \(ConnectError\); check the network$"):
        send(push, private=True)


def test_a_dry_run_lists_what_would_be_sent_and_contacts_no_hub(hub, strong_run, capsys):
    flags = ["--run", str(strong_run), "--push", "ada/reviews", "--dry_run"]
    runpy.run_path(str(ROOT / "export.py"))["main"](flags)
    assert capsys.readouterr().out == "ada/reviews would get the files listed above.\n"
    runpy.run_path(str(ROOT / "export.py"))["main"]([*flags, "--json"])
    assert json.loads(capsys.readouterr().out)["push"] == {
        "repo_id": "ada/reviews",
        "private": True,
        "files": dict.fromkeys(ADAPTER_FILES, ANY),
    }
    assert hub.requests == []


@pytest.mark.slow
def test_the_command_pushes_and_its_log_holds_no_token(hub, strong_run):
    command = [sys.executable, "export.py", "--run", str(strong_run), "--push", "ada/reviews", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["push"]["url"] == f"{hub.url}/ada/reviews"
    assert TOKEN not in done.stdout + done.stderr
    for path in strong_run.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert not list(strong_run.glob(".unfinished-*"))
