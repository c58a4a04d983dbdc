"""Errors that are the user's to mend: one line that says what, where and what to do next.

A script that meets one prints `error: <line>` and exits with 2; any other exception is a bug of ours.
"""


class UserError(Exception):
    """Something the user can mend. The text is one line: what is wrong, where, what to do next."""


class ConfigError(UserError):
    """A setting that is unknown, ill-typed or contradicts another: `--learning_rte: unknown; did you mean --learning_rate?`"""


class DataError(UserError):
    """A row, file or source that cannot be used: `reports.jsonl:17: no 'output'; fix the row`"""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit the run."""


class RunError(UserError):
    """A run folder that is missing, unfinished or does not match what it is used with."""
