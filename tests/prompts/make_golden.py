"""Records what a reference tokenizer's own chat template makes of some conversations, as token ids.

The tokenizer itself is not committed; its ids for these texts are facts that the tests hold prompts/ to. The templates
are Qwen's and SmolLM2's, Apache-2.0. Reads a tokenizer folder (as the hub has it) and, where another template shall be
used on it, a Jinja file.
    python tests/prompts/make_golden.py REFERENCE/Qwen3-0.6B tests/prompts/golden/qwen3.json
    python tests/prompts/make_golden.py REFERENCE/Qwen3-0.6B tests/prompts/golden/qwen2.5.json --template qwen2_5.jinja
    python tests/prompts/make_golden.py REFERENCE/Qwen3-0.6B tests/prompts/golden/qwen3.5.json --template qwen3_5.jinja
"""

import argparse
import json
import re
from pathlib import Path

from transformers import AutoTokenizer

SYSTEM = {"role": "system", "content": "你是一位跨领域专家。Answer in the language of the question."}
SINGLE_TURNS = [
    ("hi", "Hello! How can I help you today?"),
    ("判断评论的情感，只回答正面或负面：\n房间很干净，服务态度也好。", "正面"),
    (
        "找出人名、地点：\n张华在北京大学工作。",
        '{"entity_text": "张华", "entity_label": "PER"}\n{"entity_text": "北京大学"}',
    ),
    ("文本:国家队三比一取胜。,类型选型:Sports、Economy", "Sports"),
    ("Write f(x) in Python.\n\n```python\n", "```python\ndef f(x: float) -> float:\n\treturn x ** 2  # 平方\n```"),
    ("  spaces,  tabs\t\tand\r\nnewlines \n\n\n", "Ends with newlines.\n\n"),
    ("🙂👩‍👩‍👧 é ﬁ ½ Ａ １２３ \u200b𝔘", "Łódź, naïve, Ελλάδα, Привет, שלום, नमस्ते, ไทย, 日本語, 한국어"),
    ("2024-11-22 10:30, 1,234.50 € (-3.7 %)", "1" * 30),
    ("?", ""),
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 (today's & tomorrow's)",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "城市"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "What time is it?", "parameters": {}}}
ORDER = {"items": [{"name": "米饭", "count": 2}], "at": {"hour": 18.5}, "note": "no <b>\n\nsecond line", "gift": None}


def call(content, *calls, **more):
    """An assistant's turn that calls functions: call("", ("clock", {}))."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"name": name, "arguments": arguments} for name, arguments in calls],
        **more,
    }


def said(role, content, **more):
    """A turn of plain text."""
    return {"role": role, "content": content, **more}


BEIJING = [said("user", "北京明天天气怎么样？"), call("", ("get_weather", {"city": "北京", "days": 2}))]
ANSWERED = [*BEIJING, said("tool", '{"temp": 25, "sky": "晴"}'), said("assistant", "明天晴，25 °C。")]
TOOL_CONVERSATIONS = [
    BEIJING,
    ANSWERED,
    [SYSTEM, *ANSWERED, said("user", "Thanks!"), said("assistant", "You are welcome.")],
    [said("user", "1+1?"), said("assistant", "2")],
    [
        SYSTEM,
        said("user", "Both, please."),
        call("Let me see.", ("get_weather", {"city": "Paris", "exact": True}), ("clock", {}), ("order", ORDER)),
        said("tool", "12 °C"),
        said("tool", "10:30"),
        said("tool", ""),
        said("assistant", "It is 10:30 and 12 °C."),
        said("user", "And in Rome?"),
        call("", ("get_weather", {"city": "Rome", "exact": False})),
        said("tool", "18 °C"),
        call("One more.", ("clock", {"zone": "Europe/Rome"})),
        said("tool", "11:30"),
        said("assistant", "18 °C."),
    ],
]
THINKING_CONVERSATIONS = [
    [SYSTEM, said("user", "6 x 7?"), said("assistant", "42", reasoning_content="6 x 7 = 42.\nSure.")],
    [
        *BEIJING[:1],
        {**BEIJING[1], "reasoning_content": "需要查天气。"},
        ANSWERED[2],
        {**ANSWERED[3], "reasoning_content": "查到了。"},
    ],
]


def conversations() -> list[list[dict[str, str]]]:
    """Every single turn with and without a system message, and all of them as one conversation of many turns."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in SINGLE_TURNS]
    together = [message for turn in turns[:5] for message in turn]
    return [*turns, *([SYSTEM, *turn] for turn in turns[:3]), together, [SYSTEM, *together]]


def record(tokenizer, messages: list[dict], texts: set[str], *, enable_thinking: bool = False) -> dict:
    """A conversation with tools as the template gives it; the texts between its control tokens are added to texts."""
    told = [dict(message) for message in messages]
    for message in told:
        if "tool_calls" in message:
            message["tool_calls"] = [{"type": "function", "function": made} for made in message["tool_calls"]]
    common = {"tools": [WEATHER, CLOCK], "enable_thinking": enable_thinking}
    prompt = {"add_generation_prompt": True}
    for turns, more in ((told, {}), (told[:-1], prompt)):
        text = tokenizer.apply_chat_template(turns, tokenize=False, **common, **more)
        names = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        for part in filter(None, re.split("|".join(map(re.escape, names)), text)):
            header, begins, answer = part.partition("assistant\n")
            texts |= {answer} if begins and not header and answer else {part}
            # What a prompt ends with, the model's own words follow as a text of their own.
            texts |= {part.removeprefix(end) for end in ("\n", "\n\n") if part.startswith(end) and part != end}
    return {
        "messages": messages,
        "ids": tokenizer.apply_chat_template(told, return_dict=False, **common),
        "prompt_ids": tokenizer.apply_chat_template(told[:-1], return_dict=False, **common, **prompt),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", help="folder with tokenizer.json and tokenizer_config.json")
    parser.add_argument("output", type=Path)
    parser.add_argument("--template", type=Path, help="Jinja file to use instead of the tokenizer's own template")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    if arguments.template:
        tokenizer.chat_template = arguments.template.read_text(encoding="utf-8")

    texts = {"\n", "\n\n", "assistant\n"}
    recorded = []
    for messages in conversations():
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt_ids = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        recorded.append({"messages": messages, "ids": ids, "prompt_ids": prompt_ids})
        for message in messages:  # the texts a conversation may be put together from, each encoded alone
            for content in (message["content"], message["content"].strip()):
                texts |= {content, f"{message['role']}\n{content}"}
    more: set[str] = set()
    with_tools = [record(tokenizer, messages, more) for messages in TOOL_CONVERSATIONS]
    with_thoughts = []
    if "</think>" in tokenizer.chat_template:
        with_thoughts = [record(tokenizer, messages, more, enable_thinking=True) for messages in THINKING_CONVERSATIONS]
    first = tokenizer.apply_chat_template(conversations()[0], tokenize=False)
    if first.startswith("<|im_start|>system\n"):  # the template's own system prompt
        texts.add(first.removeprefix("<|im_start|>").partition("<|im_end|>")[0])
    added = tokenizer.added_tokens_decoder.items()
    golden = {
        "template": tokenizer.chat_template,
        "control_tokens": [{"id": index, "content": token.content, "special": token.special} for index, token in added],
        "texts": {text: tokenizer.encode(text, add_special_tokens=False) for text in sorted(texts)},
        "conversations": recorded,
        "tool_texts": {text: tokenizer.encode(text, add_special_tokens=False) for text in sorted(more)},
        "tools": [WEATHER, CLOCK],
        "tool_conversations": with_tools,
        "thinking_conversations": with_thoughts,
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in golden.items()]
    arguments.output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
