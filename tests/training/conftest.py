"""A run on the tiny model, a run that is interrupted, and a model with a flaw."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import Dataset, open_dataset
from sft.models.loading import load_tokenizer
from sft.training.fit import TrainResult, fit
from sft.training.log import StepLog


@pytest.fixture
def train(tiny_model_folder: Path, rows_file: Path, tmp_path: Path):
    """train("--max_steps", "2") -> the result of a run on the tiny model in tmp_path/run."""

    def run(*flags: object, folder: str = "run", dataset: Dataset | None = None) -> TrainResult:
        always = ["--model", tiny_model_folder, "--data", rows_file, "--output_dir", tmp_path / folder]
        always += ["--method", "lora", "--dtype", "fp32", "--max_seq_length", "192"]
        always += ["--system_prompt", "Be brief."]
        settings = load_settings(TrainSettings, [str(word) for word in [*always, *flags]])
        split = {"eval_ratio": settings.eval_ratio, "seed": settings.split_seed}
        return fit(settings, dataset or open_dataset(settings.data, **split))

    return run


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """with interrupt(3): Ctrl-C in step 3, before it is logged and saved."""

    @contextmanager
    def at(step: int) -> Iterator[None]:
        on_step_end = StepLog.on_step_end

        def stop(self, args, state, control, **more):
            on_step_end(self, args, state, control, **more)
            if state.global_step == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(StepLog, "on_step_end", stop)
            yield

    return at


@pytest.fixture
def flawed_model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with NaN as the embedding of `~`: rows that hold one have no loss, all others do."""
    target = shutil.copytree(tiny_model_folder, tmp_path / "flawed")
    (token,) = load_tokenizer(target).encode("~", add_special_tokens=False)
    weights = load_file(target / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = math.nan
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target
