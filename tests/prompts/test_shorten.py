"""Over-long rows: what is given up, in which order, and what never is."""

import pytest

from prompts import TooLong
from prompts.shorten import MIN_DOCUMENT_TOKENS, split_exchanges

SYSTEM = {"role": "system", "content": "Answer with one of the options."}
ANSWER = {"role": "assistant", "content": "Sports"}
BEFORE, AFTER = "文本:", ",类型选型:Sports、Economy"


def question(document: str) -> dict:
    return {
        "role": "user",
        "content": BEFORE + document + AFTER,
        "document": (len(BEFORE), len(BEFORE) + len(document)),
    }


def user_text(chat, encoded) -> str:
    return next(piece.text for piece in chat.show(encoded) if piece.text.startswith("user\n")).removeprefix("user\n")


def test_the_middle_of_the_document_goes_and_all_else_stays(formats):
    chat = formats["smollm2"]
    document = "".join(f" word{number}" for number in range(400))
    encoded = chat.encode([SYSTEM, question(document), ANSWER], max_length=100)
    shortened = user_text(chat, encoded)

    assert 90 <= len(encoded.input_ids) <= 100
    assert shortened.startswith(f"{BEFORE} word0 word1 word2 word3 ")
    assert shortened.endswith(f" word398 word399{AFTER}")
    assert chat.show(encoded)[1].text == f"system\n{SYSTEM['content']}"
    assert [piece.text for piece in chat.show(encoded) if piece.is_supervised] == ["Sports", "<|im_end|>"]


@pytest.mark.parametrize(("head_share", "starts", "ends"), [(1.0, True, False), (0.0, False, True), (0.5, True, True)])
def test_the_share_of_the_head_is_as_asked(formats, head_share, starts, ends):
    chat = formats["smollm2"]
    document = "first " + "x " * 500 + "last"
    encoded = chat.encode([SYSTEM, question(document), ANSWER], max_length=100, head_share=head_share)
    shortened = user_text(chat, encoded)

    assert shortened.startswith(BEFORE + "first") == starts
    assert shortened.endswith("last" + AFTER) == ends


def test_a_share_of_the_head_beyond_one_is_a_mistake_of_the_caller(formats):
    with pytest.raises(ValueError, match=r"head_share is 1\.5, expected 0 to 1"):
        formats["smollm2"].fit([SYSTEM, question("x " * 500)], max_length=100, head_share=1.5)


def test_what_was_cut_is_counted(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("好 " * 300), ANSWER]
    whole, short = chat.encode(messages), chat.encode(messages, max_length=200)

    assert (whole.num_cut, short.num_cut) == (0, len(whole.input_ids) - len(short.input_ids))
    assert chat.encode(messages, max_length=len(whole.input_ids)) == whole


def test_a_row_in_which_nothing_may_be_shortened_is_too_long(formats):
    chat = formats["smollm2"]
    user = {"role": "user", "content": "找出实体：\n" + "北京 " * 100, "document": (0, 0)}
    length = len(chat.encode([user, ANSWER]).input_ids)

    with pytest.raises(TooLong) as caught:
        chat.encode([user, ANSWER], max_length=64)
    assert str(caught.value) == (
        f"{length} tokens do not fit 64: it has no part that may be shortened; raise the length or shorten the row"
    )


def test_a_document_is_not_cut_to_a_meaningless_rest(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("word " * 50), ANSWER]
    frame = len(chat.encode([SYSTEM, question(""), ANSWER]).input_ids)

    assert len(chat.encode(messages, max_length=frame + MIN_DOCUMENT_TOKENS + 4).input_ids) <= frame + 12
    with pytest.raises(TooLong):
        chat.encode(messages, max_length=frame + MIN_DOCUMENT_TOKENS - 1)


def test_without_a_mark_the_whole_user_turn_may_be_shortened(formats):
    chat = formats["smollm2"]
    encoded = chat.encode([{"role": "user", "content": "a " * 300 + "end"}, ANSWER], max_length=80)

    assert len(encoded.input_ids) <= 80
    assert user_text(chat, encoded).startswith("a a ")
    assert user_text(chat, encoded).endswith(" a end")


def test_a_shortened_row_learns_what_was_asked_for(formats):
    chat = formats["qwen2.5"]
    messages = [SYSTEM, *turns(6), question("x " * 400), ANSWER]

    for supervise in ("all", "last"):
        for max_length in (200, 700):
            fitted = chat.fit(messages, max_length=max_length)
            encoded = chat.encode(messages, supervise=supervise, max_length=max_length)
            assert encoded.num_cut > 0
            assert encoded.loss_mask == chat.encode(fitted, supervise=supervise).loss_mask


def turns(count: int, length: int = 20) -> list[dict]:
    """u0 a0 u1 a1 ...: exchanges of about 2 * length tokens."""
    return [
        {"role": role, "content": f"{role[0]}{number}" + " x" * length}
        for number in range(count)
        for role in ("user", "assistant")
    ]


def test_the_oldest_exchanges_go_first_and_whole(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, *turns(6)]
    length = len(chat.encode([SYSTEM, *turns(6)[-4:]]).input_ids)  # what the last two take

    assert chat.fit(messages, max_length=length) == [SYSTEM, *messages[-4:]]
    assert chat.fit(messages, max_length=length - 1) == [SYSTEM, *messages[-2:]]
    assert chat.encode(messages, max_length=length).input_ids == chat.encode([SYSTEM, *messages[-4:]]).input_ids


def test_a_document_is_shortened_only_when_no_older_exchange_is_left(formats):
    chat = formats["smollm2"]
    last = [question("x " * 400), ANSWER]
    fitted = chat.fit([SYSTEM, *turns(3), *last], max_length=120)

    assert (fitted[0], fitted[2], len(fitted)) == (SYSTEM, ANSWER, 3)
    assert fitted[1]["content"].startswith(BEFORE + "x x ")
    assert len(chat.encode(fitted).input_ids) <= 120


def test_a_chat_that_outgrew_its_context_is_shortened_by_the_same_rules(formats):
    for chat in formats.values():
        history = [SYSTEM, *turns(8), {"role": "user", "content": "and now?"}]
        prompt = chat.encode_prompt(history, max_length=200)

        assert len(prompt) <= 200
        assert prompt == chat.encode_prompt(chat.fit(history, max_length=200))
        assert chat.fit(history, max_length=200)[0] == SYSTEM
        assert chat.fit(history, max_length=200)[-1] == history[-1]


def test_a_prompt_that_cannot_be_shortened_is_refused(formats):
    with pytest.raises(TooLong):
        formats["smollm2"].encode_prompt([{"role": "system", "content": "s " * 100}, question("")], max_length=50)


def test_a_conversation_is_split_at_its_users():
    s, u, a = ({"role": role, "content": ""} for role in ("system", "user", "assistant"))

    assert split_exchanges([s, u, a, u, u, a, u]) == ([s], [[u, a], [u, u, a], [u]])
    assert split_exchanges([a, u]) == ([], [[a], [u]])


def test_a_letter_keeps_its_marks_when_the_cut_falls_between(formats):
    chat = formats["smollm2"]
    document = "e\u0301\u0323" * 200  # letters with two marks each
    for max_length in range(80, 100):
        [_, user, _] = chat.fit([SYSTEM, question(document), ANSWER], max_length=max_length)
        start, end = user["document"]
        assert user["content"][start:end] == "e\u0301\u0323" * ((end - start) // 3)
