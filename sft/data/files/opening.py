"""Opening files as bytes or text, packed or not: rows.jsonl, rows.jsonl.gz, rows.csv.zst.

kind_of_file(Path("rows.jsonl.gz"))        # ".jsonl"
open_bytes(Path("rows.jsonl.gz"))          # its unpacked bytes, as a binary file

    choose_encoding(Path("reviews.csv"))       # "gb18030", and a line says so

The encoding is UTF-8, or decided by what the bytes decode to, or refused with those it may be. Nearly any bytes decode
as GB18030, so that decoding proves nothing: the text must also consist of Han characters among which the commonest few
hundred are as common as in any text. Encodings of other languages are only offered, with a stretch of the text as it
would read.
"""

import codecs
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, cast

from sft.console.narration import say_once
from sft.errors import ConfigError, DataError

PACKED = (".gz", ".zst", ".bz2", ".xz")
TAGGED = (".conll", ".bio", ".bioes", ".bmes", ".iob", ".iob2")  # a token and its tag per line
OTHER_NAMES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".jl": ".jsonl", ".tab": ".tsv"} | dict.fromkeys(
    TAGGED, ".conll"
)
# The first bytes of files that are no text, and what those are.
FIRST_BYTES = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"PK\x03\x04": ".zip or .xlsx",
    b"PAR1": ".parquet",
    b"\xd0\xcf\x11\xe0": ".xls",
    b"ARROW1": ".arrow",
    b"SQLite format 3": ".sqlite",
    b"%PDF-": ".pdf",
}


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return path.suffix.lower() in PACKED


def kind_of_file(path: Path | str) -> str:
    """What a file holds, by its name, packed or not: "rows.CSV.gz" -> ".csv", "rows.ndjson" -> ".jsonl"."""
    path = Path(path)
    suffix = (path.with_suffix("") if is_packed(path) else path).suffix.lower()
    return OTHER_NAMES.get(suffix, suffix)


