import random
import string

from rouge_score.tokenizers import DefaultTokenizer

from sft.text.words import split_words


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
