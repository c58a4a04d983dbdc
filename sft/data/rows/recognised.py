"""What was recognised in a file, in one line for the user, and what may only be said once all of it was read.

recognised.describe("a.csv")      # "a.csv: 9 rows, recognised as text/label; labels read (sentiment): 1 as 正面"
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from prompts.task import label_key
from sft.data.rows.mapping import MAY_BE_MISSING
from sft.errors import DataError

LABELS_KEPT = 30  # different labels of a file that are named in messages


@dataclass
class Recognised:
    """What was recognised in a file: how many rows of each form, how it was read, and what nothing reads."""

    dialects: Counter[str] = field(default_factory=Counter)  # {"text/label": 9600}
    ignored_columns: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # "question is read as instruction, answer as output"
    notes: Counter[str] = field(default_factory=Counter)  # {"turns whose 'name' is not read": 12}
    labels: dict[str, str] = field(default_factory=dict)  # of other spellings: {"1": "正面"}
    label_tasks: set[str] = field(default_factory=set)  # whose labels those are
    unknown_labels: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)  # every column in which something was in any row

    def add(self, other: "Recognised") -> None:
        """Take in what was recognised in another part of the file."""
        self.dialects += other.dialects
        self.ignored_columns |= other.ignored_columns
        self.told |= other.told
        self.notes += other.notes
        self.labels |= other.labels
        self.label_tasks |= other.label_tasks
        self.unknown_labels += other.unknown_labels
        self.fields |= other.fields

    def describe(self, shown_as: str) -> str:
        """One line: `a.csv: 9 rows, recognised as text/label; label 1 is read as 正面; ignored columns: qid`."""
        forms = ", ".join(
            name if len(self.dialects) == 1 else f"{name} ({count:,})" for name, count in self.dialects.most_common()
        )
        parts = [f"{shown_as}: {self.dialects.total():,} rows, recognised as {forms or 'nothing'}", *sorted(self.told)]
        if self.labels:
            spelled = ", ".join(f"{word} as {label}" for word, label in sorted(self.labels.items()))
            parts.append(f"labels read ({', '.join(sorted(self.label_tasks))}): {spelled}")
        parts += [f"{note}: {count:,}" for note, count in sorted(self.notes.items()) if count]
        if self.ignored_columns:
            parts.append(f"ignored columns: {', '.join(sorted(self.ignored_columns))}")
        return "; ".join(parts)


def check_columns(shown_as: str, columns: Mapping[str, str], recognised: Recognised) -> None:
    """Raise DataError if a column that rows may lack, of those the user named, is in none of them: a slip."""
    if not recognised.dialects:
        return
    for name in columns:
        if name in MAY_BE_MISSING and name not in recognised.fields:
            raise DataError(f"{shown_as}: no row has anything in the column {columns[name]!r} ({name}); name another")


def check_numbers(shown_as: str, recognised: Recognised) -> None:
    """Raise DataError if class numbers were read as a task's, and many others are none of it: 1 to 5 stars, say."""
    others = {label: count for label, count in recognised.unknown_labels.items() if label_key(label).isdigit()}
    read = [word for word in recognised.labels if word.isdigit()]
    if read and sum(others.values()) * 100 > recognised.dialects.total():
        numbers = ", ".join(sorted([*read, *others]))
        raise DataError(
            f"{shown_as}: the labels are {numbers}, more than {', '.join(sorted(recognised.label_tasks))} has; say "
            "what they mean with --labels and --label_map (in a preset: labels, label_map)"
        )
