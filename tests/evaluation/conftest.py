"""Rows of every kind of task, and the tiny run measured on them once."""

import json
import shutil
from pathlib import Path

import pytest

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.runs.run import Run, open_run

ROWS = [
    {"id": "s1", "source": "reviews", "task": "sentiment", "text": "房间很干净", "label": "正面"},
    {"id": "s2", "source": "reviews", "task": "sentiment", "text": "又脏又吵", "label": "负面"},
    {"id": "s3", "source": "reviews", "task": "sentiment", "text": "服务态度好", "label": "正面"},
    {"id": "j1", "source": "reviews", "task": "sentiment_json", "text": "不会再来", "label": 0},
    {
        "id": "t1",
        "source": "press",
        "task": "news",
        "text": "三比一取胜",
        "category": ["体育", "经济"],
        "output": "体育",
    },
    {
        "id": "n1",
        "source": "press",
        "task": "ner",
        "text": "张华在北京",
        "entities": [
            {"start_idx": 0, "end_idx": 2, "entity_text": "张华", "entity_label": "PER"},
            {"start_idx": 3, "end_idx": 5, "entity_text": "北京", "entity_label": "GPE"},
        ],
    },
    {"id": "n2", "source": "press", "task": "ner", "text": "今天下雨", "entities": []},
    {
        "id": "q1",
        "source": "qa",
        "task": "instruct",
        "instruction": "What is LoRA?",
        "input": "",
        "output": "An adapter.",
    },
    {"id": "q2", "source": "qa", "task": "instruct", "instruction": "翻译", "input": "hello", "output": "你好"},
    {
        "id": "c1",
        "source": "qa",
        "task": "chat",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "你好吗"},
            {"role": "assistant", "content": "很好"},
        ],
    },
]

LIMITS = ("--max_seq_length", 400, "--max_new_tokens", 6)  # a Chinese character is three tokens of the tiny model


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_of(*flags: object) -> EvaluateSettings:
    return load_settings(EvaluateSettings, [str(flag) for flag in flags])


@pytest.fixture(scope="session")
def mixed_file(tmp_path_factory) -> Path:
    """Ten rows, two or more of nearly every task; none was trained on."""
    return write_jsonl(tmp_path_factory.mktemp("mixed") / "mixed.jsonl", ROWS)


@pytest.fixture(scope="session")
def run(tiny_run, tmp_path_factory) -> Run:
    """The tiny run in a folder of its own, with an adapter that changes what the model says."""
    from safetensors.torch import load_file, save_file

    from sft.models.source import describe_weights, hash_files

    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, folder)
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    grown = {name: tensor * 40 if "lora_B" in name else tensor for name, tensor in weights.items()}
    save_file(grown, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    grown_run = open_run(folder)
    grown_run.adapter, grown_run.files = describe_weights(folder / "adapter"), hash_files(folder / "adapter")
    grown_run.save()
    return open_run(folder)


@pytest.fixture(scope="session")
def loaded(run):
    """The run's model in memory."""
    from sft.models.loading import load_run

    return load_run(run)


@pytest.fixture(scope="session")
def evaluation(run, mixed_file):
    """Everything measured once: base and tuned, with ROUGE."""
    from sft.evaluation import evaluate_run

    return evaluate_run(run, settings_of("--data", mixed_file, "--rouge", *LIMITS))
