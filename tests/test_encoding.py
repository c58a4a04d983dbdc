"""Rows become examples: each is kept, shortened or dropped, and the counts say which."""

import json
from pathlib import Path

import pytest

from prompts import ChatFormat, Head, Rules
from sft.encoding import EncodedRows, encode_rows
from sft.errors import DataError

QWEN3 = Path(__file__).parent / "prompts" / "golden" / "qwen3.json"
SYSTEM = "Be brief."


@pytest.fixture(scope="module")
def chat(tiny_model_folder: Path) -> ChatFormat:
    """Plain ChatML: one example holds all answers of a row."""
    from sft.models.loading import load_tokenizer

    return ChatFormat.from_tokenizer(load_tokenizer(tiny_model_folder))


@pytest.fixture(scope="module")
def qwen3(tiny_model_folder: Path) -> ChatFormat:
    """Qwen3's template, which stands past answers behind another context: an example for each answer."""
    from transformers import PreTrainedTokenizerFast

    from sft.models.loading import load_tokenizer

    tokens = load_tokenizer(tiny_model_folder).backend_tokenizer
    tokens.add_tokens(["<think>", "</think>"])
    template = json.loads(QWEN3.read_text(encoding="utf-8"))["template"]
    return ChatFormat.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokens, chat_template=template))


def instruct(name: str, document: str = "", output: str = "yes") -> dict:
    return {
        "id": name,
        "source": "s",
        "task": "instruct",
        "instruction": "Why?",
        "input": document,
        "output": output,
    }


def talk(name: str, *turns: str) -> dict:
    """talk("a", "question", "answer", ...)"""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return {"id": name, "source": "s", "task": "chat", "messages": messages}


def learned(encoded: EncodedRows, chat: ChatFormat) -> list[str]:
    """What each example teaches, without control tokens."""
    return [
        chat.decode([token for token, flag in zip(e.input_ids, e.loss_mask, strict=True) if flag])
        for e in encoded.encoded
    ]


def test_every_row_read_is_kept_shortened_or_dropped_and_the_tokens_are_those_of_the_examples(chat):
    rows = [instruct("short"), instruct("long", "word " * 40), instruct("hopeless", output="word " * 40)]
    whole = encode_rows(rows, chat, SYSTEM, Rules(max_length=1000))
    room = len("yes") + 2  # a byte-level tokenizer, the end token and a line break
    encoded = encode_rows(rows, chat, SYSTEM, Rules(max_length=120, answer_room=room))

    assert [row["id"] for row in encoded.rows] == ["short", "long"]
    assert list(encoded.dropped) == ["hopeless"]
    assert [len(example.input_ids) for example in encoded.encoded] == [len(whole.encoded[0].input_ids), 120]
    cut = len(whole.encoded[1].input_ids) - 120
    assert encoded.shortened == {"long": cut}
    assert learned(encoded, chat) == ["yes", "yes"]
    assert encoded.counts() == {
        "read": 3,
        "kept": 2,
        "examples": 2,
        "shortened": 1,
        "tokens_cut": cut,
        "dropped": 1,
        "tokens": len(whole.encoded[0].input_ids) + 120,
        "supervised_tokens": 2 * (len("yes") + 1),
    }


def test_the_report_names_the_first_dropped_rows_and_counts_all(chat):
    rows = [instruct("fine"), *(instruct(f"r{i}", output="word " * 40) for i in range(5))]
    encoded = encode_rows(rows, chat, SYSTEM, Rules(max_length=120))
    reason = encoded.dropped["r0"]
    assert "do not fit 120" in reason
    assert encoded.report() == (
        f"kept 1 of 6 rows, {encoded.num_tokens:,} tokens, 4 of them supervised; "
        f"5 dropped: r0 ({reason}), r1 ({reason}), r2 ({reason}), ..."
    )
    assert encode_rows(rows[:1], chat, SYSTEM, Rules(max_length=120)).report() == (
        f"kept 1 of 1 rows, {encoded.num_tokens:,} tokens, 4 of them supervised"
    )


def test_on_too_long_drop_drops_what_could_be_shortened_and_error_names_the_row(chat):
    rows = [instruct("short"), instruct("long", "word " * 40)]
    encoded = encode_rows(rows, chat, SYSTEM, Rules(max_length=120, on_too_long="drop"))
    assert ([row["id"] for row in encoded.rows], list(encoded.dropped), encoded.shortened) == (["short"], ["long"], {})
    with pytest.raises(DataError, match=r"^row long: \d+ tokens, but at most 120 are allowed; "):
        encode_rows(rows, chat, SYSTEM, Rules(max_length=120, on_too_long="error"))


def test_a_conversation_is_one_example_where_all_its_answers_can_be_learned_at_once(chat):
    encoded = encode_rows([talk("a", "q1", "a1", "q2", "a2")], chat, SYSTEM, Rules(max_length=200))
    assert learned(encoded, chat) == ["a1a2"]
    last = encode_rows([talk("a", "q1", "a1", "q2", "a2")], chat, SYSTEM, Rules(max_length=200, supervise="last"))
    assert learned(last, chat) == ["a2"]


