"""Code that comes with weights runs where this call asks for it, and nowhere else; nothing ever asks."""

import io
import json
import shutil
from pathlib import Path

import pytest

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ModelError
from sft.models.loading import load_base, load_chat_format, load_for_training, load_run, load_tokenizer
from sft.runs.run import RUN_FILE, open_run

CODE = """
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
class Evil(PreTrainedTokenizerFast): pass
class EvilConfig(Qwen2Config): model_type = "evil"
class EvilModel(Qwen2ForCausalLM): config_class = EvilConfig
"""


@pytest.fixture(autouse=True)
def says_yes(monkeypatch) -> None:
    """Whoever asks on standard input is told yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody asked"))


def booby_trap(folder: Path, name: str) -> Path:
    """Let a file of the folder name code of its own; the file that is there once that code has run."""
    mark = folder.parent / "ran"
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    path = folder / name
    content = json.loads(path.read_text())
    if name == "tokenizer_config.json":
        content |= {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "tokenizer_class": "Evil"}
    else:
        places = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
        content |= {"auto_map": places, "model_type": "evil"}
    path.write_text(json.dumps(content))
    return mark


TRAPS = ["tokenizer_config.json", "config.json"]


def test_a_model_with_code_of_its_own_is_refused_and_the_flag_is_named(tiny_model_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    mark = booby_trap(folder, "config.json")
    flags = ["--model", str(folder), "--method", "lora"]
    calls = [
        lambda: load_base(str(folder)),
        lambda: load_for_training(load_settings(TrainSettings, flags), "transformers"),
        lambda: load_for_training(load_settings(TrainSettings, flags), "unsloth"),
    ]
    for call in calls:
        with pytest.raises(ModelError, match="read that code, then pass --trust_remote_code to run it") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_tokenizer_with_code_of_its_own_runs_none(tiny_model_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    mark = booby_trap(folder, "tokenizer_config.json")
    load_base(str(folder))  # by transformers' own class for this kind of model
    load_chat_format(str(folder))
    (folder / "config.json").unlink()  # as beside an adapter: only the code says what class it is
    with pytest.raises(ModelError, match="read that code, then pass --trust_remote_code to run it"):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", TRAPS)
def test_the_flag_runs_the_models_own_code(name: str, tiny_model_folder: Path, tmp_path):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    mark = booby_trap(folder, name)
    load_base(str(folder), trust_remote_code=True)
    assert mark.read_text() == "ran"


def test_a_run_that_was_trained_with_it_needs_the_flag_again(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    mark = booby_trap(run / "adapter", "tokenizer_config.json")
    content = json.loads((run / RUN_FILE).read_text())
    content["settings"]["trust_remote_code"] = True
    (run / RUN_FILE).write_text(json.dumps(content))
    opened = open_run(run)
    assert opened.train_settings().trust_remote_code
    assert "trust_remote_code" not in opened.began_with()  # to resume it takes the flag as well
    with pytest.raises(ModelError, match="pass --trust_remote_code"):
        load_run(opened, allow_mismatch=True)
    assert not (run / "ran").exists()
    assert not mark.exists()
    load_run(opened, allow_mismatch=True, trust_remote_code=True)
    assert mark.read_text() == "ran"
