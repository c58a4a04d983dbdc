"""The units that ROUGE and distinct-n count, for text that mixes Chinese and Latin script.

rouge-score's own tokenizer keeps only a-z and 0-9, so it finds no token at all in a Chinese answer. Here every
ideograph and kana counts by itself and every other run of letters and digits is one word; on ASCII text the result
is exactly that of rouge-score without stemming.
"""

import re
import unicodedata

from sft.text.scripts import HAN, KANA

WORDS_SIGNATURE = "words:ideograph|alnum-run,nfkc,casefold"

# The iteration mark and the zero of Chinese numbers are written like ideographs, in a block of punctuation.
CHARACTER = f"\u3005\u3007{HAN}{KANA}"
WORD = re.compile(f"[{CHARACTER}]|[^\\W_{CHARACTER}]+")


def split_words(text: str) -> list[str]:
    """Words of a text, full-width forms and case made equal, punctuation left out.

    split_words("我用 Python3 写代码。") -> ["我", "用", "python3", "写", "代", "码"]
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())
