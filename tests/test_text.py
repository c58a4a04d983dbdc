"""One idea of scripts and languages: what filters, strata and the report say of a text is the same."""

import random
import re
import string
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from sft.data.rows.canonical import exact_key, group_key
from sft.data.sources.base import Strata, StratumFinder
from sft.data.sources.filters import Filters, RowFilter
from sft.evaluation.rows import language_of_row
from sft.text import HAN, HANGUL, KANA, LATIN, detect_language, normalise_text, split_words

ROOT = Path(__file__).resolve().parent.parent
# Legacy encodings hold the first block alone, and prompts import nothing of sft.
OWN_RANGES = {"sft/text.py", "sft/data/files/opening.py", "prompts/task.py"}


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


def test_every_ideograph_counts_and_every_run_of_letters_and_digits_is_one_word():
    assert split_words("我用 Python3 写代码，2 小时！") == ["我", "用", "python3", "写", "代", "码", "2", "小", "时"]


def test_full_width_forms_and_case_are_made_equal():
    assert split_words("ＧＰＴ－４ Große") == split_words("gpt-4 grosse") == ["gpt", "4", "grosse"]


def test_kana_and_rare_ideographs_count_one_by_one_and_other_scripts_by_word():
    assert split_words("カタ𠮷人々 Привет, 안녕 하세요") == ["カ", "タ", "𠮷", "人", "々", "привет", "안녕", "하세요"]


def test_punctuation_emoji_and_underscores_are_no_words():
    assert split_words("__，。！？😀 -- \n") == []


def test_ascii_text_gives_the_tokens_of_rouge_score_without_stemming():
    rng, reference = random.Random(0), DefaultTokenizer(use_stemmer=False)
    for _ in range(300):
        text = "".join(rng.choices(string.printable, k=rng.randrange(0, 60)))
        assert split_words(text) == reference.tokenize(text)


# What makes two texts the same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｈello, World！", "helloworld"),
        ("很 好。\n真的——", "很好真的"),
        ("１２月３１日", "12月31日"),
        ("C++ > C", "c++>c"),  # symbols are no punctuation
        ("⑴ ﬁne", "1fine"),  # NFKC brings brackets that are removed, too
        ("！！！", "!!!"),  # nothing but punctuation: it is what the text says
        ("", ""),
    ],
)
def test_width_case_spaces_and_punctuation_do_not_count(text, expected):
    assert normalise_text(text) == expected


@given(st.text(max_size=40))
def test_a_normalised_text_is_the_same_however_it_was_composed(text):
    assert normalise_text(unicodedata.normalize("NFD", text)) == normalise_text(unicodedata.normalize("NFC", text))


def test_the_key_depends_on_seed_and_text_alone_and_never_changes():
    assert group_key("很好。", 42) == group_key("很 好", 42) == 5864220630504120366
    assert group_key("很好。", 42) != group_key("很好。", 43)


def test_rows_are_duplicates_only_where_task_question_and_answer_are_equal():
    row = {"id": "a-1", "source": "a", "task": "sentiment", "text": "很好", "label": "正面"}

    assert exact_key(row) == exact_key(row | {"id": "b-7", "source": "b"})
    assert exact_key(row) != exact_key(row | {"label": "负面"})
    assert exact_key(row) != exact_key(row | {"text": "很好。"})
