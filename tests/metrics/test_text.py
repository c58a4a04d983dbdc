import random

import pytest
import sacrebleu

from sft.metrics.text import choose_tokeniser, is_exact, summarise_text

ENGLISH = ["the", "model", "reads", "Python", "code", "42", "times", "and", "ends."]
CHINESE = [*"我用你他不写代码跑步，。", " python "]


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
