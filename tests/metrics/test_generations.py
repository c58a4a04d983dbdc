import random

import numpy as np
import pytest
import sacrebleu

from sft.metrics.generations import (
    DISTINCT_SIGNATURE,
    adjust_distinct,
    choose_tokeniser,
    count_distinct,
    is_exact,
    summarise_generations,
    summarise_text,
)

ENGLISH = ["the", "model", "reads", "Python", "code", "42", "times", "and", "ends."]
CHINESE = [*"我用你他不写代码跑步，。", " python "]


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


def test_measuring_no_answers_is_refused():
    with pytest.raises(ValueError, match="no generated answers"):
        summarise_generations([], [], [], [])


def _draw(rng: random.Random, words: list[str], joiner: str) -> list[str]:
    return [joiner.join(rng.choices(words, k=rng.randrange(1, 15))) for _ in range(rng.randrange(1, 6))]


def test_identical_chinese_scores_everything():
    figures = summarise_text(["这家酒店很好"], ["这家酒店很好"])
    assert (figures["bleu"], figures["chrf"], figures["exact_match"]) == (pytest.approx(100), pytest.approx(100), 1.0)


def test_sentences_that_share_only_their_latin_word_score_little():
    figures = summarise_text(["我用 python 写代码"], ["他不用 python 跑步"])
    assert figures["bleu"] < 30
    assert figures["chrf"] < 60
    assert figures["exact_match"] == 0.0


@pytest.mark.parametrize(("words", "joiner", "tokeniser"), [(ENGLISH, " ", "13a"), (CHINESE, "", "zh")])
def test_bleu_and_chrf_equal_sacrebleu_on_200_generated_corpora(words, joiner, tokeniser):
    rng = random.Random(8)
    for _ in range(200):
        references = _draw(rng, words, joiner)
        if tokeniser == "zh":
            references[0] += "好"  # at least one ideograph, or the corpus is not Chinese
        predictions = [rng.choice([reference, *_draw(rng, words, joiner)]) for reference in references]
        ours = summarise_text(references, predictions)
        bleu = sacrebleu.corpus_bleu(predictions, [references], tokenize=tokeniser).score
        chrf = sacrebleu.corpus_chrf(predictions, [references]).score
        assert (ours["bleu"], ours["chrf"]) == pytest.approx((bleu, chrf), abs=1e-9)


def test_exact_match_forgives_blanks_around_the_answer_and_nothing_else():
    assert is_exact("你好", " 你好\n")
    assert not is_exact("Yes.", "yes.")
    assert summarise_text(["a", "b", "c"], ["a ", "x", "c"])["exact_match"] == pytest.approx(2 / 3)


def test_the_signatures_name_tokeniser_and_version():
    version = sacrebleu.__version__
    assert summarise_text(["你好"], ["你"])["signatures"] == {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:{version}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}",
        "exact_match": "exact:equal after strip|share-of-rows",
    }
    assert choose_tokeniser(["hello", "world"]) == "13a"
    assert choose_tokeniser(["hello", "カナ"]) == "zh"


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="one prediction per reference"):
        summarise_text([], [])
