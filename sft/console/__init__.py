"""What every script says and how it ends: results on stdout, narration on stderr, nothing unsafe on either.

from sft.console import progress, run_command, say, table

def main(argv: list[str] | None = None) -> None:
    for row in progress(rows, description="score", unit="row"):
        ...
    print(table([["accuracy", 0.52, 0.91]], header=["metric", "base", "tuned"]))

if __name__ == "__main__":
    run_command(main)
"""

from sft.console.commands import run_command
from sft.console.narration import Progress, progress, repeat_warnings, say, say_once, tell, warn
from sft.console.terminal import AnswerWriter, TerminalFilter, make_visible, table, to_json
from sft.console.typed import LineReader, has_cursor, on_interrupt, quiet_keyboard, read_standard_input

__all__ = [
    "AnswerWriter",
    "LineReader",
    "Progress",
    "TerminalFilter",
    "has_cursor",
    "make_visible",
    "on_interrupt",
    "progress",
    "quiet_keyboard",
    "read_standard_input",
    "repeat_warnings",
    "run_command",
    "say",
    "say_once",
    "table",
    "tell",
    "to_json",
    "warn",
]
