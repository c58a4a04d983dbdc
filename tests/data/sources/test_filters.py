"""Filters of a source: each bound leaves out what it names, with its reason."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sft.data.rows.canonical import Row
from sft.data.sources.filters import Filters, KeywordSet, Reason, RowFilter, fold_text, measure_repetition, read_terms
from sft.errors import DataError
from sft.text import detect_language


def row_of(instruction: str, output: str) -> Row:
    return {"id": "", "source": "", "task": "instruct", "instruction": instruction, "input": "", "output": output}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"min_answer_chars": 13}, Reason("answer_too_short")),
        ({"min_answer_chars": 12}, None),
        ({"require_pattern": "^How"}, Reason("missing_pattern")),
        ({"require_pattern": "^What"}, None),
        ({"languages": ["zh", "fr"]}, Reason("other_language", "en")),
        ({"languages": ["en"]}, None),
        ({"include_keywords": ["gan"]}, Reason("no_keyword")),
        ({"include_keywords": ["organ", "gan"]}, None),
        ({"exclude_keywords": ["organ"]}, Reason("excluded_keyword", "organ")),
        ({"exclude_keywords": ["gan"]}, None),
        ({"exclude_keywords": ["A part"], "keywords_in": "question"}, None),
        ({"exclude_keywords": ["A part"], "keywords_in": "answer"}, Reason("excluded_keyword", "A part")),
        ({"exclude_keywords": ["organ"], "keywords_in": "answer"}, None),
        ({"max_repetition": 0.0}, None),
    ],
)
def test_each_filter_leaves_out_what_it_names(keys, reason):
    assert RowFilter(Filters(**keys)).find_reason(row_of("What is an organ?", "A part of it")) == reason


def test_a_list_of_keywords_may_be_a_file(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("organ\n", encoding="utf-8")
    filters = Filters(exclude_keywords=str(path))

    assert RowFilter(filters).find_reason(row_of("What is an organ?", "A")) == Reason("excluded_keyword", "organ")
    assert filters.files() == {str(path): path}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"languages": ["zn"]}, "unknown language 'zn' (known: zh, ja,"),
        ({"include_keywords": []}, "has no terms"),
        ({"exclude_keywords": [" "]}, "has no terms"),
        ({"require_pattern": "("}, "not a regular expression"),
        ({"max_repetition": 2}, "less than or equal to 1"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(keys, message):
    with pytest.raises(ValidationError) as caught:
        Filters(**keys)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "low", "high"),
    [
        ("哈" * 50, 0.97, 0.98),
        ("I am sorry. " * 20, 0.9, 1),
        ("哈" * 10, 0, 0),
        ("", 0, 0),
        ("北京是中华人民共和国的首都，位于华北平原的北部。" * 1, 0, 0),
        ("The quick brown fox jumps over the lazy dog and the quick red hen.", 0, 0.1),
    ],
)
def test_a_loop_repeats_itself_and_prose_does_not(answer, low, high):
    assert low <= measure_repetition(answer) <= high


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("房间很干净", "zh"),
        ("我用 PyTorch 训练 transformer 模型", "zh"),
        ("Beijing (北京) is the capital of the country", "en"),
        ("これは日本語の文章です", "ja"),
        ("한국어 문장입니다", "ko"),
        ("Это русский текст", "ru"),
        ("Le chat est sur la table et il dort", "fr"),
        ("Der Hund ist nicht auf dem Tisch", "de"),
        ("El perro está en la mesa y no come", "es"),
        ("GPU", "en"),
        ("123 + 4 = ?", ""),
        ("", ""),
    ],
)
def test_languages_are_recognised_by_script_and_common_words(text, language):
    assert detect_language(text) == language


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
        ("neural networks", "neural network"),
        ("neural-networks", "neural network"),
        ("C++is", None),
        ("in C++, of course", "C++"),
        ("Ｃ＋＋好", "C++"),
        ("ägan", None),
        ("gané", None),
        ("人工智能", "人工智能"),
        ("", None),
    ],
)
def test_latin_terms_match_whole_words_and_chinese_ones_match_anywhere(text, found):
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
        (b"# nothing\n", "has no terms; write one per line"),
        (b"\xff\xfe", "another encoding than UTF-8; convert it"),
    ],
)
def test_a_file_without_terms_is_refused(content, message, tmp_path):
    path = tmp_path / "terms.txt"
    path.write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_terms(str(path))


SENTENCES = {
    "ai": [
        "Two neural networks were trained with deep-learning libraries.",
        "LLMs and other transformers need fast GPUs.",
        "A GAN\u2010based method; reinforcement-learning is another.",
    ],
    "ic": [
        "The MOSFETs and transistors of this board are small.",
        "Integrated circuits, FPGAs and ASICs, and a RISC V core.",
        "Two op-amps are amplifiers; logic-gates are not.",
    ],
    "biomed": [
        "Antibodies bind to proteins and enzymes.",
        "Cell-culture assays of two genes and their mRNAs, then PCRs.",
        "Biomarkers, plasmids and peptides were found.",
    ],
}


@pytest.mark.parametrize("domain", SENTENCES)
def test_the_shipped_keywords_find_the_sentences_of_their_domain_and_of_no_other(domain):
    lists = {name: KeywordSet(read_terms(f"recipes/keywords/{name}.txt")) for name in SENTENCES}

    for sentence in SENTENCES[domain]:
        assert [name for name, keywords in lists.items() if keywords.find(sentence)] == [domain], sentence


def test_a_latin_term_matches_its_plural_and_hyphenated_form_and_no_other_word():
    keywords = KeywordSet(["gan", "antibody", "gene", "box", "machine learning", "state-of-the-art", "人工智能", "go"])

    found = ["GANs", "antibodies", "genes", "boxes", "machine-learning", "state of the art", "他用人工智能s"]
    assert [text for text in found if keywords.find(text) is None] == []
    assert [text for text in ("organs", "general", "goes", "gos", "learning", "antibodys") if keywords.find(text)] == []
