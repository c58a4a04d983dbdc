"""A model's results on the rows: the loss of the reference, the scores of the labels, a generated answer.

Each is asked for once. A label's score is the log-probability of label and end token, so where the reference is one
of the labels its loss is known from the scores already, and no second pass is made.

If one of the two models has a classification head, which generates nothing, neither generates: both choose
among the labels, and the loss of a row is that of the right one among them.

read_outcomes makes a class, entities, a text or nothing readable of each answer; `Measured` holds one model's answers
and outcomes for all rows.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np

from prompts import ChatFormat, Encoded
from prompts.tasks import Unparseable
from prompts.tools import CALL, BrokenCall, read_answer_text, spell_answer
from sft.config.decoding import Preset, choose_decoding
from sft.data.rows.canonical import question_of
from sft.errors import ModelError
from sft.evaluation.journal import Journal, Side
from sft.evaluation.rows import EvalRow, supervised_ids
from sft.evaluation.tool_calls import CallOutcome, row_score, score_calls, units_of
from sft.generation import Generated
from sft.generation.writers import TransformersWriter, Writer
from sft.metrics.entities import EntityCounts, Span, count_entities, place_mentions
from sft.metrics.resampling import Sums, Values
from sft.models.loaded import LoadedModel
from sft.scoring import score_choices, score_rows
from sft.text import normalise_text

MARGIN_TOKENS = 8  # beyond the longest reference, so that a longer answer shows as unfinished or wrong
MARGIN_SHARE = 0.25


@dataclass(frozen=True)
class Asking:
    """How answers are measured. max_tokens: of a scoring batch. journal: keeps finished answers on disk.

    writer: None if the model only chooses among labels.
    """

    writer: Writer | None
    preset: Preset = "precise"
    seed: int = 42  # of the draws, where the preset draws
    max_tokens: int | None = None
    journal: Journal | None = None


@dataclass(frozen=True)
class Answers:
    """One model's answers to N rows, each list in their order.

    nll: summed negative log-probability of the row's supervised tokens, nats. label_scores: log-probabilities of the
    row's labels in their order, [] for rows without. finished: the model ended the text itself. chosen_by: how, where
    nothing was written; texts are the labels chosen, nll is of the right one among the row's, and num_tokens 1.
    """

    nll: list[float]
    num_tokens: list[int]
    label_scores: list[list[float]]
    texts: list[str]
    finished: list[bool]
    chosen_by: Literal["head", "label_scoring"] | None = None


def answer_rows(
    loaded: LoadedModel,
    rows: Sequence[EvalRow],
    budgets: dict[str, int],
    name: Side,
    *,
    asking: Asking | None = None,
) -> Answers:
    """Ask a model everything about the rows; `name` ("tuned", "base") is in front of the progress.

    Raises ModelError, naming rows, where a loss is not finite.
    """
    asking = asking or Asking(TransformersWriter(loaded))
    label_scores = _score_labels(loaded, rows, name, asking.max_tokens)
    if asking.writer is None:
        nll, num_tokens = [_choice_nll(*found) for found in zip(rows, label_scores, strict=True)], [1] * len(rows)
    else:
        nll, num_tokens = score_references(loaded, rows, f"{name}: loss", asking.max_tokens, label_scores)
    broken = [row.row["id"] for row, value in zip(rows, nll, strict=True) if not math.isfinite(value)]
    if broken:
        raise ModelError(
            f"{name}: the loss of {len(broken)} of {len(rows)} rows is not finite, first {', '.join(broken[:3])}; "
            "the weights hold NaN or overflow, train again with a lower learning rate"
        )
    if asking.writer is None:
        texts = [row.labels[scores.index(max(scores))] for row, scores in zip(rows, label_scores, strict=True)]
        way: Literal["head", "label_scoring"] = "label_scoring" if loaded.head is None else "head"
        return Answers(nll, num_tokens, label_scores, texts, [True] * len(rows), way)
    texts, finished = _generate(rows, budgets, name, asking, asking.writer)
    return Answers(nll, num_tokens, label_scores, texts, finished)


def plan_budgets(rows: Sequence[EvalRow], loaded: LoadedModel, max_new_tokens: int) -> dict[str, int]:
    """Most tokens to generate, per task: the longest reference and a quarter more, never over max_new_tokens.

    The allowed labels of a row count as references; MARGIN_TOKENS is the least that is added. The demo's rows:
    {"sentiment": 13, "instruct": 65, "ner": 102}. An untuned model rambles; what it says beyond that length could
    only be wrong, and it takes most of the time.
    """
    longest: dict[str, int] = defaultdict(int)
    longest_prompt = 0
    for row in rows:
        if row.is_document:  # without a question
            continue
        lengths = [len(loaded.chat.encode_answer(reference)) for reference in row.labels]
        length = max(lengths, default=row.num_answer_tokens)
        longest[row.task.name] = max(longest[row.task.name], length)
        longest_prompt = max(longest_prompt, len(row.prompt_ids))
    room = max(1, loaded.max_context - longest_prompt)
    return {
        task: min(max_new_tokens, room, length + max(MARGIN_TOKENS, math.ceil(MARGIN_SHARE * length)))
        for task, length in longest.items()
    }


def _score_labels(loaded: LoadedModel, rows: Sequence[EvalRow], name: str, max_tokens: int | None) -> list[list[float]]:
    places = [place for place, row in enumerate(rows) if row.labels]
    scores: list[list[float]] = [[] for _ in rows]
    labelled = [rows[place] for place in places]
    found = score_labelled(loaded, labelled, description=f"{name}: labels", max_tokens=max_tokens)
    for place, row_scores in zip(places, found, strict=True):
        scores[place] = row_scores
    return scores


def score_labelled(
    loaded: LoadedModel, rows: Sequence[EvalRow], *, description: str, max_tokens: int | None
) -> list[list[float]]:
    """Log-probabilities of each row's labels, in their order; every row has some."""
    if not rows:
        return []
    prompts, labels, classes = zip(*((row.prompt_ids, row.labels, row.classes) for row in rows), strict=True)
    return score_choices(loaded, prompts, labels, classes, description=description, max_tokens=max_tokens)


