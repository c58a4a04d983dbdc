"""One loaded model that answers texts: alone, many at once, or streamed; from any number of threads."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum
from pathlib import Path
from typing import NotRequired, TypedDict

from prompts import Message, ToolCall, conversation_of
from prompts.head import answers_of
from prompts.tasks import Entity, Row, Task, Unparseable, get_task, text_of, tools_of
from prompts.tools import spell_answer, write_openai_calls
from sft.config.decoding import DECODING, Decoding
from sft.config.layers import restore_settings
from sft.config.tuned import TunedSettings
from sft.console import to_json
from sft.conversation import fit_prompt, limits_of
from sft.errors import ModelError
from sft.generation import TextStream, generate_batch, stream
from sft.inference.questions import choose_task, make_row, row_of_record
from sft.metrics.entities import NOWHERE, place_mentions
from sft.models.adopted import open_tuned
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_run
from sft.runs.run import Run
from sft.scoring import score_choices

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

    answer is the generated text or, for a task with labels, the most likely label as the model would write it. problem
    says why an answer is not valid for its task; None if it is.
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
    reasoning: str | None = None  # content of the think block, if the model has one
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


Question = str | Row
"""A text, or a row of a task: {"text": "三比一取胜", "category": ["体育", "经济"]}."""


@dataclass(frozen=True)
class _Asked:
    """A question as the model gets it; labels are the allowed answers, classes their meaning."""

    row: Row
    task: Task
    ids: list[int]
    num_cut: int
    labels: tuple[str, ...]
    classes: tuple[str, ...]


class Predictor:
    """A finished run (or an untuned model) that answers texts with the prompt it was trained with.

    predictor = Predictor("outputs/latest", task="sentiment")
    predictor.predict("房间很干净").label                    # "正面"
    predictor.predict_batch(["房间很干净", "太吵了"])          # a list of Prediction, in their order

    An answer depends on its question alone: not on the batch, the order or the thread. Threads may share a predictor;
    the model works for one of them at a time.
    """

    def __init__(
        self,
        run: str | Path | Run | None = None,
        *,
        model: str | None = None,
        adapter: str | Path | None = None,
        system_prompt: str | None = None,
        task: str | None = None,
        decoding: Decoding = DECODING["precise"],
        max_seq_length: int | None = None,
        allow_mismatch: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        """Load a run folder (default outputs/latest), or with `model` an untuned one ("embedded", a hub id, a folder).

        adapter: an adapter made elsewhere (a folder or a hub id), on the base that `model` names, or on its own.
        system_prompt: for every question, if there is no run.json.
        task: its prompt is used for texts; default the task of the run, instruct if it has several. decoding:
        how text is written, by default greedily, as evaluate.py measures it; labels are scored. max_seq_length: tokens
        that question and answer may have, default as the run was trained; of a longer text the middle goes. Raises
        RunError for a run that is missing or does not fit its base, ModelError for a model that cannot be loaded,
        PromptError for an unknown task.
        """
        if isinstance(run, Run):
            opened: Run | None = run
        else:
            given = {"run": run and str(run), "adapter": adapter and str(adapter), "model": model}
            named = restore_settings(TunedSettings, given | {"system_prompt": system_prompt}, "Predictor")
            opened = None if named.is_untuned else open_tuned(named)
        is_classifier = opened is not None and opened.is_classifier
        self.task = choose_task(task, opened.tasks if opened else [], is_classifier=is_classifier)
        self.run = opened
        self.system_prompt = opened.system_prompt if opened else system_prompt
        self._decoding = decoding
        self._lock = threading.Lock()
        self.loaded: LoadedModel = (
            load_run(opened, allow_mismatch=allow_mismatch, trust_remote_code=trust_remote_code)
            if opened
            else load_base(str(model), trust_remote_code=trust_remote_code)
        )
        self.limits = limits_of(opened, self.loaded.max_context, max_seq_length=max_seq_length)

    @property
    def reads_less(self) -> bool:
        """Whether texts are shortened to the training length although the model could read more."""
        return (self.limits.max_length or self.loaded.max_context) < self.loaded.max_context

    def predict(self, question: Question) -> Prediction:
        """The answer to a text, or to a row of a task.

        Raises PromptError for a row without a prompt, TooLong for one that does not fit the model's context.
        """
        return self.predict_batch([question])[0]

    def predict_batch(self, questions: Sequence[Question], *, progress: str = "") -> list[Prediction]:
        """The answers to many questions, in their order; rows may belong to different tasks. Raises as predict does.

        `progress` names the bar shown while the model works, "" shows none.
        """
        asked = [self._ask(question) for question in questions]
        with self._lock:
            return self._answer(asked, progress)

    def stream(self, question: Question) -> TextStream:
        """The answer as pieces of text while it is written, also where the task would score labels. Raises as predict.

        with predictor.stream("hello") as pieces:
            for piece in pieces: ...

        Raises RunError, too, of a run with a classification head, which writes nothing.
        """
        if self.run:
            self.run.check_writes("stream")
        asked = self._ask(question)
        return stream(self.loaded, asked.ids, self._decoding, lock=self._lock, tools=tools_of(asked.row))

    def read_stream(self, question: Question, pieces: TextStream) -> Prediction:
        """What was streamed, as predict would give it."""
        asked = self._ask(question)
        return self._read(asked, pieces.token_ids, pieces.finished)

    def check(self, question: Question) -> Row:
        """The row of a valid question. Raises PromptError or TooLong where predict would."""
        return self._ask(question).row

    def task_of(self, question: Question) -> Task:
        """The task of a question."""
        named = None if isinstance(question, str) else question.get("task")
        return get_task(named) if isinstance(named, str) else self.task

    def _ask(self, question: Question) -> _Asked:
        row = make_row(self.task, question) if isinstance(question, str) else row_of_record(question, self.task)
        task = get_task(text_of(row, "task"))
        head = self.loaded.head
        labels = answers_of(task, row, head)
        messages = conversation_of(row, self.system_prompt, with_answer=False)
        prompt = fit_prompt(self.loaded.chat, messages, self.limits, head=head)
        classes = task.classes_of(labels, row)
        return _Asked(row, task, prompt.ids, prompt.num_cut, labels, classes)

    def _answer(self, asked: Sequence[_Asked], progress: str) -> list[Prediction]:
        predictions: dict[int, Prediction] = {}
        scored = [place for place, each in enumerate(asked) if each.labels]
        labels, classes = [asked[place].labels for place in scored], [asked[place].classes for place in scored]
        prompts = [asked[place].ids for place in scored]
        scores = score_choices(self.loaded, prompts, labels, classes, description=progress, shown=bool(progress))
        for place, row in zip(scored, scores, strict=True):
            each = asked[place]
            predictions[place] = read_scores(
                each.task,
                each.row,
                row,
                num_tokens=[self._count_tokens(label) for label in each.labels],
                num_cut=each.num_cut,
                answers=each.labels,
            )
        written = [place for place, each in enumerate(asked) if not each.labels]
        prompts = [asked[place].ids for place in written]
        answers = generate_batch(self.loaded, prompts, self._decoding, progress=progress)
        for place, answer in zip(written, answers, strict=True):
            predictions[place] = self._read(asked[place], answer.token_ids, answer.finished)
        return [predictions[place] for place in range(len(asked))]

    def _count_tokens(self, label: str) -> int:
        """Tokens the model would write to say a label; a head writes none."""
        return 0 if self.loaded.head else len(self.loaded.chat.encode_answer(label)) - 1

    def _read(self, asked: _Asked, token_ids: Sequence[int], finished: bool) -> Prediction:
        message = self.loaded.chat.read_answer(token_ids, tools_of(asked.row))
        return read_text(
            asked.task, asked.row, message, finished=finished, num_tokens=len(token_ids), num_cut=asked.num_cut
        )
