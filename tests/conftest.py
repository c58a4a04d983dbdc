"""Fixtures that several tests share: a tiny random ChatML model, the embedded model, and a finished run of each.

Everything is real (tokenizer, model, trainer, files), only small.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs a hub brings one and says so
# Before torch: two test processes with a thread a core each only wait for one another (scripts under test inherit it).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from prompts import tasks
from tests.tiny import make_tiny_model, write_reviews, write_rows


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that a test describes are known in it alone."""
    monkeypatch.setattr(tasks, "_added", dict(tasks._added))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch computes on two threads in this test, whatever the machine has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def latest_of_the_checkout_stays() -> Iterator[None]:
    """Runs that tests train in this process do not become the outputs/latest of whoever runs the tests."""
    from sft.runs import run

    point_latest_at, checkout = run._point_latest_at, Path(__file__).parents[1]

    def point_elsewhere(run_dir: Path) -> None:
        if Path.cwd() != checkout:
            point_latest_at(run_dir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_point_latest_at", point_elsewhere)
        yield


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ChatML model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows in instruction/input/output form."""
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="session")
def tiny_run(tiny_model_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run of four steps on the tiny model: its run folder. Tests must not change it."""
    return train_tiny(tmp_path_factory.mktemp("tiny_run") / "run", "lora", tiny_model_folder, rows_file)


@pytest.fixture(scope="session")
def full_run(tiny_model_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every weight trained: a run without an adapter."""
    return train_tiny(tmp_path_factory.mktemp("full_run") / "run", "full", tiny_model_folder, rows_file)


@pytest.fixture(scope="session")
def tied_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ChatML model whose output layer is its input embedding, as in Qwen3-1.7B and SmolLM2."""
    return make_tiny_model(tmp_path_factory.mktemp("tied_model"), tied=True)


@pytest.fixture(scope="session")
def reviews_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight labelled reviews."""
    return write_reviews(tmp_path_factory.mktemp("reviews") / "reviews.jsonl")


@pytest.fixture(scope="session")
def head_run(tied_model_folder: Path, reviews_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run with a classification head, on the tied model: its run folder. Tests must not change it."""
    folder = tmp_path_factory.mktemp("head_run") / "run"
    return train_tiny(
        folder, "lora", tied_model_folder, reviews_file, "--head", "classification", "--learning_rate", "1e-2"
    )


@pytest.fixture
def copy_of_head_run(head_run: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(head_run, tmp_path / "copy")


def train_tiny(folder: Path, method: str, model: Path, rows: Path, *more: str) -> Path:
    """A run of four steps."""
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training.fit import fit

    flags = ["--model", str(model), "--data", str(rows), "--output_dir", str(folder), "--method", method]
    flags += ["--dtype", "fp32", "--max_steps", "4", "--eval_steps", "2", "--max_seq_length", "192"]
    settings = load_settings(TrainSettings, [*flags, "--system_prompt", "Be brief.", *more])
    fit(settings, open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed))
    return folder


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The embedded SmolLM2-135M, converted into the machine's cache by the first test that needs it."""
    from sft.models.source import embedded_model_folder

    return embedded_model_folder()


@pytest.fixture(scope="session")
def embedded_tokenizer(embedded_folder: Path):
    """SmolLM2's real tokenizer."""
    from sft.models.loading import load_tokenizer

    return load_tokenizer(embedded_folder)
