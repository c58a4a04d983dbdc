"""What cannot be done with weights in pieces is refused before anything is loaded."""

import pytest

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError
from sft.training.sharded import check_settings


@pytest.mark.parametrize(
    ("launcher", "flags", "message"),
    [
        ("FSDP", "--method qlora", "method qlora: weights in 4 bits cannot be cut into pieces; take --method lora"),
        ("DEEPSPEED", "--method lora --num_sample_predictions 2", "num_sample_predictions: one process cannot"),
        ("DEEPSPEED", "--method lora --dry_run", "dry_run: DeepSpeed's engine cannot take a step back"),
    ],
)
def test_a_setting_that_needs_whole_weights_is_refused(launcher, flags, message, monkeypatch):
    settings = load_settings(TrainSettings, flags.split())
    check_settings(settings)  # launched as one process
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(ConfigError) as caught:
        check_settings(settings)
    assert str(caught.value).startswith(message)