def kind_of_bytes(start: bytes) -> str:
    """What a file is by its first bytes: b"PAR1..." -> ".parquet"; "" if they say nothing, as those of text."""
    return next((kind for sign, kind in FIRST_BYTES.items() if start.startswith(sign)), "")


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked on the way. Raises OSError, EOFError, zlib.error or LZMAError if it is damaged."""
    kind = path.suffix.lower()
    if kind == ".gz":
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    if kind == ".bz2":
        import bz2

        return cast(BinaryIO, bz2.open(path, "rb"))
    if kind == ".xz":
        import lzma

        return cast(BinaryIO, lzma.open(path, "rb"))
    if kind == ".zst":
        import pyarrow  # brings zstd, which Python 3.11 lacks

        return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def open_text(path: Path, encoding: str, *, newline: str | None = "") -> TextIO:
    """The file as text; bytes that are not of the encoding are lone surrogates, to be found row by row."""
    return io.TextIOWrapper(open_bytes(path), encoding, errors="surrogateescape", newline=newline)


SAMPLE_BYTES = 65536
BLOCK_BYTES = 1 << 20
TELLING_CHARACTERS = 3  # of which none is UTF-8; fewer are a slip in their row
BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF8 = "utf-8-sig"  # with a byte-order mark or without
SHOWN_CHARACTERS = 16
ASCII = bytes(range(128))
HAN = "[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]"
LEAST_BYTES = 6  # beyond ASCII in a line; a word or two of GB18030 may be UTF-8 as well
LEAST_COMMON = 0.3  # of the Han characters in a Chinese text; 0.5 to 0.7 is usual, wrongly decoded text has below 0.2
# The commonest characters of written Chinese, about 60 % of any text (Jun Da, Modern Chinese Character Frequency List).
COMMON_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把"
    "机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果"
    "加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔"
    "更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展"
    "马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共"
    "确传师观清今切院让识候带导争运這個們來為國說時會對過發後種經麼學現當沒動還進樣裡開從實無與長機問間頭體話點"
)


class Candidate(NamedTuple):
    """An encoding that a file may have."""

    codec: str
    language: str
    looks_right: Callable[[str], float]  # text -> share of its non-ASCII characters that belong to the language, 0 to 1


def choose_encoding(path: Path, given: str | None = None) -> str:
    """Python's name of the encoding of a file; prints it unless it is UTF-8.

    Raises DataError if it is not UTF-8 and not certain, with what it may be; ConfigError for an unknown name.
    """
    sample = _read_sample(path)
    if given is not None:
        return _check_given(path, given, sample)
    for mark, name in BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            if name != UTF8:
                say_once(f"{path}: read as {name.upper()}, by its byte-order mark", about=path)
            return name
    if not sample.strip(b"\0"):
        raise DataError(f"{path}: contains only zero bytes (a copy that failed?); copy it again")
    if sample[:SAMPLE_BYTES].count(b"\0") * 10 > len(sample):  # ASCII in UTF-16 is half zeros, and there always is some
        name = "UTF-16BE" if sample[:1] == b"\0" else "UTF-16LE"
        raise DataError(f"{path}: not UTF-8; it looks like {name} without a byte-order mark: pass --encoding {name}")
    if looks_like_utf8(sample):
        if example := find_mojibake(sample):
            say_once(
                f"WARNING {path}: its text is UTF-8 that was read in another encoding and saved again ({example}); "
                "export it anew",
                about=path,
            )
        return UTF8
    if _share_of_chinese(_decode_most_lines(sample, "gb18030")) < LEAST_COMMON:
        raise DataError(f"{path}: not UTF-8; {_list_candidates(sample)}, or save it as UTF-8 (Excel: CSV UTF-8)")
    _refuse_mixture(path)
    say_once(f"{path}: not UTF-8, read as GB18030 (GBK): it is common Chinese in it; else pass --encoding", about=path)
    return "gb18030"


def looks_like_utf8(sample: bytes) -> bool:
    """Whether nothing speaks against UTF-8 but a broken byte or two, which are a matter of their line."""
    decoded = sample.decode("utf-8", errors="replace")
    beyond_ascii = len(_beyond_ascii(decoded))
    return decoded.count("\ufffd") * 2 <= beyond_ascii or beyond_ascii < TELLING_CHARACTERS


def find_mojibake(sample: bytes) -> str:
    """`"å¾ˆå¥½" for "很好"` where nearly all lines beyond ASCII are UTF-8 read as Latin letters, else ""."""
    lines = [line for line in sample.split(b"\n")[:-1] if not line.isascii()]
    pairs = [(text, meant) for line in lines if (text := _decode(line, "utf-8")) and (meant := _read_again(text))]
    if len(pairs) < 2 or len(pairs) * 10 < len(lines) * 9:
        return ""
    return f"{_excerpt(pairs[0][0])} for {_excerpt(pairs[0][1])}"


def _read_again(text: str) -> str | None:
    for codec in ("latin-1", "cp1252"):
        try:
            return text.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
    return None


def _read_sample(path: Path) -> bytes:
    """The start of the file, or, if that is ASCII only, a later part that is not; cut at a line's start."""
    with open_bytes(path) as file:
        first = block = file.read(BLOCK_BYTES)
        while block:
            if not block.isascii():
                start = re.search(rb"[^\x00-\x7f]", block).start()  # type: ignore[union-attr]
                line_start = block.rfind(b"\n", 0, start) + 1
                if block is first and line_start < SAMPLE_BYTES:
                    line_start = 0
                return block[line_start : max(start, line_start) + SAMPLE_BYTES]
            block = file.read(BLOCK_BYTES)
    return first[:SAMPLE_BYTES]


def _check_given(path: Path, given: str, sample: bytes) -> str:
    try:
        name = codecs.lookup(given).name
        io.TextIOWrapper(io.BytesIO(b"\xff"), name, errors="surrogateescape").read()  # as open_text does
    except (LookupError, ValueError):  # a name with a NUL, and codecs such as idna that are not for text
        raise ConfigError(
            f"encoding {given}: there is none of this name; write utf-8, gb18030, cp1252, utf-16, ..."
        ) from None
    if name in ("utf-8", UTF8):
        return UTF8
    if _decode(sample, "utf-8") is not None and len(_beyond_ascii(sample.decode("utf-8", "ignore"))) >= 2:
        raise DataError(f"{path}: encoding {given}: the file is UTF-8; leave it out")
    return name