def test_a_conversation_is_an_example_for_each_answer_where_the_template_wants_it(qwen3):
    rows = [talk("a", "q1", "a1", "q2", "a2"), talk("b", "q3", "a3")]
    encoded = encode_rows(rows, qwen3, SYSTEM, Rules(max_length=200))
    assert learned(encoded, qwen3) == ["a1", "a2", "a3"]
    assert [row["id"] for row in encoded.rows] == ["a", "a", "b"]  # rows[i] is where encoded[i] came from
    counts = encoded.counts()
    assert (counts["read"], counts["kept"], counts["examples"], counts["dropped"]) == (2, 2, 3, 0)
    last = encode_rows(rows, qwen3, SYSTEM, Rules(max_length=200, supervise="last"))
    assert (learned(last, qwen3), last.counts()["examples"]) == (["a2", "a3"], 2)


def test_a_row_of_several_examples_is_kept_whole_or_dropped_whole(qwen3):
    rows = [talk("a", "q1", "a1", "q2", "word " * 40), talk("b", "q3", "a3")]
    encoded = encode_rows(rows, qwen3, SYSTEM, Rules(max_length=100))
    assert ([row["id"] for row in encoded.rows], list(encoded.dropped)) == (["b"], ["a"])
    counts = encoded.counts()
    assert (counts["read"], counts["kept"], counts["examples"], counts["dropped"]) == (2, 1, 1, 1)


def test_a_row_shortened_in_two_examples_counts_once(qwen3):
    rows = [talk("a", "word " * 40, "a1", "word " * 40, "a2")]
    encoded = encode_rows(rows, qwen3, SYSTEM, Rules(max_length=100))
    counts = encoded.counts()
    assert (counts["kept"], counts["examples"], counts["shortened"]) == (1, 2, 1)
    assert counts["tokens_cut"] == sum(example.num_cut for example in encoded.encoded) > 200


def test_no_example_is_without_a_supervised_token(chat, qwen3):
    rows = [instruct("a", "word " * 40), talk("b", "q1", "a1", "q2", "a2"), instruct("c", output="word " * 40)]
    for form in (chat, qwen3):
        for limit in range(16, 140, 7):
            encoded = encode_rows(rows, form, SYSTEM, Rules(max_length=limit))
            assert all(e.num_supervised > 0 and len(e.input_ids) <= limit for e in encoded.encoded)
            assert {str(row["id"]) for row in encoded.rows} | set(encoded.dropped) == {"a", "b", "c"}


def test_a_row_without_a_supervised_token_is_dropped_by_name(chat, monkeypatch):
    from prompts import Encoded

    monkeypatch.setattr(ChatFormat, "encode_batch", lambda *_, **__: iter([[Encoded([1, 2], [0, 0])]]))
    encoded = encode_rows([instruct("a")], chat, SYSTEM, Rules(max_length=100))
    assert (encoded.rows, encoded.encoded, encoded.dropped) == ([], [], {"a": "no supervised token"})


def test_the_rows_own_system_prompt_wins_and_none_leaves_the_template_its_own(chat):
    rows = [instruct("a"), {**instruct("b"), "system": "Sing."}]
    texts = [chat.decode(e.input_ids) for e in encode_rows(rows, chat, SYSTEM, Rules(max_length=200)).encoded]
    assert [text.split("\n")[1] for text in texts] == ["Be brief.", "Sing."]
    (bare,) = encode_rows(rows[:1], chat, None, Rules(max_length=200)).encoded
    assert chat.decode(bare.input_ids) == "user\nWhy?\nassistant\nyes\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (talk("a", "q1"), "row a: the last turn of 'messages' is not the assistant's; "),
        ({"id": "b", "source": "s", "task": "instruct", "instruction": "?", "input": ""}, "row b: no 'output'; "),
        ({"id": "c", "source": "s", "task": "nope"}, "row c: there is no task 'nope'; "),
    ],
)
def test_a_row_that_cannot_be_rendered_is_an_error_that_names_it_once(row, message, chat):
    with pytest.raises(DataError) as caught:
        encode_rows([row], chat, SYSTEM, Rules(max_length=200))
    assert str(caught.value).startswith(message)


def test_for_a_head_a_row_is_its_prompt_and_the_number_of_its_class(chat):
    head = Head(("负面", "正面"))
    rows = [
        {"id": name, "source": "s", "task": "sentiment", "text": text, "label": label}
        for name, text, label in (("a", "很好", "正面"), ("b", "太吵，" * 99, "负面"), ("c", "不错", "正面"))
    ]
    found = encode_rows(rows, chat, SYSTEM, Rules(max_length=96), head=head)
    assert [(example.label, example.num_supervised) for example in found.encoded] == [(1, 0), (0, 0), (1, 0)]
    assert chat.decode(found.encoded[0].input_ids) == "system\nBe brief.\nuser\n正面还是负面？\n很好\nassistant\n"
    assert found.counts()["labels"] == {"负面": 1, "正面": 2}
    assert found.report().startswith("kept 3 of 3 rows, ")
    assert "tokens, labels 负面 1, 正面 2; 1 shortened by " in found.report()


def test_for_a_head_a_row_of_another_class_or_without_one_is_refused_by_name(chat):
    row = {"id": "a", "source": "s", "task": "sentiment", "text": "很好", "label": "正面"}
    with pytest.raises(DataError, match=r"^row a: label '正面' is none of the head's, 坏, 好; fix the row$"):
        encode_rows([row], chat, SYSTEM, Rules(max_length=96), head=Head(("坏", "好")))
    with pytest.raises(DataError, match=r"^row q: task instruct has no labels, and a classification head says nothing"):
        encode_rows([instruct("q")], chat, SYSTEM, Rules(max_length=96), head=Head(("负面", "正面")))
