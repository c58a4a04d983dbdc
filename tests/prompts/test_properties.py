"""What holds for every conversation, over thousands of generated ones and all the strings that could break it."""

import os
import unicodedata

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompts import ChatFormat, Rules, TooLong, conversation_of
from prompts.tasks import get_task, task_names

QWEN3_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
]
SMOLLM2_TOKENS = ["<repo_name>", "<file_sep>", "<filename>", "<gh_stars>", "<jupyter_code>", "<empty_output>"]
TOKENS = QWEN3_TOKENS + SMOLLM2_TOKENS
ASKED = [name for name in task_names() if get_task(name).kind != "document"]

EXAMPLES = int(os.environ.get("EXAMPLES", "50"))  # `make test-all` asks for 150
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
clean_words = st.sampled_from(
    ["hello", " world", "你好", "，", "房间 很干净", "x = 1\n", "\tif", "é", "ﬁ", "🙂", "42", ".", "\n\n"]
)
clean_text = st.lists(clean_words, max_size=8).map("".join)


@st.composite
def broken_tokens(draw: st.DrawFn) -> str:
    """A control token, whole or split in two by something: "<|im_", " end|>"."""
    token = draw(st.sampled_from(TOKENS))
    place = draw(st.integers(0, len(token)))
    return token[:place] + draw(st.sampled_from(["", "", "", " ", "\n", "\u200b", "x"])) + token[place:]


hostile_text = st.lists(st.one_of(broken_tokens(), any_text, clean_text), max_size=6).map("".join)


