"""predictions.jsonl: one line per row, with the prompt and each model's answer."""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from prompts import ChatFormat
from sft.evaluation.compare import Change
from sft.evaluation.leaks import Overlap
from sft.evaluation.model_answers import Measured
from sft.evaluation.rows import EvalRow, language_of_row


class OverlapFacts(TypedDict):
    """The training row that a row is like; similarity 1.0 if the texts are the same."""

    kind: Literal["exact", "near"]
    training_id: str
    similarity: float


class Prediction(TypedDict):
    """A line of predictions.jsonl. nll is in nats; label is the one scored highest, for label tasks.

    row_tokens: of the whole row, before anything was cut; the others of the texts, end token left out. changes: which
    figures of the row the tuned model made better or worse. turn: which answer of a conversation it is, from 1, where
    each has a line.
    """

    id: str
    own_id: NotRequired[str]  # the id that the row's file gave it, where id is another
    turn: NotRequired[int]
    source: str
    task: str
    language: str
    instruction: str
    input: str
    reference: str
    prediction: str
    base_prediction: NotRequired[str]
    finished: bool
    base_finished: NotRequired[bool]
    nll: float
    base_nll: NotRequired[float]
    row_tokens: int
    reference_tokens: int
    prediction_tokens: int
    label: NotRequired[str]
    base_label: NotRequired[str]
    history: NotRequired[list[dict[str, str]]]  # turns before the question that no line before it has
    changes: NotRequired[dict[str, Change]]
    overlap: NotRequired[OverlapFacts]


def predict_rows(
    rows: Sequence[EvalRow],
    chat: ChatFormat,
    tuned: Measured,
    base: Measured | None,
    changes: Sequence[dict[str, Change]],
    overlaps: dict[str, Overlap],
) -> list[Prediction]:
    """All lines, in the order of the rows."""
    lines = []
    for place, row in enumerate(rows):
        line = _predict(row, place, chat, tuned, base)
        if base is not None:
            line["changes"] = changes[place]
        if overlap := overlaps.get(row.row["id"]):
            line["overlap"] = {
                "kind": overlap.kind,
                "training_id": overlap.training_id,
                "similarity": overlap.similarity,
            }
        lines.append(line)
    return lines


def _predict(row: EvalRow, place: int, chat: ChatFormat, tuned: Measured, base: Measured | None) -> Prediction:
    text = tuned.answers.texts[place]
    line: Prediction = {
        "id": row.row["id"],
        "source": row.row["source"],
        "task": row.task.name,
        "language": language_of_row(row),
        "instruction": row.row.get("instruction", row.question),
        "input": row.row.get("input", ""),
        "reference": row.reference,
        "prediction": text,
        "finished": tuned.answers.finished[place],
        "nll": tuned.answers.nll[place],
        "row_tokens": row.num_tokens,
        "reference_tokens": len(chat.encode_text(row.reference)),
        "prediction_tokens": len(chat.encode_text(text)),
    }
    if own_id := row.row.get("own_id"):
        line["own_id"] = own_id
    if row.turn is not None:
        line["turn"] = row.turn
    if row.history:
        line["history"] = [{"role": role, "content": content} for role, content in row.history]
    if base is not None:
        line["base_prediction"] = base.answers.texts[place]
        line["base_finished"] = base.answers.finished[place]
        line["base_nll"] = base.answers.nll[place]
    for key, side in (("label", tuned), ("base_label", base)):
        if side is not None and (label := side.outcomes[place].scored) is not None:
            line[key] = label  # type: ignore[literal-required]
    return line
