"""Scripts as ranges of characters: what counts as a Han character, as kana, as a Latin letter, wherever it is asked.

    re.findall(f"[{HAN}]", "在北京 and 東京")        # ["在", "北", "京", "東", "京"]

Each constant is what is between the brackets of a regular expression, so that several can be joined:
f"[{HAN}{KANA}]". Which language a text is in is sft.text.languages' to say.
"""

# Unified ideographs with extension A, the compatibility block, and the supplementary planes.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff"  # hiragana, katakana and its phonetic extensions
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
UNSPACED = f"{HAN}{KANA}{HANGUL}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # and Thai, Lao, Burmese, Khmer
