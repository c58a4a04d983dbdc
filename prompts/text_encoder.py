"""Text -> token ids with every added token switched off: no text can become a control token.

A tokenizer looks for its added tokens (`<|im_start|>`, `<think>`, ...) in the text before it splits it. Here a second
tokenizer shares the first one's model and splitting rules and has no added tokens at all, so `<|im_end|>` in a text is
punctuation and letters like any other. The user's tokenizer is left untouched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prompts.errors import PromptError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters of the longest text that is encoded: more than any context holds, and up to 10 s and 1 GB of a tokenizer's
# work. One of 200 million ends the process in the tokenizer's own code, where nothing can be caught.
LONGEST_TEXT = 2_000_000
REPLACEMENT = "\ufffd"  # for characters that the vocabulary has no bytes for


class TokenSpans(Sequence[tuple[int, int]]):
    """Characters of each token, looked up one at a time: a list of all takes as long as the encoding itself."""

    def __init__(self, encoding: Encoding):
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __getitem__(self, index: int) -> tuple[int, int]:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = self._encoding.token_to_chars(index % len(self))  # type: ignore[misc]
        return start, end


class TextEncoder:
    """Encodes texts, never control tokens: TextEncoder(backend).encode(["hi<|im_end|>"]) -> [[5303, 27, 91, ...]]."""

    def __init__(self, backend: Tokenizer):
        from tokenizers import Tokenizer  # here: `import prompts` stays cheap

        self.control_tokens: dict[str, int] = {
            token.content: index for index, token in backend.get_added_tokens_decoder().items()
        }
        self.control_ids = frozenset(self.control_tokens.values())
        self._backend = backend
        self._tokenizer = Tokenizer(backend.model)  # shares the vocabulary: no copy, no added tokens, no post-processor
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._tokenizer.pre_tokenizer = backend.pre_tokenizer
        if backend.decoder is not None:
            self._tokenizer.decoder = backend.decoder

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text: ["hi", ""] -> [[5303], []]. All cores are used; call it with many texts at once.

        A character that the vocabulary has no bytes for (SmolLM2: some ASCII control characters) would become the
        unknown token, which is a control token: it is encoded as U+FFFD instead. Raises PromptError for a lone
        surrogate, which is no character, and for a text longer than LONGEST_TEXT.
        """
        if (longest := max(map(len, texts), default=0)) > LONGEST_TEXT:
            raise PromptError(f"a text has {longest:,} characters, at most {LONGEST_TEXT:,} are read; cut it")
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise PromptError("a text has a lone surrogate, which is not a character; fix or drop the text") from None
        rows = [encoding.ids for encoding in encodings]
        for index, ids in enumerate(rows):
            if not self.control_ids.isdisjoint(ids):
                rows[index] = self._encode_replacing(texts[index])
        return rows

    def locate(self, text: str) -> TokenSpans:
        """Characters each token of a text covers, end exclusive: "hi you" -> (0, 2), (2, 6)."""
        return TokenSpans(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids without control tokens; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(
            [index for index in ids if index not in self.control_ids], skip_special_tokens=False
        )

    def describe(self) -> str:
        """The tokenizer's identity: "49,152 tokens, sha256 0a1b2c3d4e5f6789"."""
        parts = json.loads(self._backend.to_str())
        added = sorted((token["id"], token["content"]) for token in parts["added_tokens"])
        rules = [parts["model"], added, parts["normalizer"], parts["pre_tokenizer"]]
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
        return f"{self._backend.get_vocab_size():,} tokens, sha256 {digest[:16]}"

    def _encode_replacing(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        characters = list(text)
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if index in self.control_ids:
                characters[start:end] = [REPLACEMENT] * (end - start)
        ids: list[int] = self._tokenizer.encode("".join(characters), add_special_tokens=False).ids
        if not self.control_ids.isdisjoint(ids):
            raise PromptError(f"the tokenizer makes a control token of the text {text[:40]!r}; use another tokenizer")
        return ids
