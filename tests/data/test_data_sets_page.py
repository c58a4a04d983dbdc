"""docs/data_sets.md: what it shows is built, as it stands there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import load_preset, preset_names
from tests.hub_lookalikes import words_of, write_jsonl

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data_sets.md").read_text(encoding="utf-8")
REGISTRY, PRESET = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_registry_and_the_preset_of_the_page_build(lookalikes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("datasets.yaml").write_text(REGISTRY, encoding="utf-8")
    Path("my_mixture.yaml").write_text(PRESET, encoding="utf-8")
    rows = [{"instruction": f"question {words_of(n + 5000)}", "input": "", "output": f"answer {n}"} for n in range(60)]
    write_jsonl(Path("reports.jsonl"), rows)

    build_dataset(load_preset("my_mixture.yaml", total=20), Path("data/tiny"), BuildOptions())

    tiny = open_dataset("data/tiny")
    assert Counter(row["source"] for row in tiny.train + tiny.validation) == {"own": 10, "medicine": 10}
    medicine = next(row for row in tiny.train if row["source"] == "medicine")
    assert re.fullmatch(r"Abstract:\nBackground \d+\.\nResults [0-9a-f ]+\.", medicine["input"])
    assert medicine["output"] == "yes"
    assert len(open_dataset("reports").train) == 54


@pytest.mark.parametrize("name", preset_names())
def test_the_page_lists_every_preset_with_its_rows(name):
    total = sum(plan.total for plan in load_preset(name).plans())

    assert f"| {name} | {total:,} |" in PAGE
