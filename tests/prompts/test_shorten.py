"""Over-long rows: what is given up, in which order, and what never is."""

import contextlib

import pytest

from prompts import PromptError, Rules, TooLong
from prompts.shorten import MIN_DOCUMENT_TOKENS, Room, fit_messages, split_exchanges

SYSTEM = {"role": "system", "content": "Answer with one of the options."}
ANSWER = {"role": "assistant", "content": "Sports"}
BEFORE, AFTER = "文本:", ",类型选型:Sports、Economy"


def question(document: str, *answers: str) -> dict:
    """A user turn whose document may be shortened; with the answers it allows, if not any."""
    return {
        "role": "user",
        "content": BEFORE + document + AFTER,
        "document": (len(BEFORE), len(BEFORE) + len(document)),
        **({"answers": answers} if answers else {}),
    }


def fit(chat, messages: list[dict], max_length: int, *, room: int = 512, head_share: float = 0.5) -> list[dict]:
    """A prompt's messages as a format shortens them for a free answer."""

    def count_tokens(turns: list[dict]) -> int:
        return len(chat.encode_prompt(turns))

    return fit_messages(messages, max_length, Room(1, room), count_tokens, chat.encoder.locate, head_share)


def user_text(chat, encoded) -> str:
    return next(piece.text for piece in chat.show(encoded) if piece.text.startswith("user\n")).removeprefix("user\n")


def test_only_the_middle_of_the_document_is_cut(formats):
    chat = formats["smollm2"]
    document = "".join(f" word{number}" for number in range(400))
    encoded = chat.encode([SYSTEM, question(document, "Sports", "Economy"), ANSWER], Rules(max_length=100))
    shortened = user_text(chat, encoded)

    assert 90 <= len(encoded.input_ids) <= 100
    assert shortened.startswith(f"{BEFORE} word0 word1 word2 word3 ")
    assert shortened.endswith(f" word398 word399{AFTER}")
    assert chat.show(encoded)[1].text == f"system\n{SYSTEM['content']}"
    assert [piece.text for piece in chat.show(encoded) if piece.is_supervised] == ["Sports", "<|im_end|>"]


@pytest.mark.parametrize(("head_share", "starts", "ends"), [(1.0, True, False), (0.0, False, True), (0.5, True, True)])
def test_a_long_document_keeps_the_requested_share_of_its_head(formats, head_share, starts, ends):
    chat = formats["smollm2"]
    document = "first " + "x " * 500 + "last"
    encoded = chat.encode([SYSTEM, question(document), ANSWER], Rules(max_length=100, head_share=head_share))
    shortened = user_text(chat, encoded)

    assert shortened.startswith(BEFORE + "first") == starts
    assert shortened.endswith("last" + AFTER) == ends


def test_a_share_of_the_head_beyond_one_is_a_mistake_of_the_caller(formats):
    with pytest.raises(ValueError, match=r"head_share is 1\.5, expected 0 to 1"):
        formats["smollm2"].encode_prompt([SYSTEM, question("x " * 500)], Rules(max_length=100, head_share=1.5))


def test_what_was_cut_is_counted(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("好 " * 300, "Sports", "Go"), ANSWER]
    whole, short = chat.encode(messages), chat.encode(messages, Rules(max_length=200))

    assert (whole.num_cut, short.num_cut) == (0, len(whole.input_ids) - len(short.input_ids))
    assert chat.encode(messages, Rules(max_length=len(whole.input_ids))) == whole


def test_a_row_in_which_nothing_may_be_shortened_is_too_long(formats):
    chat = formats["smollm2"]
    user = {"role": "user", "content": "找出实体：\n" + "北京 " * 100, "document": (0, 0)}
    length = len(chat.encode([user, ANSWER]).input_ids)

    with pytest.raises(TooLong) as caught:
        chat.encode([user, ANSWER], Rules(max_length=64))
    assert str(caught.value) == (
        f"{length} tokens do not fit 64: it has no part that may be shortened; raise the length or shorten the row"
    )


def test_a_document_is_not_cut_to_a_meaningless_rest(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("word " * 50, "Sports"), ANSWER]
    frame = len(chat.encode([SYSTEM, question("", "Sports"), ANSWER]).input_ids)

    assert len(chat.encode(messages, Rules(max_length=frame + MIN_DOCUMENT_TOKENS + 4)).input_ids) <= frame + 12
    with pytest.raises(TooLong):
        chat.encode(messages, Rules(max_length=frame + MIN_DOCUMENT_TOKENS - 1))


