"""Conversations as files write them: who speaks, what is learned, what was thought, and what is told of the rest."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.rows.canonical import RowError
from sft.data.rows.turns import (
    IGNORED_KEY,
    LATE,
    LONE_END,
    THOUGHTS,
    TWO_SYSTEMS,
    UNLEARNED,
    UNOPENED,
    WEIGHED_QUESTION,
    make_chat_row,
    read_chatml,
)

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}


def read(*turns: object, system: str | None = None) -> tuple[list[dict[str, object]], dict[str, int]]:
    """The turns of the row, and what was noted."""
    notes: Counter[str] = Counter()
    row = make_chat_row(list(turns), system, notes)
    return row["messages"], {note: count for note, count in notes.items() if count}


@pytest.mark.parametrize("key", ["supervised", "weight", "train", "loss", "loss_scale", "loss_weight", "trainable"])
@pytest.mark.parametrize("value", [0, 0.0, False, "0", "false"])
def test_an_answer_of_weight_0_is_context_and_reported_in_every_spelling(key, value):
    turns, notes = read(HI, HELLO | {key: value}, HI, HELLO | {key: 1})

    assert turns == [HI, HELLO | {"supervised": False}, HI, HELLO]
    assert notes == {UNLEARNED: 1}


def test_what_follows_the_last_learned_answer_is_left_out_and_counted():
    turns, notes = read(HI, HELLO, HI, HELLO | {"weight": 0})

    assert turns == [HI, HELLO]
    assert notes == {UNLEARNED: 1, "turns left out after the last answer that is learned": 2}


@pytest.mark.parametrize(
    ("turns", "reason", "message"),
    [
        ([HI, HELLO | {"weight": 0}], "nothing_to_learn", "no answer of the conversation is to be learned"),
        ([HI, HELLO | {"weight": 0.5}], "wrong_weight", "turn 2: weight is 0.5; only 0 and 1 are read"),
        (
            [HI, {"from": "observation", "value": "5 C"}, HELLO],
            "wrong_roles",
            "turn 2 is 'tool', expected 'assistant'; nothing was called before it",
        ),
        ([HI, {"role": "assistant", "content": "<think>\nhm"}], "open_thought", "turn 2 begins with <think>, which is"),
        (
            [HI, {"role": "assistant", "content": "<think>hm</think>\n"}],
            "empty_answer",
            "turn 2 (assistant) is empty but",
        ),
        (
            [HI, {"role": "assistant", "content": "<think>a</think>b", "reasoning": "c"}],
            "two_thoughts",
            "turn 2 has a <think> block and another thought",
        ),
        ([HI, {"role": "assistant", "content": "\u200b"}], "empty_answer", "turn 2 (assistant) is empty"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}, HELLO],
            "media",
            "turn 1 has a part of type 'image_url'",
        ),
    ],
)
def test_what_cannot_be_learned_as_it_was_meant_is_refused_by_name(turns, reason, message):
    with pytest.raises(RowError) as caught:
        read(*turns)

    assert (caught.value.reason, str(caught.value)[: len(message)]) == (reason, message)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "42", "reasoning_content": "6 x 7"},
        {"content": "42", "reasoning": "6 x 7"},
        {"content": "42", "thinking": "6 x 7"},
        {"content": "<think>\n6 x 7\n</think>\n\n42"},
        {"content": "<think>6 x 7</think>42"},
        {"content": [{"type": "reasoning", "value": "6 x 7"}, {"type": "text", "value": "42"}]},
        {"content": [{"type": "thinking", "thinking": "6 x 7"}, {"type": "text", "text": "42"}]},
    ],
)
def test_a_thought_is_found_wherever_it_is_and_reported(answer):
    turns, notes = read(HI, {"role": "assistant", **answer})

    assert turns == [HI, {"role": "assistant", "content": "42", "reasoning_content": "6 x 7"}]
    assert notes == {THOUGHTS: 1}


def test_an_empty_think_block_is_no_thought():
    assert read(HI, {"role": "assistant", "content": "<think>\n\n</think>\n\n42"}) == (
        [HI, {"role": "assistant", "content": "42"}],
        {},
    )


def test_parts_of_text_are_joined_and_speakers_have_many_names():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "LoRA?"}]

    assert read({"role": "Developer", "content": "Be brief."}, {"from": "human", "value": parts}, HELLO)[0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is LoRA?"},
        HELLO,
    ]
    assert read({"human": "Hi", "assistant": "Hello"})[0] == [HI, HELLO]


@given(st.dictionaries(st.sampled_from(["name", "id", "lang", "refusal", "train_detail"]), st.integers(1, 9)))
def test_every_key_of_a_turn_is_read_or_counted(extra):
    notes = read(HI | extra, HELLO | {"weight": 1}, HI | {"weight": 1}, HELLO)[1]

    assert notes == {**{IGNORED_KEY.format(key): 1 for key in extra}, WEIGHED_QUESTION: 1}


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and "<" not in text and text.isprintable()
)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), st.booleans())
def test_ready_chatml_is_split_into_the_turns_it_was_made_of(exchanges, ends_with_text_token):
    turns = [
        {"role": role, "content": said}
        for exchange in exchanges
        for role, said in zip(("user", "assistant"), exchange, strict=True)
    ]
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)

    row = read_chatml(text + ("<|endoftext|>" if ends_with_text_token else ""), Counter())

    assert row["messages"] == turns


@pytest.mark.parametrize("text", ["<|im_start|>user\nHi<|im_end|>\nHello", "<|im_start|>user\nHi <|im_start|> there"])
def test_what_is_no_whole_chatml_is_refused(text):
    with pytest.raises(RowError):
        read_chatml(text, Counter())


def test_a_thought_that_the_prompt_opened_is_the_thought_as_the_template_parses_it():
    answer = {"role": "assistant", "content": "6 x 7 is 42.\n</think>\n\n42"}

    assert read(HI, answer) == (
        [HI, {"role": "assistant", "content": "42", "reasoning_content": "6 x 7 is 42."}],
        {UNOPENED: 1, THOUGHTS: 1},
    )


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("Close it with </think> then.", LONE_END),
        ("So <think> comes first, then </think>.", LATE),
        ("Use <think>.", LATE),
    ],
)
def test_a_think_tag_that_opens_no_block_is_text_and_reported(content, note):
    turns, notes = read(HI, {"role": "assistant", "content": content})

    assert turns == [HI, {"role": "assistant", "content": content}]
    assert notes == {note: 1}


def test_the_typed_parts_of_llama_factory_are_read_with_their_thoughts_and_calls():
    called = '{"name": "clock", "arguments": {"zone": "UTC"}}'
    turns = [
        {"role": "user", "content": [{"type": "text", "value": "What time is it?"}], "loss_weight": 0.0},
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "value": "Look."}, *[{"type": "tool_call", "value": called}] * 2],
            "loss_weight": 1.0,
        },
        {"role": "tool", "content": [{"type": "text", "value": "noon"}]},
        {"role": "assistant", "content": [{"type": "text", "value": "Noon."}], "loss_weight": 1.0},
    ]

    row = make_chat_row(turns, None, Counter(), '[{"name": "clock", "parameters": {}}]')

    call = {"name": "clock", "arguments": {"zone": "UTC"}}
    assert row["messages"] == [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call], "reasoning_content": "Look."},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "Noon."},
    ]


def test_calls_and_results_that_are_parts_as_anthropic_writes_them_are_read():
    turns = [
        {"role": "user", "content": "What time is it?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "1", "name": "clock", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "noon"}]},
        {"role": "assistant", "content": "Noon."},
    ]

    messages = make_chat_row(turns, None, Counter(), [{"name": "clock", "parameters": {}}])["messages"]

    assert messages[1:3] == [
        {"role": "assistant", "content": "I look.", "tool_calls": [{"name": "clock", "arguments": {}}]},
        {"role": "tool", "content": "noon"},
    ]


def test_what_a_turn_says_twice_and_differently_is_counted():
    notes: Counter[str] = Counter()
    turns = [
        {"role": "user", "from": "human", "content": "Hi", "value": "Hello"},
        {"role": "assistant", "from": "human", "text": "Bye", "training": True},
    ]

    assert make_chat_row(turns, None, notes)["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Bye"},
    ]
    assert +notes == {"turns whose 'value' is not read": 1, "turns whose 'from' is not read": 1}


def test_a_picture_placeholder_in_a_text_is_reported():
    notes: Counter[str] = Counter()

    make_chat_row([{"role": "user", "content": "<image>What is this?"}, HELLO], None, notes)
    make_chat_row([{"role": "user", "content": "an <imagined> x < y"}, HELLO], None, notes)

    assert +notes == {"texts with <image>, <img>..., as ordinary text": 1}


def test_results_stand_in_the_order_of_the_calls_that_they_name():
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    asked = [HI, {"role": "assistant", "content": "", "tool_calls": calls}]
    results = [{"role": "tool", "tool_call_id": name, "content": f"of {name}"} for name in ("b", "a")]
    stray = [{**result, "tool_call_id": "c"} for result in results]

    assert [turn["content"] for turn in read(*asked, *results, HELLO)[0][2:4]] == ["of a", "of b"]
    assert [turn["content"] for turn in read(*asked, *stray, HELLO)[0][2:4]] == ["of b", "of a"]


def test_a_system_column_beside_another_system_turn_is_told():
    turn = {"role": "system", "content": "Be kind."}

    assert read(turn, HI, HELLO, system="Be brief.") == ([turn, HI, HELLO], {TWO_SYSTEMS: 1})
    assert read(turn, HI, HELLO, system="Be kind.") == ([turn, HI, HELLO], {})


def test_a_second_block_of_thinking_is_text_and_told():
    messages, notes = read(HI, {"role": "assistant", "content": "<think>a</think><think>b</think>Hello"})

    assert (messages[1]["reasoning_content"], messages[1]["content"]) == ("a", "<think>b</think>Hello")
    assert notes == {THOUGHTS: 1, LATE: 1}
