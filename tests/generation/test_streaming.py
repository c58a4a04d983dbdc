import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.config.decoding import DECODING
from sft.generation import stream
from sft.generation.streaming import TextAssembler

LONG = DECODING["precise"].model_copy(update={"max_new_tokens": 200})


def prompt_of(loaded, text: str = "hi") -> list[int]:
    return loaded.chat.encode_prompt([{"role": "user", "content": text}])


def generating_threads() -> int:
    return sum(thread.name == "generation" for thread in threading.enumerate())


def test_a_character_of_several_tokens_comes_as_one_piece(tiny, say_with):
    ids = tiny.chat.encode_text("a中文👍b")
    assert len(ids) == 12  # 1 + 3 + 3 + 4 + 1
    say_with([[*ids, tiny.chat.end_ids[0]]])
    answer = stream(tiny, prompt_of(tiny), LONG)
    assert list(answer) == ["a", "中", "文", "👍", "b"]
    assert (answer.token_ids, answer.finished) == (ids, True)


def test_a_character_that_is_never_completed_is_shown_as_such_at_the_end(tiny, say_with):
    ids = tiny.chat.encode_text("a中")[:-1]
    say_with([[*ids, tiny.chat.end_ids[0]]])
    assert list(stream(tiny, prompt_of(tiny), LONG)) == ["a", "\ufffd"]


def test_an_answer_that_is_cut_off_is_not_finished(tiny, say_with):
    say_with([tiny.chat.encode_text("x")])
    answer = stream(tiny, prompt_of(tiny), LONG.model_copy(update={"max_new_tokens": 3}))
    assert ("".join(answer), len(answer.token_ids), answer.finished) == ("xxx", 3, False)


def test_nothing_happens_before_the_first_piece_is_read(tiny, say_with):
    head = say_with([tiny.chat.encode_text("x")])
    stream(tiny, prompt_of(tiny), LONG)
    assert (head.num_calls, generating_threads()) == (0, 0)


def test_pieces_arrive_while_the_model_still_writes_and_closing_stops_it(tiny, say_with):
    head = say_with([tiny.chat.encode_text("x")])
    write = head.forward
    head.forward = lambda hidden: (time.sleep(0.02), write(hidden))[1]
    with stream(tiny, prompt_of(tiny), LONG) as answer:
        assert [next(answer), next(answer)] == ["x", "x"]
        assert head.num_calls < 50
    stopped_at = head.num_calls
    assert (generating_threads(), answer.finished) == (0, False)
    time.sleep(0.1)
    assert head.num_calls == stopped_at < 50
    assert list(answer) == []


def test_a_stream_that_is_forgotten_stops_too(tiny, say_with):
    head = say_with([tiny.chat.encode_text("x")])
    write = head.forward
    head.forward = lambda hidden: (time.sleep(0.02), write(hidden))[1]
    for _ in stream(tiny, prompt_of(tiny), LONG):
        break
    deadline = time.monotonic() + 10
    while generating_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert generating_threads() == 0
    assert head.num_calls < 50


def test_an_error_of_the_model_is_raised_where_the_text_is_read(tiny, say_with):
    head = say_with([tiny.chat.encode_text("x")])
    write = head.forward

    def fail_at_third_token(hidden):
        if head.num_calls == 2:
            raise RuntimeError("out of memory")
        return write(hidden)

    head.forward = fail_at_third_token
    answer = stream(tiny, prompt_of(tiny), LONG)
    assert [next(answer), next(answer)] == ["x", "x"]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(answer)
    answer.close()
    assert generating_threads() == 0


def test_the_content_of_a_think_block_is_reported_as_a_thought(tiny, say_with):
    encoder, ids = tiny.chat.encoder, tiny.chat.encode_text("<hm>4")
    encoder.control_tokens |= {"<think>": ids[0], "</think>": ids[3]}
    encoder.control_ids |= {ids[0], ids[3]}
    say_with([[*ids, tiny.chat.end_ids[0]]])
    with stream(tiny, prompt_of(tiny), LONG) as pieces:
        assert [(piece, pieces.is_thought) for piece in pieces] == [("h", True), ("m", True), ("4", False)]
    assert pieces.message == {"role": "assistant", "content": "4", "reasoning_content": "hm"}


def test_a_stream_can_be_stopped_and_ends_like_any_other(tiny, say_with):
    head = say_with([tiny.chat.encode_text("x")])
    write = head.forward
    head.forward = lambda hidden: (time.sleep(0.02), write(hidden))[1]
    with stream(tiny, prompt_of(tiny), LONG) as pieces:
        assert next(pieces) == "x"
        pieces.stop()
        assert set(pieces) <= {"x"}
    assert (len(pieces.token_ids) < 50, pieces.finished) == (True, False)


def test_a_cancelled_request_that_waits_for_the_model_never_reaches_it(tiny, say_with):
    head, lock = say_with([tiny.chat.encode_text("x")]), threading.Lock()
    pieces, found = stream(tiny, prompt_of(tiny), LONG, lock=lock), []
    with lock:
        reader = threading.Thread(target=lambda: found.extend(pieces))
        reader.start()
        pieces.stop()
        reader.join(timeout=30)
    assert (found, head.num_calls, generating_threads(), lock.locked()) == ([], 0, 0, False)


def decode_bytes(ids) -> str:
    return bytes(ids).decode("utf-8", "replace")


@given(st.binary(max_size=40))
def test_pieces_of_any_bytes_join_to_the_whole_text_and_hold_whole_characters(raw):
    assembler = TextAssembler(decode_bytes)
    pieces = [assembler.feed(byte) for byte in raw]
    assert "".join(pieces) + assembler.flush() == decode_bytes(raw)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20))
def test_text_is_never_shown_before_its_character_is_complete(text):
    assembler = TextAssembler(decode_bytes)
    pieces = [assembler.feed(byte) for byte in text.encode()]
    assert [piece for piece in pieces if piece] == list(text)
    assert assembler.flush() == ""


def test_a_decoder_that_drops_the_first_blank_keeps_the_blanks_between_pieces():
    words = ["▁the", "▁rain", "▁in"]

    def decode(ids) -> str:
        return "".join(words[index] for index in ids).replace("▁", " ").removeprefix(" ")

    assembler = TextAssembler(decode)
    assert [assembler.feed(index) for index in (0, 1, 2)] == ["the", " rain", " in"]
