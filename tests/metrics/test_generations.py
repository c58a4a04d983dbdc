import random

import numpy as np
import pytest

from sft.metrics.generations import DISTINCT_SIGNATURE, adjust_distinct, count_distinct, summarise_generations


def test_all_figures_of_four_answers():
    figures = summarise_generations(
        predictions=["好好学习", " \n", "ok ok", "好"],
        finished=[True, False, True, True],
        prediction_tokens=[4, 1, 2, 1],
        reference_tokens=[4, 4, 4, 4],
    )
    assert figures == {
        "empty_rate": 0.25,
        "unfinished_rate": 0.25,
        "avg_pred_len_tokens": 2.0,
        "avg_ref_len_tokens": 4.0,
        "len_ratio_pred_over_ref": 0.5,
        "distinct_1": 4 / 7,  # 好 学 习 ok, of 好 好 学 习 ok ok 好
        "distinct_2": 1.0,  # 好好 好学 学习 okok; the fourth answer has none
        "distinct_1_adjusted": pytest.approx(4 / 7, rel=1e-3),
        "distinct_2_adjusted": pytest.approx(1.0, rel=1e-3),
        "num_rows": 4,
    }


def test_distinct_n_counts_over_the_corpus_and_no_ngram_spans_two_answers():
    assert count_distinct(["a b", "a b"], 2) == 0.5
    assert count_distinct(["a", "b"], 2) == 0.0


def test_a_word_repeated_for_ever_is_seen():
    assert count_distinct(["好" * 1000], 1) == 0.001


def test_the_adjusted_figure_does_not_fall_with_length_where_words_are_drawn_alike():
    rng = random.Random(14)
    short, long = ([rng.randrange(30_522) for _ in range(count)] for count in (1_000, 100_000))
    plain = [len(set(words)) / len(words) for words in (short, long)]
    adjusted = [adjust_distinct(len(set(words)), len(words)) for words in (short, long)]
    assert plain == pytest.approx([0.98, 0.29], abs=0.02)
    assert adjusted == pytest.approx([1.0, 1.0], abs=0.02)
    assert DISTINCT_SIGNATURE.endswith("|adjusted:liu2022,V=30522")


def test_the_adjusted_figure_is_the_published_formula_on_200_generated_cases():
    rng = random.Random(15)
    for _ in range(200):
        vocabulary, total = rng.randrange(2, 50_000), rng.randrange(1, 200_000)
        distinct = rng.randrange(1, min(vocabulary, total) + 1)
        expected = np.longdouble(vocabulary) * (1 - (np.longdouble(vocabulary - 1) / vocabulary) ** total)
        assert adjust_distinct(distinct, total, vocabulary) == pytest.approx(float(distinct / expected), abs=1e-9)
    assert adjust_distinct(0, 0) == 0.0


def test_empty_references_give_no_length_ratio():
    assert summarise_generations(["x"], [True], [1], [0])["len_ratio_pred_over_ref"] == 0.0


def test_no_answers_are_refused():
    with pytest.raises(ValueError, match="no generated answers"):
        summarise_generations([], [], [], [])
