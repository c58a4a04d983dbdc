"""Rows -> token ids and loss masks, with what became of each row. Training and evaluation both come here.

encoded = encode_rows(rows, chat, system_prompt, max_length=2048)
encoded.report()          # "kept 9,412 of 9,500 rows (61 shortened, 88 dropped: ...)"
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prompts import ChatFormat, Encoded, Head, Message, PromptError, TooLong, conversation_of
from prompts.chatml import OnTooLong, Supervise
from prompts.shorten import ANSWER_ROOM
from prompts.tasks import get_task
from sft.data.rows.canonical import Row
from sft.errors import DataError

MAX_NAMED = 3  # dropped rows that the report names


@dataclass
class EncodedRows:
    """Rows as the model sees them. `rows[i]` is where `encoded[i]` came from; one row may give several examples.

    Every row read is either kept, with all its examples, or dropped for a reason; a kept one may be shortened.
    head: the classification head that learns them; None where the model learns to write the answers.
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
        """Rows of each class of the head, in its order: {"负面": 512, "正面": 488}; {} where there is none."""
        counts = Counter(example.label for example in self.encoded)
        return {label: counts[number] for number, label in enumerate(self.head.labels)} if self.head else {}

    def counts(self) -> dict[str, object]:
        """For run.json: {"read": 9500, "kept": 9412, "shortened": 61, "dropped": 88, "tokens": 4210337, ...}."""
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
        """One line: what was kept, and which rows were not."""
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
    rows: Sequence[Row],
    chat: ChatFormat,
    system_prompt: str | None,
    *,
    max_length: int,
    supervise: Supervise = "all",
    on_too_long: OnTooLong = "shorten",
    head_share: float = 0.5,
    answer_room: int = ANSWER_ROOM,
    head: Head | None = None,
) -> EncodedRows:
    """Every row as ids and mask; a row that cannot fit is dropped and counted, none without a supervised token passes.

    A conversation gives several examples where one cannot hold all of its answers (ChatFormat.encode_batch).
    With a classification head a row is its prompt, up to where the answer would begin, and the number of its class.
    Raises DataError for a row that cannot be rendered at all, and for one that is too long with on_too_long "error".
    """
    supervise = supervise if head is None else "none"
    result = EncodedRows(head, num_read=len(rows))
    batch = chat.encode_batch(
        [_conversation(row, system_prompt, supervise) for row in rows],
        supervise=supervise,
        max_length=max_length,
        on_too_long=on_too_long,
        head_share=head_share,
        answer_room=answer_room,
    )
    for row, examples in zip(rows, batch, strict=True):
        name = str(row["id"])
        if isinstance(examples, TooLong):
            result.dropped[name] = str(examples)
        elif isinstance(examples, PromptError):
            raise DataError(f"row {name}: {examples}")
        elif head is None and not all(example.num_supervised for example in examples):
            result.dropped[name] = "no supervised token"
        else:
            label = None if head is None else _class_of(row, head)
            result.rows += [row] * len(examples)
            result.encoded += [replace(example, label=label) for example in examples]
            if get_task(row["task"]).kind == "document" and len(examples) > 1:
                result.windows[name] = len(examples)
            if num_cut := sum(example.num_cut for example in examples):
                result.shortened[name] = num_cut
    return result


def _conversation(row: Row, system_prompt: str | None, supervise: Supervise) -> list[Message]:
    try:
        return conversation_of(row, system_prompt, with_answer=supervise != "none")
    except PromptError as error:
        named = f"row {row['id']}: "  # a task's own complaint names the row already
        raise DataError(named + str(error).removeprefix(named)) from None


def _class_of(row: Row, head: Head) -> int:
    try:
        return head.class_of_row(get_task(row["task"]), row)
    except PromptError as error:
        raise DataError(str(error)) from None
