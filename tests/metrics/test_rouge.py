import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from sft.metrics.generations import ROUGE_TYPES, rouge_signature, score_rouge

WORDS = ["the", "model", "reads", "Python", "code", "42", "times", "and", "ends."]


def test_identical_chinese_scores_one():
    assert score_rouge(["这家酒店很好"], ["这家酒店很好"]) == {"rouge1": [1.0], "rouge2": [1.0], "rougeL": [1.0]}


def test_sentences_that_share_only_their_latin_word_do_not_score_one():
    scores = score_rouge(["我用 python 写代码"], ["他不用 python 跑步"])
    assert scores == {
        "rouge1": [pytest.approx(1 / 3)],
        "rouge2": [pytest.approx(1 / 5)],
        "rougeL": [pytest.approx(1 / 3)],
    }


def test_english_equals_rouge_score_on_300_generated_pairs():
    rng, reference = random.Random(2), RougeScorer(list(ROUGE_TYPES))
    targets = [" ".join(rng.choices(WORDS, k=rng.randrange(0, 12))) for _ in range(300)]
    predictions = [" ".join(rng.choices(WORDS, k=rng.randrange(0, 12))) for _ in range(300)]
    ours = score_rouge(targets, predictions)
    for index, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        theirs = reference.score(target, prediction)
        assert {name: ours[name][index] for name in ROUGE_TYPES} == pytest.approx(
            {name: theirs[name].fmeasure for name in ROUGE_TYPES}, abs=1e-9
        )


def test_chinese_equals_rouge_score_over_the_same_text_with_a_latin_word_for_each_character():
    rng, reference = random.Random(3), RougeScorer(list(ROUGE_TYPES))
    spelled = {"我": "wo", "你": "ni", "好": "hao", "学": "xue", "习": "xi"}
    for _ in range(300):
        target, prediction = ("".join(rng.choices(list(spelled), k=rng.randrange(0, 15))) for _ in range(2))
        theirs = reference.score(*(" ".join(spelled[character] for character in text) for text in (target, prediction)))
        ours = score_rouge([target], [prediction])
        assert {name: ours[name][0] for name in ROUGE_TYPES} == pytest.approx(
            {name: theirs[name].fmeasure for name in ROUGE_TYPES}, abs=1e-9
        )


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        score_rouge(["你好", "你"], ["你好"])
    with pytest.raises(ValueError, match="longer"):
        score_rouge(["你好"], ["你好", "你"])


def test_an_empty_answer_scores_zero():
    assert score_rouge(["你好"], [""]) == {"rouge1": [0.0], "rouge2": [0.0], "rougeL": [0.0]}


def test_the_signature_names_tokenisation_and_version():
    assert rouge_signature() == (
        "rouge-score:0.1.2|words:ideograph|alnum-run,nfkc,casefold|stemmer:no|f-measure|mean-over-rows"
    )
