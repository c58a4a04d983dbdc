"""Scaled positions: a run has them in training, wherever it is loaded, in its record and in what is exported."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from sft.config.export import ExportSettings
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import open_dataset
from sft.errors import ConfigError, ModelError, RunError
from sft.export.card import build_card
from sft.export.flow import export_run
from sft.models.loading import choose_rope_scaling, describe_rope, load_run
from sft.runs.run import open_run
from sft.training.fit import fit

YARN = {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}
ALWAYS = (
    "--method", "lora", "--dtype", "fp32", "--max_steps", "2", "--eval_steps", "1", "--learning_rate", "1e-2",
    "--neftune_noise_alpha", "0", "--system_prompt", "Be brief.",
)  # fmt: skip


def train(model: Path, rows: Path, folder: Path, *flags: str) -> Path:
    """A run on the tiny model, which reads 512 tokens."""
    given = ["--model", str(model), "--data", str(rows), "--output_dir", str(folder), *ALWAYS, *flags]
    settings = load_settings(TrainSettings, given)
    fit(settings, open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed))
    return folder


@pytest.fixture(scope="module")
def scaled_run(tiny_model_folder, rows_file, tmp_path_factory) -> Path:
    """Trained with yarn:2:512."""
    folder = tmp_path_factory.mktemp("scaled") / "run"
    return train(tiny_model_folder, rows_file, folder, "--rope_scaling", "yarn", "--max_seq_length", "1000")


@torch.inference_mode()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    return model(torch.arange(3, 103)[None]).logits


def test_a_run_is_loaded_with_the_positions_that_it_was_trained_with(scaled_run, tiny_model_folder):
    assert json.loads((scaled_run / "run.json").read_text())["base"]["rope_scaling"] == "yarn:2:512"
    loaded = load_run(open_run(scaled_run))
    assert loaded.causal_lm.config.rope_parameters == YARN
    assert loaded.max_context == 1024
    stock = AutoModelForCausalLM.from_pretrained(tiny_model_folder, rope_parameters=YARN, max_position_embeddings=1024)
    usual = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with loaded.adapter_off() as untuned:
        torch.testing.assert_close(logits_of(untuned.model), logits_of(stock), atol=1e-5, rtol=1e-5)
        assert (logits_of(untuned.model) - logits_of(usual)).abs().max() > 1e-4


def test_the_merged_model_and_the_code_of_the_adapters_card_scale_as_well(scaled_run, tiny_model_folder, tmp_path):
    run = open_run(scaled_run)
    export_run(run, ExportSettings(num_prompts=2, max_new_tokens=4, merge=True), tmp_path / "export")
    merged = AutoConfig.from_pretrained(tmp_path / "export" / "merged")
    assert (merged.rope_parameters, merged.max_position_embeddings) == (YARN, 1024)
    card = build_card(run, "adapter", title=str(scaled_run / "adapter"))
    assert "| rope_scaling | yarn |" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names: dict[str, object] = {}
    exec(code.replace(f'"{tiny_model_folder.name}"', repr(str(tiny_model_folder))), names)
    torch.testing.assert_close(logits_of(names["model"]), logits_of(load_run(run).model), atol=1e-5, rtol=1e-5)


def test_a_run_is_not_resumed_with_other_positions(scaled_run, tiny_model_folder, rows_file):
    again = ("--max_seq_length", "1000", "--max_steps", "4", "--resume_from_checkpoint", "auto")
    with pytest.raises(RunError, match=r"base rope_scaling"):
        train(tiny_model_folder, rows_file, scaled_run, *again, "--rope_scaling", "linear:2")


@pytest.mark.slow
def test_rows_beyond_the_models_positions_are_warned_of_unless_rope_is_scaled(tiny_model_folder, tmp_path, capsys):
    rows = tmp_path / "long.jsonl"
    made = ({"instruction": f"hello {number} " * 70, "input": "", "output": "yes"} for number in range(20))
    rows.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    train(tiny_model_folder, rows, tmp_path / "usual")
    train(tiny_model_folder, rows, tmp_path / "scaled", "--rope_scaling", "yarn:2")
    told = re.findall(r"WARNING the longest row has ([\d,]+) tokens.*built for ([\d,]+)", capsys.readouterr().err)
    assert len(told) == 1
    assert told[0][1] == "512"


@pytest.mark.parametrize(
    ("wanted", "longest", "chosen"),
    [("yarn", 100_000, "yarn:4:32768"), ("yarn:2.5", 9, "yarn:2.5:32768"), ("yarn:4:8192", 9, "yarn:4:8192"),
     ("linear", 40_000, "linear:2:32768")],
)  # fmt: skip
def test_a_scaling_is_spelled_out(wanted, longest, chosen):
    config = Qwen2Config(max_position_embeddings=32768)
    assert choose_rope_scaling(config, wanted, longest) == chosen
    assert describe_rope(config, None) == {}


def test_positions_are_not_scaled_twice():
    config = Qwen2Config(rope_parameters={**YARN, "original_max_position_embeddings": 32768})
    with pytest.raises(ModelError, match="scales its positions already"):
        choose_rope_scaling(config, "yarn", 100)


@pytest.mark.parametrize("value", ["yarn:4", {"rope_type": "yarn", "factor": 4}, {"type": "yarn", "factor": 4}])
def test_a_setting_is_read_as_others_write_it(value):
    assert TrainSettings(rope_scaling=value).rope_scaling == "yarn:4"


@pytest.mark.parametrize("value", ["dynamic:2", "yarn:0", "yarn:x", "yarn:4:", {"rope_type": "llama3", "factor": 8}])
def test_other_settings_are_refused(value):
    with pytest.raises((ConfigError, ValueError), match="yarn"):
        TrainSettings(rope_scaling=value)
