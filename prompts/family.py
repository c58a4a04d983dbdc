"""What one ChatML family does differently from another: data, no code.

A family is recognised by what its chat template writes; see prompts.template.
"""

from dataclasses import dataclass, field
from typing import Literal

from prompts.tools import ToolForm

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"
TEXT_END = "<|endoftext|>"  # what base models learned to end with; also the padding

ThinkPolicy = Literal["auto", "off", "keep"]
"""What becomes of Qwen3's `<think>…</think>` block; for families that have none, auto and off do nothing.

auto  To the letter what the family's template does when told not to think. Qwen3's writes an empty block before the
      answer about to be given, and none before those of the past (Qwen3.5's: before all that follow the last
      question). Training: ids = apply_chat_template, for any number of turns. Inference: ids =
      apply_chat_template(add_generation_prompt=True, enable_thinking=False). So an answer of an earlier turn stands
      behind another context (no block) than it was asked with (block): only the last answer of an example is
      supervised; ChatFormat makes an example of each answer of a row.
off   Never thinks: every answer, past or present, in training and in inference, stands behind an empty block. Equal
      to auto for a single turn; all answers of a row can be supervised. Software that serves the model with the
      family's own template leaves the past blocks out.
keep  Thinks: the model writes the block itself, so the prompt ends with the bare header (or with the opening <think>
      that Qwen3.5's template writes), and block and answer are both supervised. Each answer carries its
      `reasoning_content`, or an empty block, and history keeps it.

`reasoning_content` is left out under auto and off. Nobody's text ever becomes a think token.
"""
THINK_POLICIES: tuple[ThinkPolicy, ...] = ("auto", "off", "keep")


ThinkBlock = Literal["none", "last", "recent", "every"]
"""Before which answers a template writes a block: the last, those since the last question (Qwen3.5), or every one."""


@dataclass(frozen=True)
class Family:
    """How a template deviates from plain ChatML: Family(None, think_block="last") for Qwen3."""

    default_system: str | None  # the template's own system message; None: it has none
    think_block: ThinkBlock = "none"
    opens_block: bool = False  # of a model that may think, the template itself writes the opening <think>
    writes_thoughts: bool = True  # a conversation with thoughts is written as think="keep" has it
    ends_with_newline: bool = True  # also after the last end token
    trims: bool = False  # blanks around what anybody says are left out (Qwen3.5)
    tool_form: ToolForm | None = "hermes"  # how tools are described and called; None: in a way that is not supported
    tool_problem: str = ""  # why tool_form is None
    marks: frozenset[str] = field(
        default=frozenset(), compare=False
    )  # of the words that markup of tools holds, those that are tokens of the model

    @property
    def has_think_block(self) -> bool:
        """Whether the template knows the block at all."""
        return self.think_block != "none"

    def clean(self, text: str) -> str:
        """A turn of any role, as the template writes it."""
        return text.strip() if self.trims else text
