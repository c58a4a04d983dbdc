import io
import json
import random
import re
import unicodedata
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sft.console import TerminalFilter, make_visible, to_json
from sft.generation.streaming import TextAssembler

STEERING = "\x1b\x9b\x07\x08\x00\x7f\x85\x90\x9c\x9d\r\u202e\u2066\ud800"
NASTY_TEXT = st.text(alphabet=st.one_of(st.sampled_from(STEERING + "[]0;m\n\t中é👍"), st.characters()))


def is_safe(text: str) -> bool:
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return all(
        character in "\n\t"
        or (unicodedata.category(character) not in ("Cc", "Cs") and unicodedata.bidirectional(character) not in bidi)
        for character in text
    )


def written(pieces: list[str]) -> str:
    stream = io.StringIO()
    out = TerminalFilter(stream)
    for piece in pieces:
        out.write(piece)
    return stream.getvalue()


def test_text_without_controls_passes_unchanged():
    text = "Answer:\t文本 – déjà vu 👨\u200d👩\u200d👧\nsecond line"
    assert make_visible(text) == text


def test_each_kind_of_control_becomes_something_to_see():
    assert make_visible("\x1b[31mred") == "␛[31mred"
    assert make_visible("\x1b]0;owned\x07") == "␛]0;owned␇"
    assert make_visible("\x9b0m\x00\x7f") == r"\x9b0m␀␡"
    assert make_visible("a\r\nb\rc") == "a\nbc"
    assert make_visible("\u202etxt.exe\u2069") == r"\u202etxt.exe\u2069"
    assert make_visible("\udc9b") == "\ufffd"


@given(NASTY_TEXT)
def test_no_steering_character_passes_at_any_chunk_split(text):
    whole = written([text])
    assert is_safe(whole)
    assert all(written([text[:cut], text[cut:]]) == whole for cut in range(len(text) + 1))
    assert written(list(text)) == whole
    assert whole.encode().decode() == whole  # encodable: no lone surrogate is left


@given(NASTY_TEXT)
def test_json_is_safe_to_show_and_holds_the_same_text(text):
    line = to_json({"text": text})
    assert is_safe(line)
    assert json.loads(line) == {"text": text}


def test_json_keeps_chinese_readable():
    assert to_json({"label": "正面"}) == '{"label": "正面"}'


def test_ten_thousand_fuzzed_byte_streams_at_every_split_into_tokens_show_no_steering_byte():
    rng = random.Random(7)
    alphabet = [
        b"\x1b[2J",
        b"\x1b]0;t\x07",
        b"\xc2\x9b",
        b"\x9b1m",
        b"\x00",
        b"\x7f",
        b"\r",
        "中".encode(),
        b"ok ",
        b"\xe4",
    ]
    alphabet += [bytes([rng.randrange(256)]) for _ in range(30)]

    def decode(tokens: Sequence[bytes]) -> str:
        return b"".join(tokens).decode("utf-8", "replace")

    num_bad = num_splits = 0
    for _ in range(10_000):
        raw = b"".join(rng.choices(alphabet, k=rng.randint(4, 12)))
        for cut in range(len(raw) + 1):
            stream = io.StringIO()
            out, assembler = TerminalFilter(stream), TextAssembler(decode)
            for token in (raw[:cut], raw[cut:]):
                out.write(assembler.feed(token))
            out.write(assembler.flush())
            num_bad += len(STEERS.findall(stream.getvalue()))
            num_splits += 1
    assert num_splits > 100_000
    assert num_bad == 0


STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
