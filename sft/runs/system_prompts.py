"""The system prompt of a run: that of its rows if they all have the same one.

    prompts = survey_system_prompts(dataset.train, settings.system_prompt)
    prompts.chosen, prompts.describe()

A row's own system prompt wins over --system_prompt for that row, in training and evaluation. Whoever talks to the run
brings none, so the run's own must be the one it was trained under, or say that there were several.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prompts.tasks import Row, get_task, own_system_prompt, text_of
from sft.console import say
from sft.runs.run import Run

MAX_SHOWN = 60  # characters of a system prompt that a line shows


@dataclass(frozen=True)
class SystemPrompts:
    """num_own of num_rows rows have their own system prompt; num_distinct different ones occur.

    chosen: the one that all rows have, else --system_prompt (None: the chat template's own).
    """

    chosen: str | None
    asked_for: str | None
    num_rows: int
    num_own: int
    num_distinct: int

    def describe(self) -> str:
        """One line where rows have system prompts of their own; "" if none has."""
        if not self.num_own:
            return ""
        if self.num_distinct == 1:
            unused = "" if self.chosen == self.asked_for else " (--system_prompt would hold for rows without one)"
            return f"system prompt: all {self.num_rows:,} rows have {_show(self.chosen)}, and so has the run{unused}"
        return (
            f"system prompts: {self.num_own:,} of {self.num_rows:,} rows have one of their own and keep it, "
            f"{self.num_distinct:,} different ones in all; chat.py, inference.py and serve.py will ask under "
            f"{_show(self.chosen)} (--system_prompt)"
        )

    def to_json(self) -> dict[str, int]:
        """The entry of run.json: {"rows": 40, "own": 38, "distinct": 12}."""
        return {"rows": self.num_rows, "own": self.num_own, "distinct": self.num_distinct}


def survey_system_prompts(rows: Iterable[Row], asked_for: str | None) -> SystemPrompts:
    """Survey the rows; asked_for: --system_prompt, which applies to rows without their own.

    A task with a system prompt uses it in every script, so its rows count only if there are no others.
    """
    asked = [(row, get_task(text_of(row, "task"))) for row in rows]
    brought = [(own_system_prompt(row), task.system_prompt) for row, task in asked if task.kind != "document"]
    own = [prompt for prompt, told in brought if prompt is not None or told is None] or [told for _, told in brought]
    used = {asked_for if prompt is None else prompt for prompt in own}
    chosen = next(iter(used)) if len(used) == 1 else asked_for
    return SystemPrompts(chosen, asked_for, len(own), sum(prompt is not None for prompt in own), len(used))


def tell_differing(run: Run | None, how: str) -> None:
    """Say what describe_differing has to say."""
    if run is not None and (line := describe_differing(run, how)):
        say(line)


def describe_differing(run: Run, how: str) -> str:
    """One line where a run's rows stood after several system prompts, or, as documents, after none; else "".

    how: what sets another one, e.g. "/system TEXT sets another".
    """
    if run.learned_documents:
        return (
            "the run was trained on whole documents, without prompts: inference.py continues a text, chat.py and "
            "serve.py chat as the base model does"
        )
    found = run.data.get("system_prompts")
    if not isinstance(found, dict) or found["distinct"] < 2:
        return ""
    return (
        f"trained under {found['distinct']:,} different system prompts ({found['own']:,} of {found['rows']:,} rows "
        f"had their own); using {_show(run.system_prompt)} here, and {how}"
    )


def _show(prompt: str | None) -> str:
    if prompt is None:
        return "the chat template's own"
    words = " ".join(prompt.split())
    return repr(words if len(words) <= MAX_SHOWN else f"{words[:MAX_SHOWN]}…")