def conversations(
    text: st.SearchStrategy[str], answer: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[list[dict]]:
    """[system?, user, assistant, user, assistant, ...], reasoning among it."""
    turn = st.tuples(text, text if answer is None else answer, st.one_of(st.none(), text)).map(_make_turn)
    turns = st.lists(turn, min_size=1, max_size=4).map(lambda turns: [message for turn in turns for message in turn])
    system = st.one_of(st.just([]), text.map(lambda content: [{"role": "system", "content": content}]))
    return st.tuples(system, turns).map(lambda parts: [*parts[0], *parts[1]])


def _make_turn(parts: tuple[str, str, str | None]) -> list[dict]:
    question, answer, reasoning = parts
    answered = {"role": "assistant", "content": answer}
    return [
        {"role": "user", "content": question},
        answered if reasoning is None else {**answered, "reasoning_content": reasoning},
    ]


def structure(chat: ChatFormat, messages: list[dict]) -> list[str]:
    """The control tokens a conversation of these roles has to have, whatever its texts say."""
    roles = [message["role"] for message in messages]
    if chat.family.default_system is not None and roles[0] != "system":
        roles = ["system", *roles]
    tokens = []
    for index, role in enumerate(roles):
        thinks = chat.family.has_think_block and (chat.think != "auto" or index == len(roles) - 1)
        block = ["<think>", "</think>"] if role == "assistant" and thinks else []
        tokens += ["<|im_start|>", *block, "<|im_end|>"]
    return tokens


def controls_of(chat: ChatFormat, messages: list[dict], **settings: object) -> list[str]:
    """The control tokens there are in the ids of a conversation."""
    names = {index: token for token, index in chat.encoder.control_tokens.items()}
    return [names[index] for index in chat.encode(messages, Rules(**settings)).input_ids if index in names]


def test_every_added_token_whole_and_split_is_text_in_every_role(formats, golden):
    recorded = {token["content"] for token in golden["qwen3"]["control_tokens"]}
    assert recorded == set(QWEN3_TOKENS)
    for token in TOKENS:
        texts = [token, f"a {token} b", token * 3, *(token[:i] + " " + token[i:] for i in range(1, len(token)))]
        for text in texts:
            messages = [
                {"role": "system", "content": text},
                {"role": "user", "content": text},
                {"role": "assistant", "content": text, "reasoning_content": text},
            ]
            for chat in formats.values():
                assert controls_of(chat, messages) == structure(chat, messages)


@many
@given(st.sampled_from(ASKED), st.lists(hostile_text, min_size=4, max_size=4, unique=True))
def test_no_field_of_any_task_becomes_a_control_token(formats, name, texts):
    first, second, third, fourth = texts
    entity = {"start_idx": 0, "end_idx": len(first), "entity_text": first, "entity_label": second or "PER"}
    fields = {
        "chat": {"messages": [{"role": "user", "content": first}, {"role": "assistant", "content": second}]},
        "instruct": {"instruction": first, "input": second, "output": third, "system": fourth},
        "ner": {"text": first, "entities": [entity] if first else []},
        "news": {"text": first, "category": [second, third], "output": third},
    }
    row = {"task": name, **get_task(name).example, **fields.get(name, {"text": first})}
    for chat in formats.values():
        messages = conversation_of(row, fourth)
        assert controls_of(chat, messages, supervise="last") == structure(chat, messages)


@many
@given(conversations(hostile_text))
def test_no_text_in_any_role_becomes_a_control_token(formats, messages):
    for chat in formats.values():
        assert controls_of(chat, messages) == structure(chat, messages)


@many
@given(conversations(hostile_text), st.sampled_from(["all", "last"]))
def test_exactly_the_answers_and_one_end_token_each_are_supervised(formats, messages, supervise):
    for chat in formats.values():
        encoded = chat.encode(messages, Rules(supervise=supervise))
        answers = [message for message in messages if message["role"] == "assistant"]
        if supervise == "last" or not chat.supervises_every_answer:
            answers = answers[-1:]
        expected = []
        for answer in answers:
            if chat.think == "keep":
                reasoning = answer.get("reasoning_content", "").strip("\n")
                expected += chat.encoder.control_tokens["<think>"], *chat.encode_text(f"\n{reasoning}\n")
                expected += chat.encoder.control_tokens["</think>"], *chat.encode_text(f"\n\n{answer['content']}")
            else:
                expected += chat.encode_text(answer["content"])
            expected.append(chat.end_ids[0])
        assert [
            index for index, learned in zip(encoded.input_ids, encoded.loss_mask, strict=True) if learned
        ] == expected
        assert len(encoded.input_ids) == len(encoded.loss_mask)


@many
@given(conversations(hostile_text))
def test_the_context_of_an_answer_in_training_is_the_prompt_of_inference(formats, messages):
    for chat in formats.values():
        answers = [index for index, message in enumerate(messages, start=1) if message["role"] == "assistant"]
        (examples,) = chat.encode_batch([messages])  # think="auto" makes one of each answer
        for end, encoded in zip(answers[-len(examples) :], examples, strict=True):
            row = messages[:end]
            assert encoded.prompt_ids == chat.encode_prompt(row[:-1])
            starts = [i for i, learned in enumerate(encoded.loss_mask) if learned and not encoded.loss_mask[i - 1]]
            asked = [row[:i] for i, message in enumerate(row) if message["role"] == "assistant"][-len(starts) :]
            assert [encoded.input_ids[:start] for start in starts] == [chat.encode_prompt(turns) for turns in asked]


@many
@given(conversations(clean_text, clean_text.map(str.lstrip)))
def test_clean_text_gives_the_ids_of_apply_chat_template(formats, tokenizers_by_family, messages):
    # An answer that begins with a blank is encoded apart from its header, as it is generated, and so not as the
    # template does; Qwen3's template takes leading newlines off.
    messages = [{"role": message["role"], "content": message["content"]} for message in messages]
    for name, tokenizer in tokenizers_by_family.items():
        chat = formats[name]
        assert chat.encode(messages).input_ids == tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        assert chat.encode_prompt(messages[:-1]) == prompt


@many
@given(clean_text, clean_text.map(str.strip), clean_text.map(str.lstrip))
def test_kept_reasoning_gives_the_ids_of_apply_chat_template(
    formats, tokenizers_by_family, question, reasoning, answer
):
    chat, tokenizer = formats["qwen3 keep"], tokenizers_by_family["qwen3"]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "reasoning_content": reasoning},
    ]
    assert chat.encode(messages).input_ids == tokenizer.apply_chat_template(messages, return_dict=False)
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert chat.encode_prompt(messages[:-1]) == prompt


