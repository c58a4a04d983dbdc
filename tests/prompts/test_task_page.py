"""docs/tasks.md, followed to the letter in a copy of the package."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page_that_adds_a_task_can_be_followed_literally(tmp_path):
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    blocks = dict(BLOCK.findall(page))
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts", ignore=shutil.ignore_patterns("__pycache__"))
    [path] = re.findall(r"^1\. Write `(.*)`:$", page, re.MULTILINE)
    (tmp_path / path).write_text(blocks["python"], encoding="utf-8")

    command = blocks["bash"].strip().removeprefix("python -c '").removesuffix("'")
    printed = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ast.literal_eval(printed.stdout) == [
        {
            "role": "user",
            "content": "How urgent is this ticket, low or high?\nThe server room is on fire.",
            "document": (40, 67),
        },
        {"role": "assistant", "content": "high"},
    ]

    use = (
        "import json, sys; from prompts import *; from prompts.tasks import *; row = json.loads(sys.argv[1]); "
        "task = get_task('urgency'); print(task_names(), conversation_of(row, 'Be brief.')[1:], "
        "task.allowed_labels(row), task.reference_of(row), task.parse_answer('High.', row), "
        "task.parse_answer('perhaps', row).reason, sep='\\n')"
    )
    row = blocks["json"].strip()
    used = subprocess.run([sys.executable, "-c", use, row], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert used.stdout.splitlines() == [
        "('chat', 'instruct', 'moderation', 'ner', 'news', 'sentiment', 'sentiment_json', 'urgency')",
        "[{'role': 'user', 'content': 'How urgent is this ticket, low or high?\\nThe printer is slow.', "
        "'document': (40, 60)}, {'role': 'assistant', 'content': 'low'}]",
        "('low', 'high')",
        "low",
        "high",
        "the answer is none of low, high",
    ]


def test_the_page_shows_a_task_in_thirty_lines():
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    steps = page[page.index("1. Write") : page.index("## What the parts mean")]

    assert len([line for line in steps.splitlines() if line and not line.startswith("```")]) <= 30