def _choice_nll(row: EvalRow, scores: list[float]) -> float:
    """Negative log-probability of the right label among the row's, nats."""
    right, highest = scores[row.labels.index(row.reference)], max(scores)
    return highest + math.log(math.fsum(math.exp(score - highest) for score in scores)) - right


def score_references(
    loaded: LoadedModel,
    rows: Sequence[EvalRow],
    description: str,
    max_tokens: int | None,
    label_scores: Sequence[list[float]] | None = None,
) -> tuple[list[float], list[int]]:
    """Summed nll and number of tokens of each row's answers. max_tokens: of a scoring batch.

    label_scores: of each row, [] if its labels were not scored; used instead of computing the same loss again.
    """
    nll, num_tokens = [0.0] * len(rows), [0] * len(rows)
    pieces: list[Encoded] = []
    owners: list[int] = []
    for place, row in enumerate(rows):
        known = _reference_from_labels(loaded, row, label_scores[place] if label_scores is not None else [])
        if known is not None:
            nll[place], num_tokens[place] = known
        else:
            pieces += row.encoded
            owners += [place] * len(row.encoded)
    if pieces:
        scored = score_rows(loaded, pieces, description=description, max_tokens=max_tokens)
        for place, score in zip(owners, scored, strict=True):
            nll[place] += score.nll
            num_tokens[place] += score.num_tokens
    return nll, num_tokens


def _reference_from_labels(loaded: LoadedModel, row: EvalRow, scores: list[float]) -> tuple[float, int] | None:
    """(nll, tokens) of a reference that was scored as a label; None if training supervises anything else."""
    if not scores or len(row.encoded) != 1:
        return None
    answer = loaded.chat.encode_answer(row.reference)
    if supervised_ids(row.encoded[0]) != answer:
        return None
    return -scores[row.labels.index(row.reference)], len(answer)


def _generate(
    rows: Sequence[EvalRow], budgets: dict[str, int], name: Side, asking: Asking, writer: Writer
) -> tuple[list[str], list[bool]]:
    texts, finished = [""] * len(rows), [row.is_document for row in rows]
    for task, budget in budgets.items():
        places = [place for place, row in enumerate(rows) if row.task.name == task]
        ids = {place: rows[place].row["id"] for place in places}
        known = asking.journal.answers(name, ids) if asking.journal else {}

        def keep(new: dict[int, Generated], places: list[int] = places, ids: dict[int, str] = ids) -> None:
            if asking.journal:
                asking.journal.add(name, ids, {places[number]: answer for number, answer in new.items()})

        answers = writer.generate(
            [rows[place].prompt_ids for place in places],
            choose_decoding(asking.preset, max_new_tokens=budget, seed=asking.seed),
            progress=f"{name}: {task} answers",
            known={number: known[place] for number, place in enumerate(places) if place in known},
            on_answers=keep,
        )
        for place, answer in zip(places, answers, strict=True):
            texts[place], finished[place] = spell_as_reference(answer.text, rows[place]), answer.finished
    return texts, finished


def spell_as_reference(text: str, row: EvalRow) -> str:
    """An answer with its calls in the spelling of references, whichever form the model has for them."""
    if not row.tools or CALL not in text:
        return text
    try:
        return spell_answer(*read_answer_text(text, row.tools))
    except BrokenCall:
        return text