@many
@given(st.lists(hostile_text, min_size=5, max_size=5), st.integers(1, 200), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_an_over_long_row_fits_and_only_its_document_is_shorter(formats, texts, num_over, head_share):
    system, before, document, after, answer = texts
    document *= 5
    user = {"role": "user", "content": before + document + after, "document": (len(before), len(before + document))}
    messages = [
        {"role": "system", "content": system},
        {**user, "answers": (answer,)},
        {"role": "assistant", "content": answer},
    ]
    for chat in formats.values():
        whole = chat.encode(messages)
        max_length = len(whole.input_ids) - num_over
        how = {"max_length": max_length, "head_share": head_share, "answer_room": 1}
        found = next(chat.encode_batch([messages], Rules(**how)))
        if isinstance(found, TooLong):
            assert (found.num_tokens, found.max_length) == (len(whole.input_ids), max_length)
            assert len(chat.encode_text(document)) < num_over + 40  # there was little to give up
            continue
        (encoded,) = found
        assert len(encoded.input_ids) == len(whole.input_ids) - encoded.num_cut <= max_length
        assert [i for i in encoded.input_ids if i in chat.control_ids] == [
            i for i in whole.input_ids if i in chat.control_ids
        ]
        assert encoded.prompt_ids == chat.encode_prompt(messages[:2], Rules(**how))
        asked, is_whole = (unicodedata.normalize("NFC", chat.decode(one.prompt_ids)) for one in (encoded, whole))
        assert any(is_whole.startswith(asked[:i]) and is_whole.endswith(asked[i:]) for i in range(len(asked) + 1))


NAMES = st.lists(st.one_of(clean_text, hostile_text), min_size=3, max_size=3, unique=True)


@st.composite
def answers_of_a_row(draw: st.DrawFn) -> list[dict]:
    """One question, several answers: rows that differ in what is right alone. Labels: all that the row allows."""
    name = draw(st.sampled_from(ASKED))
    text = draw(hostile_text) * draw(st.integers(1, 30))
    free = [*draw(NAMES), "好" * draw(st.integers(1, 200))]
    row = {"task": name, "id": "r", **get_task(name).example, "text": text}
    if name == "news":
        row["category"] = [option or "-" for option in draw(NAMES)]
        return [{**row, "output": option} for option in row["category"]]
    if name == "ner":
        places = [(0, 1, "PER"), (0, len(text), "LOC")]
        found = [
            {"start_idx": start, "end_idx": end, "entity_text": text[start:end], "entity_label": label}
            for start, end, label in places
            if text
        ]
        return [{**row, "entities": found[:count]} for count in range(3)]
    if name == "instruct":
        row |= {"instruction": draw(hostile_text) or "?", "input": text}
        return [{**row, "output": answer or "-"} for answer in free]
    if name == "chat":
        history = [*row["messages"][:-1], {"role": "user", "content": text}]
        return [{**row, "messages": [*history, {"role": "assistant", "content": answer or "-"}]} for answer in free]
    if name == "sentiment_json":
        return [{**row, "label": label} for label in (0, 1)]
    return [{**row, "label": label} for label in get_task(name).allowed_labels(row)]


@many
@given(
    answers_of_a_row(),
    st.integers(30, 400),
    st.integers(1, 200),
    st.sampled_from(["all", "last"]),
    st.sampled_from(["shorten", "shorten", "drop"]),
)
def test_the_answer_never_shapes_the_prompt(formats, rows, max_length, answer_room, supervise, on_too_long):
    how = {"max_length": max_length, "answer_room": answer_room, "on_too_long": on_too_long}
    for chat in formats.values():
        whole = [conversation_of(row, "Be brief.") for row in rows]
        kept = [
            found for found in chat.encode_batch(whole, Rules(supervise=supervise, **how)) if isinstance(found, list)
        ]
        if get_task(rows[0]["task"]).allowed_labels(rows[0]) and chat.think != "keep":
            assert len(kept) in (0, len(rows))  # nor whether the row is kept
        prompts = [found[-1].prompt_ids for found in kept]
        for row, prompt in zip(rows, prompts, strict=False):
            assert prompt == chat.encode_prompt(conversation_of(row, "Be brief.", with_answer=False), Rules(**how))
        assert all(prompt == prompts[0] for prompt in prompts)
        assert all(len(example.input_ids) <= max_length for found in kept for example in found)


@many
@given(conversations(hostile_text), st.integers(30, 300), st.integers(1, 100))
def test_each_answer_of_a_conversation_is_learned_once_after_the_prompt_of_inference(
    formats, messages, max_length, answer_room
):
    how = {"max_length": max_length, "answer_room": answer_room}
    for chat in formats.values():
        examples = next(chat.encode_batch([messages], Rules(**how)))
        if isinstance(examples, TooLong):
            continue
        ends = [index for index, message in enumerate(messages, start=1) if message["role"] == "assistant"]
        prompts = []
        for encoded in examples:
            starts = [i for i, flag in enumerate(encoded.loss_mask) if flag and not encoded.loss_mask[i - 1]]
            prompts += [encoded.input_ids[:start] for start in starts]
        assert prompts == [chat.encode_prompt(messages[: end - 1], Rules(**how)) for end in ends]


@many
@given(hostile_text)
def test_a_text_survives_encoding_and_decoding(formats, text):
    for name, chat in formats.items():
        ids = chat.encode_text(text)
        assert chat.control_ids.isdisjoint(ids)
        if name == "smollm2":  # has no bytes for some characters nobody writes; they become U+FFFD, nothing else does
            decoded = chat.decode(ids)
            assert len(decoded) == len(text)
            assert all(a in (b, "\ufffd") for a, b in zip(decoded, text, strict=True))
        else:
            assert chat.decode(ids) == unicodedata.normalize("NFC", text)
