"""Our ids against those that reference tokenizers' own chat templates gave (recorded by make_golden.py)."""

import pytest

from prompts import ChatFormat, Rules
from prompts.template import read_family

FAMILIES = ["qwen2.5", "qwen3", "qwen3.5", "smollm2"]
WITH_TOOLS = ["qwen2.5", "qwen3", "qwen3.5"]


class RecordedEncoder:
    """Knows the reference tokenizer's ids of the recorded texts, each encoded alone, and of nothing else.

    So a conversation comes out right only if it is put together from the right control ids and the right texts.
    """

    def __init__(self, golden: dict):
        self.control_tokens = {token["content"]: token["id"] for token in golden["control_tokens"]}
        self.control_ids = frozenset(self.control_tokens.values())
        self.texts = golden["texts"] | golden.get("tool_texts", {})

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [self.texts[text] for text in texts]


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_the_reference_tokenizers_own_template(golden, name):
    chat = ChatFormat(read_family(golden[name]["template"]), RecordedEncoder(golden[name]))
    recorded = golden[name]["conversations"]

    assert len(recorded) == 14
    assert [chat.encode(row["messages"]).input_ids for row in recorded] == [row["ids"] for row in recorded]


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_those_of_the_reference_tokenizers_own_template(golden, name):
    chat = ChatFormat(read_family(golden[name]["template"]), RecordedEncoder(golden[name]))
    recorded = golden[name]["conversations"]

    assert [chat.encode_prompt(row["messages"][:-1]) for row in recorded] == [row["prompt_ids"] for row in recorded]


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_rows_supervise_the_answer_and_the_end_token(golden, name):
    chat = ChatFormat(read_family(golden[name]["template"]), RecordedEncoder(golden[name]))
    end = chat.encoder.control_tokens["<|im_end|>"]
    for row in golden[name]["conversations"]:
        encoded = chat.encode(row["messages"], Rules(supervise="last"))
        supervised = [index for index, learned in zip(encoded.input_ids, encoded.loss_mask, strict=True) if learned]
        assert supervised == [*golden[name]["texts"][chat.family.clean(row["messages"][-1]["content"])], end]
        assert encoded.prompt_ids == row["prompt_ids"]


def test_the_embedded_tokenizer_gives_the_recorded_ids(golden, embedded_tokenizer):
    chat = ChatFormat.from_tokenizer(embedded_tokenizer)
    recorded = golden["smollm2"]["conversations"]

    assert [chat.encode(row["messages"]).input_ids for row in recorded] == [row["ids"] for row in recorded]
    assert [chat.encode_prompt(row["messages"][:-1]) for row in recorded] == [row["prompt_ids"] for row in recorded]


def offer(messages: list[dict], tools: list[dict]) -> list[dict]:
    """The turns with the tools that stand behind their system message."""
    num_system = messages[0]["role"] == "system"
    return [*messages[:num_system], {"role": "tools", "content": "", "tools": tools}, *messages[num_system:]]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools_calls_and_results_have_the_ids_of_the_reference_template(golden, name):
    chat = ChatFormat(read_family(golden[name]["template"]), RecordedEncoder(golden[name]))
    recorded = golden[name]["tool_conversations"]
    conversations = [offer(row["messages"], golden[name]["tools"]) for row in recorded]

    assert len(recorded) == 5
    assert [chat.encode(turns).input_ids for turns in conversations] == [row["ids"] for row in recorded]
    assert [chat.encode_prompt(turns[:-1]) for turns in conversations] == [row["prompt_ids"] for row in recorded]


@pytest.mark.parametrize("name", ["qwen3", "qwen3.5"])
def test_kept_thoughts_have_the_ids_of_the_reference_template_with_thinking_on(golden, name):
    chat = ChatFormat(read_family(golden[name]["template"]), RecordedEncoder(golden[name]), think="keep")
    recorded = golden[name]["thinking_conversations"]
    conversations = [offer(row["messages"], golden[name]["tools"]) for row in recorded]

    assert len(recorded) == 2
    assert [chat.encode(turns).input_ids for turns in conversations] == [row["ids"] for row in recorded]
    assert [chat.encode_prompt(turns[:-1]) for turns in conversations] == [row["prompt_ids"] for row in recorded]
