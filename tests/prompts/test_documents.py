"""Documents as tokens: every token but the first is learned once, whatever the length of a window."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import PromptError, Rules, TooLong, conversation_of
from prompts.chatml import cut_windows


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.one_of(st.none(), st.integers(2, 70)))
def test_windows_lose_no_token_and_learn_each_but_the_first_once(ids, max_length):
    windows = cut_windows(ids, max_length)

    learned = [
        token for window in windows for token, flag in zip(window.input_ids, window.loss_mask, strict=True) if flag
    ]
    assert [windows[0].input_ids[0], *learned] == ids
    assert all(len(window.input_ids) <= (max_length or len(ids)) for window in windows)
    assert all(window.loss_mask[0] == 0 and window.num_cut == 0 for window in windows)
    for before, after in pairwise(windows):
        assert after.input_ids[0] == before.input_ids[-1]


def test_a_document_is_its_text_and_one_end_token_without_prompt_or_control_tokens(formats):
    row = {"task": "text", "text": "一段文字，with <|im_end|> spelled out.\n\nEnd."}

    for chat in formats.values():
        (encoded,) = next(chat.encode_batch([conversation_of(row, "Be brief.")]))
        ends = [token for token in encoded.input_ids if token in chat.control_ids]
        assert ends == encoded.input_ids[-1:]
        assert chat.encoder.control_tokens["<|endoftext|>"] == encoded.input_ids[-1]
        assert encoded.input_ids[:-1] == chat.encode_text(row["text"]) == chat.encode_prompt(conversation_of(row, None))
        assert encoded.num_supervised == len(encoded.input_ids) - 1


def test_a_document_that_is_continued_keeps_its_end_where_it_is_too_long(formats):
    chat = formats["smollm2"]
    row = {"task": "text", "text": " ".join(map(str, range(200)))}
    ids = chat.encode_text(row["text"])

    assert chat.encode_prompt(conversation_of(row, None), Rules(max_length=60, answer_room=20)) == ids[-40:]
    assert chat.encode_prompt(conversation_of(row, None), Rules(max_length=60, answer_room=512)) == ids[-30:]


def test_a_long_document_is_left_out_or_refused_where_the_settings_say_so(formats):
    document = conversation_of({"task": "text", "text": "word " * 100}, None)

    assert len(next(formats["smollm2"].encode_batch([document], Rules(max_length=20)))) > 5
    assert isinstance(
        next(formats["smollm2"].encode_batch([document], Rules(max_length=20, on_too_long="drop"))), TooLong
    )
    with pytest.raises(PromptError, match="do not fit 20"):
        formats["smollm2"].encode(document, Rules(max_length=20, on_too_long="error"))
    with pytest.raises(PromptError, match="the document: character 2 is a lone surrogate"):
        formats["smollm2"].encode([{"role": "document", "content": "a\ud83d"}])
