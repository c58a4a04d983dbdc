"""Warnings that are said when they arise and once more at the end, for long work scrolls them away.

warn("own: 18 rows asked, 12 found")      # stderr: warning: own: 18 rows asked, 12 found
repeat_warnings()                         # and again, as the last thing before the result
"""

from sft.console.narration import say

_warned: dict[str, None] = {}  # of this process, in order, each once


def warn(text: str) -> None:
    """Say a warning now, and keep it for the end."""
    say(f"warning: {text}")
    _warned[text] = None


def repeat_warnings() -> None:
    """Say every warning of this process again, each once, and forget them; nothing where there was none."""
    if _warned:
        say(f"{len(_warned)} warning{'s' if len(_warned) > 1 else ''}, repeated here:")
    for text in _warned:
        say(f"  {text}")
    _warned.clear()
