"""Rows of the shapes that other tools document and ship, written by hand: read as meant there, or refused by name."""

import json
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.data.rows.reading import make_reading
from sft.errors import DataError

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CALL = {"name": "clock", "arguments": {"zone": "UTC"}}
PLAIN = ["user Q", "assistant A"]


def read(tmp_path: Path, *rows: object, task: str | None = None, columns: dict[str, str] | None = None) -> list[dict]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_dataset(path, eval_ratio=0, reading=make_reading(task=task, columns=columns)).train  # type: ignore[return-value]


def turns_of(row: dict) -> list[str]:
    """Who says what: ["user Q", "assistant A"]; a question with what it is about as one turn."""
    if "messages" not in row:
        asked = "\n".join(filter(None, (row["instruction"], row["input"])))
        own = [f"system {row['system']}"] if "system" in row else []
        return [*own, f"user {asked}", f"assistant {row['output']}"]
    return [f"{turn['role']} {turn['content']}".strip() for turn in row["messages"]]


READ = {
    "llama-factory alpaca": ({"instruction": "Q", "input": "X", "output": "A", "system": "S", "history": [["h", "i"]]},
                             ["system S", "user h", "assistant i", "user Q\nX", "assistant A"]),
    "llama-factory v1": ({"messages": [
        {"role": "user", "content": [{"type": "text", "value": "Q"}], "loss_weight": 0.0},
        {"role": "assistant", "content": [{"type": "text", "value": "A"}], "loss_weight": 1.0}]}, PLAIN),
    "ms-swift sharegpt": ({"system": "S", "conversation": [{"human": "Q", "assistant": "A"}]},
                          ["system S", *PLAIN]),
    "ms-swift query": ({"query": "Q", "response": "A", "history": []}, PLAIN),
    "ms-swift loss": ({"messages": [Q, {**A, "loss": False}, Q, {**A, "loss": True}]}, [*PLAIN, *PLAIN]),
    "axolotl gpteacher": ({"instruction": "Q", "input": "X", "response": "A"}, ["user Q\nX", "assistant A"]),
    "axolotl jeopardy": ({"question": "Q", "category": "c", "answer": "A"}, PLAIN),
    "axolotl oasst": ({"INSTRUCTION": "Q", "RESPONSE": "A"}, PLAIN),
    "axolotl context": ({"context": "X", "question": "Q", "answer": "A"}, ["user Q\nX", "assistant A"]),
    "axolotl orca": ({"system_prompt": "S", "question": "Q", "response": "A"}, ["system S", *PLAIN]),
    "axolotl metharme": ({"prompt": "Q", "generation": "A"}, PLAIN),
    "trl conversational": ({"prompt": [Q], "completion": [A]}, PLAIN),
    "trl prompt completion": ({"prompt": "Q", "completion": "A"}, PLAIN),
    "unsloth": ({"question": "Q", "answer": "A"}, PLAIN),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_rows_of_other_tools_are_read_as_meant_there(tmp_path, name):
    record, turns = READ[name]

    assert turns_of(read(tmp_path, record)[0]) == turns


@pytest.mark.parametrize(
    "calling",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool_call", "content": json.dumps(CALL)},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "clock", "input": {"zone": "UTC"}}]},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
    ],
    ids=["OpenAI", "ms-swift", "Anthropic", "LLaMA-Factory"],
)
def test_a_call_is_the_same_in_every_spelling(tmp_path, calling):
    result = {"role": "tool", "content": "noon"}

    (row,) = read(tmp_path, {"messages": [Q, calling, result, A], "tools": [{"name": "clock", "parameters": {}}]})

    assert row["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"text": "A text."}, None),
        ({"messages": [{"role": "assistant", "content": "A text."}]}, None),
        ({"response": "A text."}, {"text": "response"}),
    ],
    ids=["text", "ms-swift messages", "ms-swift response"],
)
def test_plain_text_of_other_tools_is_learned_whole(tmp_path, record, columns):
    assert [row["text"] for row in read(tmp_path, record, task="text", columns=columns)] == ["A text."]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": [Q], "chosen": A, "rejected": A}, "chosen and rejected: this is preference data"),
        ({"messages": [Q, A], "rejected_response": "B"}, "rejected_response: this is preference data"),
        ({"prompt": [Q], "completion": [A], "label": False}, "its answer is marked as rejected"),
        ({"messages": [Q, A], "images": ["a.png"]}, "'images' is not empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "value": "a"}]}, A]}, "turn 1 has a part of"),
        ({"messages": [Q, {**A, "loss_scale": 2.0}]}, "turn 2: loss_scale is 2.0; only 0 and 1 are read"),
        ({"input_ids": [1], "attention_mask": [1], "labels": [1]}, "'input_ids': rows that are tokens already"),
        ({"prompt": "Q", "completions": ["A"], "labels": [True]}, "columns (completions, labels, prompt) fit no known"),
        ({"prompt": "Q"}, "columns (prompt) fit no known form"),
    ],
)
def test_what_is_no_answer_to_learn_is_refused_by_name(tmp_path, record, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, record)
    assert str(caught.value).partition(":1: ")[2].startswith(message)
