"""Prompt ids -> text: many prompts at once, or one that is read while it is written.

answers = generate_batch(loaded, prompts, DECODING["precise"])        # list of Generated, in the order of prompts
with stream(loaded, prompt_ids, DECODING["chat"]) as pieces:
    for piece in pieces: ...
"""

from sft.generation.batch import Generated, generate_batch
from sft.generation.streaming import TextStream, stream

__all__ = ["Generated", "TextStream", "generate_batch", "stream"]