def test_the_shortest_kept_document_has_exactly_the_minimum_number_of_tokens(formats):
    kept = set()
    for max_length in range(30, 80):
        with contextlib.suppress(TooLong):
            [turn] = fit(formats["smollm2"], [question(" word" * 50)], max_length, room=1)
            kept.add(turn["content"].count(" word"))
    assert min(kept) == MIN_DOCUMENT_TOKENS


def test_without_a_mark_the_whole_user_turn_may_be_shortened(formats):
    chat = formats["smollm2"]
    encoded = chat.encode([{"role": "user", "content": "a " * 300 + "end"}, ANSWER], Rules(max_length=80))

    assert len(encoded.input_ids) <= 80
    assert user_text(chat, encoded).startswith("a a ")
    assert user_text(chat, encoded).endswith(" a end")


def test_of_a_shortened_row_the_last_answer_is_learned_behind_its_prompt(formats):
    chat = formats["qwen2.5"]
    messages = [SYSTEM, *turns(6), question("x " * 400), ANSWER]

    for supervise in ("all", "last"):
        for max_length in (200, 700):
            encoded = chat.encode(messages, Rules(supervise=supervise, max_length=max_length))
            assert encoded.num_cut > 0
            assert encoded.prompt_ids == chat.encode_prompt(messages[:-1], Rules(max_length=max_length))
            assert encoded.loss_mask == [0] * len(encoded.prompt_ids) + [1] * len(chat.encode_answer("Sports")) + [0]


def turns(count: int, length: int = 20) -> list[dict]:
    """u0 a0 u1 a1 ...: exchanges of about 2 * length tokens."""
    return [
        {"role": role, "content": f"{role[0]}{number}" + " x" * length}
        for number in range(count)
        for role in ("user", "assistant")
    ]


def test_the_oldest_exchanges_are_dropped_first_and_whole(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, *turns(6), {"role": "user", "content": "and now?"}]
    length = (
        len(chat.encode_prompt([SYSTEM, *messages[-5:]])) + 10
    )  # what two exchanges and the question take, and room

    assert fit(chat, messages, length, room=10) == [SYSTEM, *messages[-5:]]
    assert fit(chat, messages, length - 1, room=10) == [SYSTEM, *messages[-3:]]
    assert fit(chat, messages, length, room=11) == [SYSTEM, *messages[-3:]]


def test_a_document_is_shortened_only_when_no_older_exchange_is_left(formats):
    chat = formats["smollm2"]
    fitted = fit(chat, [SYSTEM, *turns(3), question("x " * 400)], 120)

    assert (fitted[0], len(fitted)) == (SYSTEM, 2)
    assert fitted[1]["content"].startswith(BEFORE + "x x ")


def test_room_is_left_for_the_longest_label_and_not_for_the_right_one(formats):
    for chat in formats.values():
        if chat.think == "keep":  # thinks aloud first, so that any answer is free text
            continue
        options = ("Go", "Sports", "the weather of the day before yesterday")
        messages = [SYSTEM, question("x " * 400, *options)]
        prompt = chat.encode_prompt(messages, Rules(max_length=120))
        answered = [[*messages, {"role": "assistant", "content": option}] for option in options]
        longest = max(len(chat.encode(row, Rules(max_length=120)).input_ids) for row in answered)
        assert longest == 120
        assert len(prompt) == 120 - len(chat.encode_answer(options[-1])) - 1  # the line break behind the end token


def test_room_for_free_text_is_what_was_requested_or_half_of_what_is_left(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("x " * 400)]
    fixed = len(chat.encode_prompt([SYSTEM, question("")]))

    assert len(chat.encode_prompt(messages, Rules(max_length=300, answer_room=40))) == 260
    assert len(chat.encode_prompt(messages, Rules(max_length=fixed + 60, answer_room=40))) == fixed + 30
    assert len(chat.encode_prompt(messages, Rules(max_length=fixed + 61, answer_room=40))) == fixed + 31


def test_an_answer_longer_than_its_room_is_too_long_for_the_row_and_says_so(formats):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("x " * 400), {"role": "assistant", "content": "y " * 60}]
    num_answer = len(chat.encode_answer("y " * 60)) + 1

    assert len(chat.encode(messages, Rules(max_length=300, answer_room=num_answer)).input_ids) == 300
    with pytest.raises(TooLong) as caught:
        chat.encode(messages, Rules(max_length=300, answer_room=num_answer - 5))
    assert caught.value.reason == (
        f"its prompt leaves {num_answer - 5}, its answer has 5 more; raise the length or the room for answers, or "
        "shorten the row"
    )


