"""docs/tasks.md, followed to the letter in a copy of the whole project."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the task that the page adds, and rows of it."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("prompts", "sft", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, copy)
    blocks = dict(BLOCK.findall(PAGE))
    [path] = re.findall(r"^1\. Write `(.*)`:$", PAGE, re.MULTILINE)
    (copy / path).write_text(blocks["python"], encoding="utf-8")
    row = json.loads(blocks["json"])
    rows = [
        row | {"id": f"t-{n}", "text": f"{n} of the lifts hang.", "label": ("low", "high")[n % 2]} for n in range(30)
    ]
    (copy / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return copy


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_rows_of_the_added_task_are_read_built_and_dealt_by_label(project):
    code = """
from pathlib import Path
from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
rows = open_dataset("tickets.jsonl", eval_ratio=0).train
print(len(rows), rows[0])
source = {"kind": "file", "path": "tickets.jsonl"}
preset = {"splits": {"train": {"rows": {"own": {"low": 5, "high": 9}}}}, "sources": {"own": source}}
print(build_dataset(Preset.model_validate(preset), Path("built"), BuildOptions())["sources"]["own"]["strata"])
Path("plain.csv").write_text("text,label\\nIt burns.,high\\nIt is cold.,low\\n")
print([(row["task"], row["label"]) for row in open_dataset("plain.csv", eval_ratio=0).train])
"""
    assert run(project, "-c", code).stdout.splitlines() == [
        "30 {'id': 't-0', 'source': 'tickets', 'task': 'urgency', 'text': '0 of the lifts hang.', 'label': 'low'}",
        "{'low': 5, 'high': 9}",
        "[('urgency', 'high'), ('urgency', 'low')]",
    ]


@pytest.mark.slow
def test_an_added_task_works_in_inspect_train_evaluate_and_inference(project, tiny_model_folder):
    model = ("--model", str(tiny_model_folder), "--max_steps", "1", "--method", "lora")
    shown = run(project, "inspect_data.py", "tickets.jsonl", "--model", str(tiny_model_folder), "--n", "1").stdout
    assert "How urgent is this ticket, low or high?" in shown
    run(project, "train.py", "--data", "tickets.jsonl", *model, "--dry_run")
    run(project, "train.py", "--data", "tickets.jsonl", *model, "--output_dir", "run")
    metrics = json.loads(run(project, "evaluate.py", "--run", "run", "--no-baseline", "--json").stdout)
    assert set(metrics["classification"]["by_task"]["urgency"]["label_scoring"]["per_class"]) == {"low", "high"}
    asked = json.loads(run(project, "inference.py", "--run", "run", "--text", "It burns.", "--json").stdout)
    assert (asked["task"], asked["label"] in ("low", "high")) == ("urgency", True)


@pytest.mark.slow
def test_labels_without_a_file_train_and_answer_without_another_flag(project, tiny_model_folder):
    lines = [f"第{n}间房{('太吵了', '很干净')[n % 2]},{('差评', '好评')[n % 2]}" for n in range(30)]
    (project / "reviews.csv").write_text("\n".join(["评论,标签", *lines]) + "\n", encoding="utf-8")
    flags = ("--data", "reviews.csv", "--columns", "text=评论,label=标签", "--labels", "差评,好评")
    model = ("--model", str(tiny_model_folder), "--max_steps", "1", "--method", "lora")

    run(project, "train.py", *flags, *model, "--output_dir", "run")
    run(project, "train.py", *flags, *model, "--output_dir", "head", "--head", "classification")

    for name in ("run", "head"):
        asked = json.loads(run(project, "inference.py", "--run", name, "--text", "很好", "--json").stdout)
        assert set(asked["probabilities"]) == {"差评", "好评"}
    metrics = json.loads(run(project, "evaluate.py", "--run", "run", "--no-baseline", "--json").stdout)
    assert set(metrics["classification"]["by_task"]["差评/好评"]["label_scoring"]["per_class"]) == {"差评", "好评"}
    answers = ("--output", "answers.jsonl")
    run(project, "inference.py", "--run", "run", "--file", "reviews.csv", *answers)
    assert len((project / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 30


def test_the_page_that_adds_a_task_can_be_followed_literally(project):
    blocks = dict(BLOCK.findall(PAGE))

    command = blocks["bash"].strip().removeprefix("python -c '").removesuffix("'")
    printed = subprocess.run([sys.executable, "-c", command], cwd=project, capture_output=True, text=True, check=True)
    assert ast.literal_eval(printed.stdout) == [
        {
            "role": "user",
            "content": "How urgent is this ticket, low or high?\nThe server room is on fire.",
            "document": (40, 67),
            "answers": ("low", "high"),
        },
        {"role": "assistant", "content": "high"},
    ]

    use = (
        "import json, sys; from prompts import *; from prompts.tasks import *; row = json.loads(sys.argv[1]); "
        "task = get_task('urgency'); print(task_names(), conversation_of(row, 'Be brief.')[1:], "
        "task.allowed_labels(row), task.parse_answer(task.answer_of(row), row), task.parse_answer('High.', row), "
        "task.parse_answer('perhaps', row).reason, sep='\\n')"
    )
    row = blocks["json"].strip()
    used = subprocess.run([sys.executable, "-c", use, row], cwd=project, capture_output=True, text=True, check=True)
    assert used.stdout.splitlines() == [
        "('chat', 'instruct', 'moderation', 'ner', 'news', 'sentiment', 'sentiment_json', 'text', 'urgency')",
        "[{'role': 'user', 'content': 'How urgent is this ticket, low or high?\\nThe printer is slow.', "
        "'document': (40, 60), 'answers': ('low', 'high')}, {'role': 'assistant', 'content': 'low'}]",
        "('low', 'high')",
        "low",
        "high",
        "the answer is none of low, high",
    ]


def test_the_page_shows_a_task_in_thirty_lines():
    page = PAGE
    steps = page[page.index("1. Write") : page.index("## The fields of a task")]

    assert len([line for line in steps.splitlines() if line and not line.startswith("```")]) <= 30
