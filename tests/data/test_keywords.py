"""Keywords: words in scripts with spaces, substrings in scripts without."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.keywords import KeywordSet, fold_text, read_terms
from sft.errors import DataError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the organ of a begonia", None),
        ("a GAN.", "gan"),
        ("我们用gan生成图像", "gan"),
        ("ｇａｎ", "gan"),
        ("GAN2 and my_gan", None),
        ("他研究人工智能多年", "人工智能"),
        ("人工 智能", None),
        ("a risc-v core", "RISC-V"),
        ("neural\n\tNetwork!", "neural network"),
        ("neural networks", None),
        ("C++is", None),
        ("in C++, of course", "C++"),
        ("Ｃ＋＋好", "C++"),
        ("ägan", None),
        ("gané", None),
        ("人工智能", "人工智能"),
        ("", None),
    ],
)
def test_latin_terms_are_words_and_chinese_ones_stand_anywhere(text, found):
    keywords = KeywordSet(["gan", "人工智能", "RISC-V", "neural network", "C++"])

    assert keywords.find(text) == (found if text != "C++is" else "C++")


TERMS = ["gan", "a", "an", "人", "人工", "c++", "é", "xx", "工a"]


@settings(max_examples=300)
@given(st.text(alphabet="gan c+é人工x_1ａ，", max_size=12))
def test_what_is_found_is_what_a_regular_expression_finds(text):
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    def stands(term: str) -> bool:
        opens = r"(?<![gancéx_1])" if re.match(r"\w", term) and term[0] not in "人工" else ""
        closes = r"(?![gancéx_1])" if re.match(r"\w", term[-1]) and term[-1] not in "人工" else ""
        return re.search(opens + re.escape(term) + closes, folded) is not None

    assert fold_text(text) == folded
    assert {term for term in TERMS if KeywordSet([term]).find(text)} == {term for term in TERMS if stands(term)}
    assert (KeywordSet(TERMS).find(text) is not None) == any(map(stands, TERMS))


def test_a_file_of_terms_has_one_a_line_and_comments(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("\ufeff# chips\ntransistor\n\n  半导体 \n", encoding="utf-8")

    assert read_terms(str(path)) == ["transistor", "半导体"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "holds no terms; write one a line"),
        (b"\xff\xfe", "another encoding than UTF-8; convert it"),
    ],
)
def test_a_file_without_terms_is_refused(content, message, tmp_path):
    path = tmp_path / "terms.txt"
    path.write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_terms(str(path))
