"""Row -> conversation, and which system prompt holds."""

import pytest

from prompts import EXPERT_SYSTEM_PROMPT, PromptError, conversation_of

ROW = {
    "id": "x-1",
    "source": "x",
    "task": "instruct",
    "instruction": "What is LoRA?",
    "input": "",
    "output": "An adapter.",
}
USER = {"role": "user", "content": "What is LoRA?"}
ANSWER = {"role": "assistant", "content": "An adapter."}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


def test_a_row_becomes_system_user_and_assistant():
    assert conversation_of(ROW, "Be brief.") == [system("Be brief."), USER, ANSWER]
    assert conversation_of(ROW, "Be brief.", with_answer=False) == [system("Be brief."), USER]


def test_without_a_system_prompt_the_template_decides():
    assert conversation_of(ROW, None) == [USER, ANSWER]


def test_an_empty_system_prompt_is_one():
    assert conversation_of(ROW, "") == [system(""), USER, ANSWER]


def test_supplementary_information_follows_the_instruction():
    row = {**ROW, "input": "LoRA: 2106.09685"}
    content = "What is LoRA?\n\n补充信息：\nLoRA: 2106.09685"

    assert conversation_of(row, None, with_answer=False) == [
        {"role": "user", "content": content, "document": (len(content) - len("LoRA: 2106.09685"), len(content))}
    ]
    assert conversation_of({**ROW, "input": " \n"}, None) == [USER, ANSWER]


def test_the_rows_own_system_prompt_wins():
    chat = {"task": "chat", "messages": [system("Mine."), USER, ANSWER]}

    assert conversation_of({**ROW, "system": "Mine."}, "Be brief.") == [system("Mine."), USER, ANSWER]
    assert conversation_of({**ROW, "system": ""}, "Be brief.") == [system("Be brief."), USER, ANSWER]
    assert conversation_of(chat, "Be brief.") == [system("Mine."), USER, ANSWER]
    assert conversation_of(chat, None, with_answer=False) == [system("Mine."), USER]


def test_reasoning_stays_with_its_answer():
    thought = {**ANSWER, "reasoning_content": "Hm."}

    assert conversation_of({**ROW, "reasoning_content": "Hm."}, None) == [USER, thought]
    assert conversation_of({"task": "chat", "messages": [USER, thought, USER, ANSWER]}, None) == [
        USER,
        thought,
        USER,
        ANSWER,
    ]
    assert conversation_of({"task": "chat", "messages": [USER, thought]}, None) == [USER, thought]


def test_a_row_without_a_task_is_refused():
    with pytest.raises(PromptError) as caught:
        conversation_of({"id": "x-1"}, None)
    assert str(caught.value).startswith("there is no task ''; tasks are chat, ")


def test_the_expert_prompt_is_the_same_for_everyone():
    assert EXPERT_SYSTEM_PROMPT.startswith("你是一位跨领域专家")
    assert "\n" not in EXPERT_SYSTEM_PROMPT
