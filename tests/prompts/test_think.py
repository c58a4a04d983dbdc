"""Qwen3's think block under each policy: what is context, what is learned, and that inference sends the same."""

import pytest

from prompts import ChatFormat, PromptError
from prompts.family import Family

MESSAGES = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1", "reasoning_content": "r1\n"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]
BLOCK = "<think>\n\n</think>\n\n"


def text_of(chat: ChatFormat, ids: list[int]) -> str:
    names = {index: token for token, index in chat.encoder.control_tokens.items()}
    return "".join(names.get(index) or chat.decode([index]) for index in ids)


def marked(chat: ChatFormat, messages: list[dict]) -> str:
    """The row as text, supervised stretches in «»."""
    text = "".join(
        f"«{piece.text}»" if piece.is_supervised else piece.text for piece in chat.show(chat.encode(messages))
    )
    return text.replace("»«", "")


def test_auto_is_the_templates_own_text_and_learns_the_last_answer(formats):
    assert marked(formats["qwen3"], MESSAGES) == (
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        f"<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n{BLOCK}«a2<|im_end|>»\n"
    )


def test_off_puts_an_empty_block_before_every_answer_and_learns_them_all(formats):
    assert marked(formats["qwen3 off"], MESSAGES) == (
        f"<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n{BLOCK}«a1<|im_end|>»\n"
        f"<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n{BLOCK}«a2<|im_end|>»\n"
    )


def test_keep_learns_the_block_too_and_keeps_it_in_history(formats):
    assert marked(formats["qwen3 keep"], MESSAGES) == (
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n«<think>\nr1\n</think>\n\na1<|im_end|>»\n"
        f"<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n«{BLOCK}a2<|im_end|>»\n"
    )


@pytest.mark.parametrize(
    ("name", "end"),
    [("qwen3", f"assistant\n{BLOCK}"), ("qwen3 off", f"assistant\n{BLOCK}"), ("qwen3 keep", "assistant\n")],
)
def test_a_prompt_ends_where_the_model_continues(formats, name, end):
    assert text_of(formats[name], formats[name].encode_prompt(MESSAGES[:-1])).endswith(f"<|im_start|>{end}")


def test_auto_makes_an_example_of_each_answer_where_all_shall_be_learned(formats):
    auto = formats["qwen3"]
    assert list(auto.encode_batch([MESSAGES])) == [[auto.encode(MESSAGES[:2]), auto.encode(MESSAGES)]]
    for name in ("qwen3 off", "qwen2.5"):
        assert list(formats[name].encode_batch([MESSAGES])) == [[formats[name].encode(MESSAGES)]]


def test_families_without_a_block_know_auto_and_off(tokenizers_by_family):
    auto = ChatFormat.from_tokenizer(tokenizers_by_family["qwen2.5"])
    off = ChatFormat.from_tokenizer(tokenizers_by_family["qwen2.5"], think="off")

    assert auto.encode(MESSAGES) == off.encode(MESSAGES)
    with pytest.raises(PromptError) as caught:
        ChatFormat.from_tokenizer(tokenizers_by_family["qwen2.5"], think="keep")
    assert str(caught.value) == "think='keep', but the chat template knows no <think> block; use think='auto'"


def test_a_template_that_opens_the_block_itself_has_it_in_the_prompt(formats):
    keep = ChatFormat(Family(None, "recent", opens_block=True), formats["qwen3"].encoder, think="keep")

    assert marked(keep, MESSAGES[:2]) == (
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n<think>\n«r1\n</think>\n\na1<|im_end|>»\n"
    )
    assert text_of(keep, keep.encode_prompt(MESSAGES[:1])).endswith("<|im_start|>assistant\n<think>\n")
    written = [*keep.encode_text("r1\n"), keep.encoder.control_tokens["</think>"], *keep.encode_text("\n\na1")]
    assert keep.read_answer(written) == MESSAGES[1] | {"reasoning_content": "r1"}
    assert keep.read_answer(written[:1])["content"] == ""  # cut off while thinking


def test_a_template_that_writes_thoughts_in_another_way_cannot_keep_them(formats):
    with pytest.raises(PromptError) as caught:
        ChatFormat(Family(None, "last", writes_thoughts=False), formats["qwen3"].encoder, think="keep")
    assert (
        str(caught.value) == "think='keep', but the chat template writes thoughts in another way; use 'auto' or 'off'"
    )


def test_a_template_with_a_block_before_every_answer_learns_them_all(formats):
    every = ChatFormat(Family(None, "every"), formats["qwen3"].encoder)

    assert every.supervises_every_answer
    assert marked(every, MESSAGES) == marked(formats["qwen3 off"], MESSAGES)


def test_an_unknown_policy_is_refused(tokenizers_by_family):
    with pytest.raises(PromptError) as caught:
        ChatFormat.from_tokenizer(tokenizers_by_family["qwen3"], think="on")
    assert str(caught.value) == "think='on' is no policy; choose from auto, off, keep"


def test_what_the_model_wrote_is_read_as_answer_and_reasoning(formats):
    chat = formats["qwen3 keep"]
    tokens = chat.encoder.control_tokens
    thought = [tokens["<think>"], *chat.encode_text("\nwell\n"), tokens["</think>"], *chat.encode_text("\n\nyes")]

    assert chat.read_answer(thought) == {"role": "assistant", "content": "yes", "reasoning_content": "well"}
    assert chat.read_answer(chat.encode_answer("yes")) == {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "",
    }
    assert chat.read_answer(thought[:3])["content"] == ""  # cut off while thinking: there is no answer
    assert chat.read_answer(chat.encode_text("yes")) == {"role": "assistant", "content": "yes"}
    assert (
        formats["smollm2"].read_answer([*formats["smollm2"].encode_text("</think>yes"), 2])["content"] == "</think>yes"
    )


def test_a_kept_answer_read_back_is_the_history_it_was(formats):
    chat = formats["qwen3 keep"]
    answer = {"role": "assistant", "content": "\nyes", "reasoning_content": "so: 1"}
    row = chat.encode([MESSAGES[0], answer])
    written = row.input_ids[len(row.prompt_ids) : -1]  # without the newline behind the end token

    assert chat.read_answer(written) == answer
