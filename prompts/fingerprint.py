"""What a run was trained with, in words that can be compared: base, tokenizer, template, prompts, tasks.

The fingerprint is saved beside the weights; evaluate, inference, chat, export and resume make one of what they have
loaded and refuse it where the two differ.

    trained.differences(Fingerprint.of(chat, system_prompt, ["ner"], {"weights": "sha256 1f3a..."})) -> []
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prompts.chatml import ChatFormat
from prompts.errors import PromptError
from prompts.head import Head
from prompts.messages import Message
from prompts.tasks import get_task

PROBE: list[Message] = [
    {"role": "system", "content": "You answer briefly. 请简短回答。"},
    {
        "role": "user",
        "content": "Hello, wörld! 1,234.5 + 6 = ?\n\n\tdef f(x):\n        return x  # 注释 <|im_end|><think>",
    },
    {"role": "assistant", "content": "你好，世界！🙂 cafe\u0301 \r\n", "reasoning_content": "Hm."},
    {"role": "user", "content": "房间很干净，服务态度也不错，下次还会来。"},
    {"role": "assistant", "content": "正面"},
]
SHORT = 16  # hexadecimal digits of a hash that people compare by eye


@dataclass(frozen=True)
class Fingerprint:
    """Named facts and one SHA-256 over all of them: parts {"system prompt": "...", "tokenizer": "sha256 ...", ...}."""

    parts: dict[str, str]

    @classmethod
    def of(
        cls,
        chat_format: ChatFormat,
        system_prompt: str | None,
        tasks: Iterable[str],
        base: Mapping[str, str],
        head: Head | None = None,
    ) -> Fingerprint:
        """The fingerprint of a loaded tokenizer, template and base; head: for a model that classifies instead of
        writing.

        base identifies the weights: {"weights": "sha256 1f3a...", "revision": "main"}.
        """
        parts = {f"base {name}": value for name, value in sorted(base.items())}
        parts["tokenizer"] = chat_format.encoder.describe()
        parts["chat template"] = _hash(chat_format.template)
        parts["think policy"] = chat_format.think if chat_format.family.has_think_block else "none"
        parts["system prompt"] = "the chat template's own" if system_prompt is None else repr(system_prompt)
        for name in sorted(set(tasks)):
            parts[f"task {name}"] = _describe_task(name)
        if head is not None:
            parts["head"] = head.describe()
        probe = [chat_format.encode(PROBE).input_ids, chat_format.encode(PROBE[1:]).input_ids]
        parts["probe conversation"] = _hash(json.dumps([*probe, chat_format.encode_prompt(PROBE[:-1])]))
        return cls(parts)

    @property
    def digest(self) -> str:
        """SHA-256 over all parts, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Fingerprint) -> list[str]:
        """One line for each part that differs, naming what this one (the run's) and the other (loaded now) have.

        ["system prompt: trained with 'Be kind.', now 'Be brief.'"]; [] if the two agree.
        """
        lines = []
        for name in {**self.parts, **other.parts}:
            trained, now = self.parts.get(name, "nothing of the kind"), other.parts.get(name, "nothing of the kind")
            if trained != now:
                lines.append(f"{name}: trained with {trained}, now {now}")
        return lines

    def to_json(self) -> dict[str, object]:
        """The entry of run.json: {"digest": "9c1f...", "parts": {...}}."""
        return {"digest": self.digest, "parts": dict(self.parts)}

    @classmethod
    def from_json(cls, saved: Mapping[str, object]) -> Fingerprint:
        """The fingerprint of a run.json. Raises PromptError if it is damaged or was edited."""
        parts = saved.get("parts")
        if not isinstance(parts, dict) or not all(isinstance(value, str) for value in parts.values()):
            raise PromptError("the saved fingerprint has no parts; train the run again or restore its run.json")
        fingerprint = cls(dict(parts))
        if fingerprint.digest != saved.get("digest"):
            raise PromptError("the saved fingerprint does not match its own digest; it was edited, restore run.json")
        return fingerprint


def _describe_task(name: str) -> str:
    """'labels 负面|正面, prompt sha256 0a1b...': prompt and answers that a model trained on the task expects."""
    task = get_task(name)
    labels = task.classes_of(task.allowed_labels(task.example), task.example)
    told = [{"role": "system", "content": task.system_prompt}] if task.system_prompt else []
    turns = [{**turn} for turn in task.build_messages(task.example)]
    for turn in turns:
        turn.pop("answers", None)  # the labels have them already
    asked = _hash(json.dumps([*told, *turns], ensure_ascii=False))
    return f"labels {'|'.join(labels)}, prompt {asked}" if labels else f"prompt {asked}"


def _hash(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:SHORT]}"