def _refuse_mixture(path: Path) -> None:
    """Raise DataError if a line of a GB18030 file is UTF-8, which GB18030 would decode to other characters."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if len(line.translate(None, delete=ASCII)) < LEAST_BYTES:
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                continue
            raise DataError(f"{path}:{number}: this line is UTF-8, others are GB18030; save all of it in one encoding")


def _decode(sample: bytes, codec: str) -> str | None:
    """The sample as text, or None if it is not in this encoding; the sample may end inside a character."""
    try:
        return codecs.getincrementaldecoder(codec)().decode(sample)
    except UnicodeDecodeError:
        return None


def _decode_most_lines(sample: bytes, codec: str) -> str:
    """The lines in this encoding that are not UTF-8; "" if fewer than half are. The others are reported by row."""
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    decoded = [text for line in lines if (text := _decode(line, codec)) and _decode(line, "utf-8") is None]
    return "\n".join(decoded) if 2 * len(decoded) >= len(lines) else ""


def _beyond_ascii(text: str) -> str:
    return re.sub(r"[\x00-\x7f]+", "", text)


def _share_of_chinese(text: str) -> float:
    """How common the Han characters of a text are; 0 if too much of it is something else.

    "的酒店" -> 0.33: one of three is among the commonest.
    """
    text = _beyond_ascii(text)
    han = re.findall("[\u4e00-\u9fff]", text)
    others = len(re.sub("[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef\u2010-\u2030\u00b7\u00d7]", "", text))
    if len(han) < 2 or others * 5 > len(han):
        return 0.0
    return sum(character in COMMON_HAN for character in han) / len(han)


def _share_of(pattern: str, *, among_latin: bool = False) -> Callable[[str], float]:
    """How much of a text beyond ASCII is of a language; 0 if its letters are in words as those of another do.

    among_latin: whether its letters are a few among ASCII letters, as accents are, or make whole words.
    """
    found = re.compile(pattern)

    def share(text: str) -> float:
        words = re.findall(r"[^\x00-\x40\x5b-\x60\x7b-\x7f]+", text)
        mixed = sum(not word.isascii() and any(character.isascii() for character in word) for word in words)
        whole = sum(not any(character.isascii() for character in word) and len(word) > 1 for word in words)
        beyond = _beyond_ascii(text)
        fits = mixed > whole if among_latin else whole >= mixed
        return len("".join(found.findall(beyond))) / max(1, len(beyond)) if fits else 0.0

    return share


def _share_of_japanese(text: str) -> float:
    """1 where kana and Han characters are nearly all there is, and kana many of them."""
    text = _beyond_ascii(text)
    kana = _share_of("[\u3040-\u30ff]")(text)
    return _share_of("[\u3040-\u30ff\u4e00-\u9fff\u3000-\u303f\uff00-\uff5e]")(text) if kana > 0.2 else 0.0


CANDIDATES = (
    Candidate("gb18030", "Chinese", lambda text: 0.7 * _share_of(HAN)(text) + _share_of_chinese(text)),
    Candidate("big5", "Chinese, traditional", lambda text: 0.4 + _share_of_chinese(text)),
    Candidate("cp932", "Japanese", _share_of_japanese),
    Candidate("euc_jp", "Japanese", _share_of_japanese),
    Candidate("cp949", "Korean", _share_of("[\uac00-\ud7a3]")),
    Candidate("cp1251", "Russian", _share_of("[а-яё]")),
    Candidate("koi8_r", "Russian", _share_of("[а-яё]")),
    Candidate("cp1252", "Western European", _share_of("[à-öø-ÿßœÄÖÜÉ’“”–—…€«»]", among_latin=True)),
    Candidate("cp1250", "Central European", _share_of("[áéíóúýąćčďęěłľńňřśšťůźžżäöüőűßăâîşţ„”–…]", among_latin=True)),
    Candidate("cp1253", "Greek", _share_of("[ά-ώ]")),
    Candidate("cp1254", "Turkish", _share_of("[çğıöşüâÇĞİÖŞÜ]", among_latin=True)),
    Candidate("cp1255", "Hebrew", _share_of("[א-ת]")),
    Candidate("cp1256", "Arabic", _share_of("[ء-ي]")),
    Candidate("cp874", "Thai", _share_of("[ก-๛]")),
)
LEAST_PLAUSIBLE = 0.5


def _list_candidates(sample: bytes) -> str:
    """`it may be cp1252 (Western European: "Le café était tr")`, the likeliest first, each with its text."""
    texts = {candidate: _decode(sample, candidate.codec) for candidate in CANDIDATES}
    likely = {candidate: candidate.looks_right(text) for candidate, text in texts.items() if text is not None}
    best = sorted((one for one in likely if likely[one] >= LEAST_PLAUSIBLE), key=lambda one: -likely[one])[:3]
    if not best:
        return "no encoding known here makes words of it: pass --encoding, if you know it"
    named = [f"{one.codec} ({one.language}: {_excerpt(texts[one] or '')})" for one in best]
    return f"it may be {' or '.join(named)}: pass --encoding {best[0].codec}{' (or another)' if len(best) > 1 else ''}"


def _excerpt(text: str) -> str:
    """Some characters of a text from the first word that is not ASCII, in quotes."""
    start = next((index for index, character in enumerate(text) if not character.isascii()), 0)
    start = max(text.rfind(blank, 0, start) for blank in ' \n,;\t"') + 1
    return f'"{" ".join(text[start:].split())[:SHOWN_CHARACTERS]}"'
