"""What a model says to one row, read as the row's task reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum
from typing import NotRequired, TypedDict

from prompts import Message, ToolCall
from prompts.tasks import Entity, Row, Task, Unparseable, text_of
from prompts.tools import spell_answer, write_openai_calls
from sft.console import to_json
from sft.errors import ModelError
from sft.metrics.entities import NOWHERE, place_mentions

ROUNDING = 1e-3  # a log-probability of 0 may come out as little above it


class EntityFields(TypedDict):
    """An entity in an output: as the model was trained to name it, and where the text has it (end exclusive)."""

    entity_text: str
    entity_label: str
    start_idx: NotRequired[int]
    end_idx: NotRequired[int]


@dataclass(frozen=True)
class Prediction:
    """One answer: Prediction("sentiment", "正面", label="正面", confidence=0.97, probabilities={"负面": 0.03, ...}).

    answer is what the model wrote; of a task with labels, the likeliest one as the model would write it. problem says
    why an answer is not what its task asks for, None if it is.
    """

    task: str
    answer: str
    finished: bool = True  # False where a limit cut the answer off
    num_tokens: int = 0  # of the answer, without the end token
    num_cut: int = (
        0  # tokens of the prompt that were left out, because the run's rows, or the model, have no room for them
    )
    problem: str | None = None
    label: str | None = None
    confidence: float | None = None  # the label's probability among the labels
    probabilities: dict[str, float] | None = None  # of each label; they add up to 1
    label_mass: float | None = None  # probability that the model writes any of the labels at all
    entities: tuple[EntityFields, ...] | None = None
    reasoning: str | None = None  # what was in the think block, of models that have one
    tool_calls: tuple[ToolCall, ...] = ()  # the functions it calls after `answer`, of rows that offer some

    def show(self) -> str:
        """正面, or one JSON object an entity and line, or the text; an invalid answer is unchanged."""
        if self.problem is None and self.label is not None:
            return self.label
        if self.problem is None and self.entities is not None:
            return "\n".join(to_json(entity) for entity in self.entities)
        return spell_answer(self.answer, self.tool_calls)

    def to_fields(self) -> dict[str, object]:
        """The answer as JSON: {"task": "sentiment", "answer": "正面", "label": "正面", ...}; None left out,
        save for `problem`, which is always there.
        """
        fields: dict[str, object] = {"task": self.task, "answer": self.answer}
        if self.label is not None:
            fields |= {"label": self.label, "confidence": self.confidence, "probabilities": self.probabilities}
            fields["label_mass"] = self.label_mass
        if self.entities is not None:
            fields["entities"] = list(self.entities)
        if self.reasoning is not None:
            fields["reasoning"] = self.reasoning
        if self.tool_calls:
            fields["tool_calls"] = write_openai_calls(self.tool_calls)
        fields |= {"problem": self.problem, "finished": self.finished, "num_tokens": self.num_tokens}
        return fields | ({"num_cut": self.num_cut} if self.num_cut else {})


def read_text(task: Task, row: Row, message: Message, *, finished: bool, num_tokens: int, num_cut: int) -> Prediction:
    """The prediction of a generated answer."""
    text, calls = message["content"], tuple(message.get("tool_calls", ()))
    parsed = task.parse_answer(text, row)
    problem = parsed.reason if isinstance(parsed, Unparseable) and not calls else None
    entities = None
    if task.kind == "entities":
        mentions: list[Entity] = parsed if isinstance(parsed, list) else []
        entities = tuple(_locate(text_of(row, task.prompt_fields[0]), mentions))
    return Prediction(
        task.name,
        text,
        finished=finished,
        num_tokens=num_tokens,
        num_cut=num_cut,
        problem=problem,
        entities=entities,
        reasoning=message.get("reasoning_content"),
        tool_calls=calls,
    )


def read_scores(
    task: Task,
    row: Row,
    scores: Sequence[float],
    *,
    num_tokens: Sequence[int],
    num_cut: int,
    answers: Sequence[str] | None = None,
) -> Prediction:
    """The prediction of scored labels: log-probabilities (nats) of `answers` (default: all the row allows), in order.

    Raises ModelError if a score is not a number.
    """
    answers = task.allowed_labels(row) if answers is None else answers
    best = max(range(len(scores)), key=lambda place: scores[place])
    if not all(score <= ROUNDING for score in scores) or scores[best] == float("-inf"):
        raise ModelError("the label scores are not finite: the weights hold NaN or overflow; train again")
    shares = [exp(score - scores[best]) for score in scores]
    labels = task.classes_of(answers, row)
    probabilities = {label: share / fsum(shares) for label, share in zip(labels, shares, strict=True)}
    return Prediction(
        task.name,
        answers[best],
        num_tokens=num_tokens[best],
        num_cut=num_cut,
        label=labels[best],
        confidence=probabilities[labels[best]],
        probabilities=probabilities,
        label_mass=min(1.0, fsum(map(exp, scores))),
    )


def _locate(text: str, mentions: Sequence[Entity]) -> list[EntityFields]:
    spans = place_mentions(text, [(mention.text, mention.label) for mention in mentions], [])
    found: list[EntityFields] = []
    for mention, span in zip(mentions, spans, strict=True):
        fields: EntityFields = {"entity_text": mention.text, "entity_label": mention.label}
        if span.start != NOWHERE:
            fields |= {"start_idx": span.start, "end_idx": span.end}
        found.append(fields)
    return found
