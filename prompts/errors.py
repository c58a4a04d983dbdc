"""What prompts/ raises: one line each, meant for the user (prompts/ imports nothing of sft/)."""


class PromptError(ValueError):
    """A tokenizer, conversation or row that cannot become a prompt: what is wrong, where, what to do next."""


class RowError(PromptError):
    """One unusable row. `reason` is the short word it is counted under; the text says what is wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooLong(PromptError):
    """A conversation that does not fit max_length, however it is shortened; the caller counts the row.

    TooLong(3120, 2048): "3,120 tokens do not fit 2,048 ..."
    """

    def __init__(self, num_tokens: int, max_length: int, reason: str):
        self.num_tokens = num_tokens
        self.max_length = max_length
        self.reason = reason
        super().__init__(f"{num_tokens:,} tokens do not fit {max_length:,}: {reason}")
