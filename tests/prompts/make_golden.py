"""Records what a reference tokenizer's own chat template makes of some conversations, as token ids.

The tokenizer itself is not committed; its ids for these texts are facts that the tests hold prompts/ to. Reads a
tokenizer folder (as the hub has it) and, where another template shall be used on it, a Jinja file.
    python tests/prompts/make_golden.py REFERENCE/Qwen3-0.6B tests/prompts/golden/qwen3.json
    python tests/prompts/make_golden.py REFERENCE/Qwen3-0.6B tests/prompts/golden/qwen2.5.json --template qwen2_5.jinja
"""

import argparse
import json
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


def conversations() -> list[list[dict[str, str]]]:
    """Every single turn with and without a system message, and all of them as one conversation of many turns."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in SINGLE_TURNS]
    together = [message for turn in turns[:5] for message in turn]
    return [*turns, *([SYSTEM, *turn] for turn in turns[:3]), together, [SYSTEM, *together]]


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
            texts |= {message["content"], f"{message['role']}\n{message['content']}"}
    first = tokenizer.apply_chat_template(conversations()[0], tokenize=False)
    if first.startswith("<|im_start|>system\n"):  # the template's own system prompt
        texts.add(first.removeprefix("<|im_start|>").partition("<|im_end|>")[0])
    added = tokenizer.added_tokens_decoder.items()
    golden = {
        "template": tokenizer.chat_template,
        "control_tokens": [{"id": index, "content": token.content, "special": token.special} for index, token in added],
        "texts": {text: tokenizer.encode(text, add_special_tokens=False) for text in sorted(texts)},
        "conversations": recorded,
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in golden.items()]
    arguments.output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