@dataclass(frozen=True)
class Outcome:
    """One row's outcome; the classes are None for rows without labels, entities for rows without entities.

    reference: the right class. scored: the class of the label with the highest log-probability, summed over label and
    end token. scored_per_token: the same with the sum divided by the number of tokens. generated: the class that the
    written answer names; None, too, where it names none.
    """

    reference: str | None = None
    scored: str | None = None
    scored_per_token: str | None = None
    generated: str | None = None
    entities: EntityCounts | None = None
    calls: CallOutcome | None = None  # of rows with tools
    unparseable: bool = False


@dataclass(frozen=True)
class Measured:
    """Everything known of one model's N rows; rouge holds a list per type, None for rows that have no ROUGE."""

    answers: Answers
    outcomes: list[Outcome]
    rouge: dict[str, list[float | None]] | None = None  # {"rouge1": [0.8, None], "rouge2": ..., "rougeL": ...}


def read_outcomes(rows: Sequence[EvalRow], answers: Answers, chat: ChatFormat) -> list[Outcome]:
    """Parse every answer and pick every row's best label."""
    if answers.chosen_by is not None:
        return [_read_choice(row, scores) for row, scores in zip(rows, answers.label_scores, strict=True)]
    readers = {"label": _read_label, "entities": _read_entities, "text": _read_text, "document": _read_text}
    return [
        readers[row.task.kind](row, scores, text, chat)
        for row, scores, text in zip(rows, answers.label_scores, answers.texts, strict=True)
    ]


def classes_of(rows: Sequence[EvalRow]) -> list[str]:
    """Every class the rows allow, in the order of their first mention: ["负面", "正面"]."""
    return list(dict.fromkeys(name for row in rows for name in row.classes))


def _read_choice(row: EvalRow, scores: list[float]) -> Outcome:
    return Outcome(reference=class_of(row, row.reference), scored=row.classes[scores.index(max(scores))])


def _read_label(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    parsed = row.task.parse_answer(text, row.row)
    means = [score / len(chat.encode_answer(label)) for label, score in zip(row.labels, scores, strict=True)]
    return Outcome(
        reference=class_of(row, row.reference),
        scored=class_of(row, row.labels[scores.index(max(scores))]),
        scored_per_token=class_of(row, row.labels[means.index(max(means))]),
        generated=parsed if isinstance(parsed, str) else None,
        unparseable=isinstance(parsed, Unparseable),
    )


def _read_entities(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    gold = [Span(found["start_idx"], found["end_idx"], found["entity_label"]) for found in row.row["entities"]]
    parsed = row.task.parse_answer(text, row.row)
    if isinstance(parsed, str | Unparseable):
        return Outcome(entities=count_entities(gold, None), unparseable=True)
    return Outcome(entities=count_entities(gold, place_mentions(row.row["text"], parsed, gold)))


def _read_text(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    """A free answer has no form to miss but its calls'; that it is empty is counted elsewhere.

    A document has no answer.
    """
    if not row.tools and CALL not in row.reference:
        return Outcome()
    return Outcome(calls=score_calls(row.reference, text, row.tools))


def class_of(row: EvalRow, answer: str) -> str:
    """The class of an allowed answer: '{"sentiment": 1}' -> "正面"."""
    return row.task.class_of(answer, row.row)


def call_units(figure: str, outcomes: Sequence[Outcome]) -> tuple[list[int], Sums, Values]:
    """Rows of a tool-call metric, (N, 2) their contributions, and (N,) their scores.

    Which rows these are depends on their references alone. None if no row says anything of the figure.
    """
    calls = {place: outcome.calls for place, outcome in enumerate(outcomes) if outcome.calls is not None}
    units = {place: unit for place, call in calls.items() if (unit := units_of(figure, call)) is not None}
    if not any(size for _, size in units.values()):
        units = {}
    scores = np.array([row_score(figure, calls[place]) for place in units])
    return list(units), np.array(list(units.values())), scores


def text_places(rows: Sequence[EvalRow], *, asked: bool = False) -> list[int]:
    """Row numbers used for text metrics: the free-text rows, because word overlap means nothing for labels.

    asked: if there is none, all rows, because the user named the metric.
    """
    written = [place for place, row in enumerate(rows) if not row.is_document]
    return [place for place in written if rows[place].task.kind == "text"] or written[: len(written) * asked]


def cluster_of(row: EvalRow) -> str:
    """The key of rows that count as one in a comparison: their normalised text."""
    return normalise_text(question_of(row.row))


def places_by(rows: Sequence[EvalRow], key: Callable[[EvalRow], str]) -> dict[str, list[int]]:
    """Row numbers of each group: {"sentiment": [0, 2], "ner": [1]}."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(key(row), []).append(place)
    return groups


def take_rows(measured: Measured, places: Sequence[int]) -> Measured:
    """The measurements of the rows at these indices, in their order: every list has one value per row."""
    return _take(measured, places)


def _take(value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [value[place] for place in places]
    if isinstance(value, dict):
        return {name: _take(part, places) for name, part in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{part.name: _take(getattr(value, part.name), places) for part in fields(value)})
