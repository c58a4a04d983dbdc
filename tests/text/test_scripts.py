"""One idea of scripts and languages: what filters, strata and the report say of a text is the same."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from sft.data.sources.base import Strata, StratumFinder
from sft.data.sources.filters import Filters, RowFilter
from sft.evaluation.rows import language_of_row
from sft.text.words import HAN, HANGUL, KANA, LATIN, detect_language

ROOT = Path(__file__).parents[2]
# Legacy encodings hold the first block alone, and prompts import nothing of sft.
OWN_RANGES = {"sft/text/words.py", "sft/data/files/opening.py", "prompts/task.py"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I ate great noodles in 北京 and I will be back", "en"),
        ("我用 python 写代码", "zh"),
        ("これは何ですか", "ja"),
        ("서울은 어디에 있습니까", "ko"),
        ("Что такое LoRA и зачем", "ru"),
        ("Robots should die", "en"),
        ("Which mammal has no vocal cords?", "en"),
        ("No se puede", "es"),
        ("𠮷𠮷", "zh"),
        ("12 + 7 = ?", ""),
    ],
)
def test_filters_strata_and_slices_agree_on_the_language(text, language):
    row = {"task": "instruct", "instruction": text, "input": "", "output": "1"}
    assert detect_language(text) == language
    assert StratumFinder(Strata(by="language", shares={"zh": 1})).find(row) == language
    reason = RowFilter(Filters(languages=("he",))).find_reason(row)
    assert reason is not None
    assert reason.detail == (language or "no letters")
    assert language_of_row(SimpleNamespace(row=row)) == (language or "none")


def test_ranges_hold_their_scripts_and_nothing_of_another():
    samples = {HAN: "北㐂豈𠮷", KANA: "あアㇰ", HANGUL: "한ᄒㅎ", LATIN: "aZéẞ"}
    for script in samples:
        found = {sample for sample, text in samples.items() if re.search(f"[{script}]", text)}
        assert found == {script}
        assert re.fullmatch(f"[{script}]+", samples[script])


def test_no_other_module_writes_the_range_of_han_by_hand():
    files = [path for room in ("sft", "prompts") for path in sorted((ROOT / room).rglob("*.py"))]
    by_hand = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if re.search(r"u4e00|\\u3400|\u4e00-", path.read_text(encoding="utf-8"))
    }
    assert by_hand == OWN_RANGES
