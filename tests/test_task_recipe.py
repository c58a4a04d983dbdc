"""recipes/tasks: a task in YAML from a shop's own table to a trained, measured and asked model."""

from pathlib import Path

import pytest

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import open_dataset_of
from sft.evaluation import evaluate_run
from sft.inference import Predictor
from sft.runs.run import open_run
from sft.training.fit import fit

ROWS = [
    ("发货很快，质量也好", "好评"),
    ("用了两天就坏了", "差评"),
    ("客服态度不错", "好评"),
    ("味道很怪，不推荐", "差评"),
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """reviews.csv as Excel in China saves it: GBK, semicolons, Chinese headers; in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    lines = ["评论;标签", *(f"{text}{number};{label}" for number in range(10) for text, label in ROWS)]
    (tmp_path / "reviews.csv").write_bytes("\r\n".join(lines).encode("gbk"))
    return tmp_path / "reviews.csv"


def test_the_shipped_task_goes_from_a_shops_table_to_answers(table, tiny_model_folder, capsys):
    flags = ["--data", table.name, "--task", "shop_reviews", "--output_dir", "run", "--model", str(tiny_model_folder)]
    flags += ["--method", "lora", "--max_steps", "2", "--system_prompt", "Be brief."]
    settings = load_settings(TrainSettings, flags)
    fit(settings, open_dataset_of(settings))
    said = capsys.readouterr().err
    for told in ("cells are separated by semicolons", "read as GB18030 (GBK)", "reviews.csv: 40 rows"):
        assert told in said

    run = open_run("run")
    metrics = evaluate_run(run, load_settings(EvaluateSettings, ["--run", "run", "--no-baseline"])).metrics
    scored = metrics["classification"]["by_task"]["shop_reviews"]["label_scoring"]
    assert scored["per_class"].keys() == {"差评", "好评"}
    assert Predictor(run).predict("质量不错").label in ("差评", "好评")
