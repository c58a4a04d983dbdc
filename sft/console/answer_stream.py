"""A model's answer as it is written: the answer on stdout, what the model thought before it on stderr, marked."""

import sys

from sft.console.terminal import TerminalFilter

THOUGHT_MARK, THOUGHT_END = "(thinking: ", ")\n"
DIM, UNDIM = "\x1b[2m", "\x1b[22m"


class AnswerWriter:
    """Writes the pieces of one answer, plain and safe to show.

    writer = AnswerWriter()
    writer.write("2 + 2 is 4", is_thought=True)      # stderr: (thinking: 2 + 2 is 4)
    writer.write("4")                                # stdout: 4
    writer.close()
    """

    def __init__(self) -> None:
        self._answer, self._thought = TerminalFilter(sys.stdout), TerminalFilter(sys.stderr)
        self._is_thinking = self._strips = False
        self._is_dim = sys.stderr.isatty()

    def write(self, piece: str, *, is_thought: bool = False) -> None:
        """Show one piece; the blank lines between thought and answer are left out."""
        if is_thought and not self._is_thinking:
            self._begin_thought()
            piece = piece.lstrip("\n")
        if not is_thought and self._is_thinking:
            self._end_thought()
        if is_thought:
            self._thought.write(piece)
            return
        if self._strips:
            piece = piece.lstrip("\n")
            self._strips = not piece
        if piece:
            self._answer.write(piece)

    def close(self) -> None:
        """End the line."""
        if self._is_thinking:
            self._end_thought()
        self._answer.write("\n")

    def _begin_thought(self) -> None:
        self._is_thinking = True
        if self._is_dim:
            sys.stderr.write(DIM)
        self._thought.write(THOUGHT_MARK)

    def _end_thought(self) -> None:
        self._is_thinking, self._strips = False, True
        self._thought.write(THOUGHT_END)
        if self._is_dim:
            sys.stderr.write(UNDIM)
            sys.stderr.flush()
