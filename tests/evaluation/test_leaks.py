import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sft.evaluation.leaks import (
    CONTAINED,
    JACCARD,
    MIN_CONTAINED,
    NGRAM,
    Overlap,
    describe_leaks,
    find_overlaps,
)
from sft.text import normalise_text


def review(name: str, text: str) -> dict:
    return {"id": name, "source": "x", "task": "sentiment", "text": text, "label": "正面"}


def question(name: str, instruction: str, given: str = "") -> dict:
    return {"id": name, "source": "x", "task": "instruct", "instruction": instruction, "input": given, "output": "y"}


LONG = "酒店的位置很好离地铁站只有五分钟房间宽敞明亮早餐种类丰富前台服务热情周到下次还会选择这里"


def test_the_same_text_in_other_width_case_and_punctuation_is_exact():
    training = [review("t1", "Ｈotel 很好！房间 干净。"), review("t2", "完全不同的一句话")]
    assert find_overlaps([review("r", "hotel很好，房间干净")], training) == {"r": Overlap("exact", "t1", 1.0)}


def test_a_text_with_a_few_changed_characters_is_near_the_one_most_like_it():
    training = [review("t1", LONG), review("t2", LONG[:-2] + "那里"), review("t3", LONG[::-1])]
    found = find_overlaps([review("r", LONG[:-1] + "哦")], training)
    assert (found["r"].kind, found["r"].training_id) == ("near", "t1")
    assert JACCARD <= found["r"].similarity < 1


def test_a_passage_copied_into_a_longer_text_is_near_and_a_short_common_phrase_is_not():
    training = [review("t1", "另外一段文字。" * 3 + LONG + "后面还有很多别的内容完全没有关系" * 2)]
    assert find_overlaps([review("r", LONG)], training)["r"] == Overlap("near", "t1", 1.0)
    assert find_overlaps([review("r", "房间宽敞明亮")], training) == {}


def test_rows_of_other_texts_are_no_overlap():
    training = [review("t1", LONG), review("t2", "Nothing alike at all, in another language.")]
    assert (
        find_overlaps([review("r", "手机电池不耐用，充电一次只能用半天，屏幕也容易划伤，不推荐购买。")], training) == {}
    )
    assert find_overlaps([review("r", LONG)], []) == {}
    assert find_overlaps([], training) == {}


def test_an_instruction_that_many_rows_share_makes_none_of_them_alike():
    instruction = "Summarise the following report for a reader who knows nothing of the field, in two sentences."
    training = [question(f"t{number}", instruction, f"report number {number}") for number in range(3)]
    assert find_overlaps([question("r", instruction, "an altogether different text")], training) == {}
    assert find_overlaps([question("r", instruction, "Report number 2.")], training)["r"].kind == "exact"
    alone = [question("t", instruction)]
    assert find_overlaps([question("r", instruction.replace("two", "three"))], alone)["r"].kind == "near"


def brute_force(row: dict, training: list[dict]) -> float:
    """The similarity to the most similar training row, by the definition: every pair, no shortcut."""

    def grams(text: str) -> set[str]:
        text = normalise_text(text)
        return {text[start : start + NGRAM] for start in range(max(1, len(text) - NGRAM + 1))}

    own, best = grams(row["text"]), 0.0
    for other in training:
        theirs = grams(other["text"])
        similarity = len(own & theirs) / len(own | theirs)
        share = len(own & theirs) / len(own)
        if len(own) >= MIN_CONTAINED and share >= CONTAINED:
            similarity = max(similarity, share)
        best = max(best, similarity)
    return best


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**9))
def test_what_is_found_is_what_comparing_every_pair_finds(seed):
    rng = random.Random(seed)
    training = [review(f"t{number}", "".join(rng.choices("甲乙丙ab", k=rng.randint(1, 40)))) for number in range(6)]
    rows = []
    for number in range(4):
        text = list(rng.choice(training)["text"] + "".join(rng.choices("甲乙丙ab", k=rng.randint(0, 20))))
        for _ in range(rng.randint(0, 4)):
            text[rng.randrange(len(text))] = rng.choice("甲乙丙ab")
        rows.append(review(f"r{number}", "".join(text)))
    found = find_overlaps(rows, training)
    for row in rows:
        expected = brute_force(row, training)
        exact = any(normalise_text(row["text"]) == normalise_text(other["text"]) for other in training)
        similarity = found[row["id"]].similarity if row["id"] in found else 0.0
        assert similarity == (1.0 if exact else expected if expected >= JACCARD else 0.0)


def test_the_figures_count_both_kinds_over_all_rows():
    overlaps = {"a": Overlap("exact", "t1", 1.0), "b": Overlap("near", "t2", 0.7), "c": Overlap("near", "t3", 0.8)}
    figures = describe_leaks([review("t", "x")], overlaps, 12, checked=True)
    assert {name: value for name, value in figures.items() if name != "signature"} == {
        "checked": True,
        "training_rows": 1,
        "exact": 1,
        "near": 2,
        "share": 0.25,
        "ids": ["a", "b", "c"],
    }