@pytest.mark.parametrize("on_too_long", ["drop", "error"])
def test_where_no_row_is_shortened_a_prompt_that_fits_stays_whole_however_long_its_answer_may_be(formats, on_too_long):
    chat = formats["smollm2"]
    messages = [SYSTEM, question("x " * 100), ANSWER]
    length = len(chat.encode(messages).input_ids)
    how = {"max_length": length, "on_too_long": on_too_long}

    assert chat.encode(messages, Rules(**how)).num_cut == 0
    assert chat.encode_prompt(messages[:-1], Rules(**how)) == chat.encode(messages, Rules(**how)).prompt_ids
    with pytest.raises(PromptError):
        chat.encode(messages, Rules(**{**how, "max_length": length - 1}))


def test_what_cannot_be_shortened_takes_the_room_of_its_answer_as_far_as_it_has_to(formats):
    chat = formats["smollm2"]
    user = {"role": "user", "content": "找出实体：\n" + "北京 " * 40, "document": (0, 0)}
    length = len(chat.encode([user, ANSWER]).input_ids)

    assert chat.encode([user, ANSWER], Rules(max_length=length)) == chat.encode([user, ANSWER])
    with pytest.raises(TooLong):
        chat.encode([user, ANSWER], Rules(max_length=length - 1))


def test_of_a_conversation_that_is_too_long_no_answer_is_lost(formats):
    for chat in formats.values():
        messages = [SYSTEM, *turns(12)]
        ends = range(3, len(messages) + 1, 2)
        (examples,) = chat.encode_batch([messages], Rules(max_length=300, answer_room=60))
        learned = [chat.decode([i for i, flag in zip(e.input_ids, e.loss_mask, strict=True) if flag]) for e in examples]
        assert "".join(learned).count("a") == 12
        assert all(len(example.input_ids) <= 300 for example in examples)
        num_together = len(ends) - len(examples) + 1
        assert (num_together > 1) == chat.supervises_every_answer
        for end, example in zip(ends[num_together - 1 :], examples, strict=True):
            assert example.prompt_ids == chat.encode_prompt(messages[: end - 1], Rules(max_length=300, answer_room=60))
        assert chat.encode(messages, Rules(max_length=300, answer_room=60)) == examples[-1]


def test_a_chat_that_outgrew_its_context_is_shortened_by_the_same_rules(formats):
    for chat in formats.values():
        history = [SYSTEM, *turns(8), {"role": "user", "content": "and now?"}]
        prompt = chat.encode_prompt(history, Rules(max_length=200))

        assert len(prompt) <= 200
        assert prompt == chat.encode_prompt(fit(chat, history, 200))
        assert fit(chat, history, 200)[0] == SYSTEM
        assert fit(chat, history, 200)[-1] == history[-1]


def test_a_prompt_that_cannot_be_shortened_is_refused(formats):
    with pytest.raises(TooLong):
        formats["smollm2"].encode_prompt(
            [{"role": "system", "content": "s " * 100}, question("")], Rules(max_length=50)
        )


def test_a_conversation_is_split_at_its_users():
    s, u, a, t = ({"role": role, "content": ""} for role in ("system", "user", "assistant", "tool"))

    assert split_exchanges([s, u, a, u, u, a, u]) == ([s], [[u, a], [u, u, a], [u]])
    assert split_exchanges([a, u]) == ([], [[a], [u]])
    assert split_exchanges([u, a, t, t, a, u]) == ([], [[u, a, t, t, a], [u]])


def test_a_letter_keeps_its_marks_when_the_cut_falls_between(formats):
    chat = formats["smollm2"]
    document = "e\u0301\u0323" * 200  # letters with two marks each
    for max_length in range(80, 100):
        [_, user] = fit(chat, [SYSTEM, question(document)], max_length)
        start, end = user["document"]
        assert user["content"][start:end] == "e\u0301\u0323" * ((end - start) // 3)


def test_of_two_user_turns_behind_each_other_the_longer_document_is_cut(formats):
    short, long = question("a short text", "Sports"), question("word " * 300, "Sports")
    for turns in ([short, long], [long, short]):
        fitted = fit(formats["smollm2"], turns, 250, room=64)
        assert [turn["content"] == short["content"] for turn in fitted] == [turn is short for turn in turns]
        assert fitted != turns
