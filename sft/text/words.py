"""The units that ROUGE and distinct-n count, for text that mixes Chinese and Latin script.

rouge-score's own tokenizer keeps only a-z and 0-9, so it finds no token at all in a Chinese answer. Here every
ideograph and kana counts by itself and every other run of letters and digits is one word; on ASCII text the result
is exactly that of rouge-score without stemming.

HAN, KANA, HANGUL and LATIN are scripts as ranges of characters, to be joined in a class: f"[{HAN}{KANA}]".
"""

import re
import unicodedata

# Unified ideographs with extension A, the compatibility block, and the supplementary planes.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff"  # hiragana, katakana and its phonetic extensions
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
UNSPACED = f"{HAN}{KANA}{HANGUL}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # and Thai, Lao, Burmese, Khmer


WORDS_SIGNATURE = "words:ideograph|alnum-run,nfkc,casefold"

# The iteration mark and the zero of Chinese numbers are written like ideographs, in a block of punctuation.
CHARACTER = f"\u3005\u3007{HAN}{KANA}"
WORD = re.compile(f"[{CHARACTER}]|[^\\W_{CHARACTER}]+")


def split_words(text: str) -> list[str]:
    """Words of a text, full-width forms and case made equal, punctuation left out.

    split_words("我用 Python3 写代码。") -> ["我", "用", "python3", "写", "代", "码"]
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())
