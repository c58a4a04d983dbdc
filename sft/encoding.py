"""Rows -> token ids and loss masks, with what became of each row. Training, evaluation and inspection come here.

encoded = encode_rows(rows, chat, system_prompt, Rules(max_length=2048))
encoded.report()          # "kept 9,412 of 9,500 rows (61 shortened, 88 dropped: ...)"
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from prompts import ChatFormat, Encoded, Head, Message, PromptError, Rules, TooLong, conversation_of
from prompts.tasks import get_task
from sft.data.rows.canonical import Row
from sft.errors import DataError

MAX_NAMED = 3  # dropped rows that the report names


@dataclass
class EncodedRows:
    """Rows as the model sees them. `rows[i]` is where `encoded[i]` came from; one row may give several examples.

    Every row read is either kept, with all its examples, or dropped for a reason; a kept one may be shortened.
    head: the classification head that learns them; None if the model learns to write the answers.
    """

    head: Head | None = None
    rows: list[Row] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    num_read: int = 0
    shortened: dict[str, int] = field(default_factory=dict)  # id -> tokens cut
    windows: dict[str, int] = field(default_factory=dict)  # id of a document that is too long -> its examples
    dropped: dict[str, str] = field(default_factory=dict)  # id -> reason

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples together."""
        return sum(len(example.input_ids) for example in self.encoded)

    @property
    def num_supervised(self) -> int:
        """Tokens that carry loss."""
        return sum(example.num_supervised for example in self.encoded)

    def count_labels(self) -> dict[str, int]:
        """Rows of each class of the head, in its order: {"负面": 512, "正面": 488}; {} if there is none."""
        counts = Counter(example.label for example in self.encoded)
        return {label: counts[number] for number, label in enumerate(self.head.labels)} if self.head else {}

    def counts(self) -> dict[str, object]:
        """The entry of run.json: {"read": 9500, "kept": 9412, "shortened": 61, "dropped": 88, ...}."""
        counts: dict[str, object] = {
            "read": self.num_read,
            "kept": self.num_read - len(self.dropped),
            "examples": len(self.encoded),
            "shortened": len(self.shortened),
            "tokens_cut": sum(self.shortened.values()),
            "dropped": len(self.dropped),
            "tokens": self.num_tokens,
            "supervised_tokens": self.num_supervised,
        }
        counts |= {"split_documents": len(self.windows)} if self.windows else {}
        return counts | ({"labels": self.count_labels()} if self.head else {})

    def report(self) -> str:
        """One line: how many rows were kept, and why others were not."""
        line = f"kept {self.num_read - len(self.dropped):,} of {self.num_read:,} rows, {self.num_tokens:,} tokens, "
        labels = ", ".join(f"{label} {count:,}" for label, count in self.count_labels().items())
        line += f"labels {labels}" if self.head else f"{self.num_supervised:,} of them supervised"
        if self.shortened:
            line += f"; {len(self.shortened):,} shortened by {sum(self.shortened.values()):,} tokens"
        if self.windows:
            line += (
                f"; {len(self.windows):,} long documents split into {sum(self.windows.values()):,} windows, none lost"
            )
        if self.dropped:
            named = ", ".join(f"{name} ({reason})" for name, reason in list(self.dropped.items())[:MAX_NAMED])
            line += f"; {len(self.dropped):,} dropped: {named}{', ...' if len(self.dropped) > MAX_NAMED else ''}"
        return line


def encode_rows(
    rows: Sequence[Row], chat: ChatFormat, system_prompt: str | None, rules: Rules, head: Head | None = None
) -> EncodedRows:
    """Every row as ids and mask; a row that cannot fit is dropped and counted, none without a supervised token passes.

    Raises DataError for a row that cannot be rendered at all, and for one that is too long with on_too_long "error".
    """
    result = EncodedRows(head, num_read=len(rows))
    for row, examples in encode_each(rows, chat, system_prompt, rules, head):
        name = str(row["id"])
        if isinstance(examples, TooLong):
            result.dropped[name] = str(examples)
        elif isinstance(examples, PromptError):
            named = f"row {name}: "  # a task's own complaint names the row already
            raise DataError(named + str(examples).removeprefix(named))
        elif head is None and not all(example.num_supervised for example in examples):
            result.dropped[name] = "no supervised token"
        else:
            result.rows += [row] * len(examples)
            result.encoded += examples
            if get_task(row["task"]).kind == "document" and len(examples) > 1:
                result.windows[name] = len(examples)
            if num_cut := sum(example.num_cut for example in examples):
                result.shortened[name] = num_cut
    return result


def encode_each(
    rows: Sequence[Row], chat: ChatFormat, system_prompt: str | None, rules: Rules, head: Head | None = None
) -> Iterator[tuple[Row, list[Encoded] | PromptError]]:
    """Each row with its examples, or with why it has none, in their order.

    A conversation gives several examples if one cannot hold all of its answers (ChatFormat.encode_batch).
    With a classification head a row is its prompt, up to where the answer would begin, and the number of its class.
    """
    rules = rules if head is None else rules._replace(supervise="none")
    conversations = [_conversation_of(row, system_prompt, rules) for row in rows]
    encoded = chat.encode_batch((found for found in conversations if not isinstance(found, PromptError)), rules)
    for row, found in zip(rows, conversations, strict=True):
        examples = found if isinstance(found, PromptError) else next(encoded)
        if head is not None and not isinstance(examples, PromptError):
            examples = _with_class(examples, row, head)
        yield row, examples


def _conversation_of(row: Row, system_prompt: str | None, rules: Rules) -> list[Message] | PromptError:
    try:
        return conversation_of(row, system_prompt, with_answer=rules.supervise != "none")
    except PromptError as error:
        return error


def _with_class(examples: list[Encoded], row: Row, head: Head) -> list[Encoded] | PromptError:
    try:
        label = head.class_of_row(get_task(row["task"]), row)
    except PromptError as error:
        return error
    return [replace(example, label=label) for example in examples]
