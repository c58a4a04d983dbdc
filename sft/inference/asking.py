"""What inference.py prints: one answer, answers to typed lines, or a handful of examples."""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, zip_longest

from prompts import PromptError, Tool
from prompts.tasks import Row, get_task, text_of
from sft.config.talk import InferenceSettings
from sft.console import AnswerWriter, LineReader, make_visible, say, to_json
from sft.conversation import LEAVING
from sft.errors import UserError
from sft.inference.predictor import Prediction, Predictor
from sft.inference.questions import make_row, show_question

DEMO_ROWS = 5


def show_answer(predictor: Predictor, row: Row, *, as_json: bool) -> Prediction:
    """Answer a row on stdout, free text as it is generated; remarks on the answer go to stderr."""
    started = time.monotonic()
    if predictor.task_of(row).kind == "text" and not as_json:
        answer = _show_stream(predictor, row)
    else:
        answer = predictor.predict(row)
        fields = answer.to_fields() | {"duration_s": round(time.monotonic() - started, 3)}
        print(to_json(fields) if as_json else make_visible(answer.show()), flush=True)
    if answer.num_cut:
        bound = "for the rows of the run (--max_seq_length reads more)" if predictor.reads_less else "for the model"
        say(f"the text is too long {bound}: {answer.num_cut:,} tokens of it were left out")
    if answer.confidence is not None and not as_json:
        say(describe_confidence(answer))
    if answer.problem is not None:
        say(f"no valid answer to task {answer.task}: {answer.problem}")
    if not answer.finished:
        say(f"cut off after {answer.num_tokens} tokens; raise --max_new_tokens for more")
    return answer


def _show_stream(predictor: Predictor, row: Row) -> Prediction:
    writer = AnswerWriter()
    with predictor.stream(row) as pieces:
        try:
            for piece in pieces:
                writer.write(piece, is_thought=pieces.is_thought)
        finally:
            writer.close()
    return predictor.read_stream(row, pieces)


def describe_confidence(answer: Prediction) -> str:
    """confidence 0.97 (正面 0.97, 负面 0.03); all labels together have probability 0.99"""
    ranked = sorted((answer.probabilities or {}).items(), key=lambda item: -item[1])
    shares = ", ".join(f"{label} {share:.2f}" for label, share in ranked)
    return (
        f"confidence {answer.confidence:.2f} ({shares}); all labels together have probability {answer.label_mass:.2g}"
    )


def answer_lines(predictor: Predictor, reader: LineReader, make: Callable[[str], Row], *, as_json: bool) -> None:
    """Answer each typed line on its own until exit, quit or the end of the input; errors do not end the loop."""
    while (line := reader.read()) is not None:
        text = line.strip()
        if text.lower() in LEAVING:
            return
        if not text:
            continue
        try:
            show_answer(predictor, make(text), as_json=as_json)
        except (UserError, PromptError) as error:
            say(f"error: {error}")


def answer_examples(predictor: Predictor, rows: Iterable[Row], *, as_json: bool) -> None:
    """Show the question before each answer, and the reference if the row has one."""
    for row in rows:
        task = get_task(text_of(row, "task"))
        say(f"{task.name}: {to_json(show_question(row))}")
        if all(row.get(field) is not None for field in task.answer_fields):
            say(f"expected: {task.answer_of(row)}")
        show_answer(predictor, row, as_json=as_json)


def choose_examples(predictor: Predictor, task: str | None) -> list[Row]:
    """A handful of rows the run was not trained on, of each of its tasks; where its data is gone, and of an untuned
    model, the task's own example."""
    if predictor.run is not None:
        from sft.config.evaluate import EvaluateSettings
        from sft.evaluation.rows import select_rows  # brings every metric: a second that only the demo need wait for

        try:
            rows = select_rows(predictor.run, EvaluateSettings()).rows
        except UserError as error:
            say(f"the run's own rows cannot be shown: {error}")
        else:
            wanted = [row for row in rows if task in (None, row["task"])]
            if wanted:
                return take_in_turn(wanted)
            say(f"the run holds no rows of task {task}, so the task's example")
    return [{**predictor.task.example, "task": predictor.task.name}]


def take_in_turn(rows: Sequence[Row]) -> list[Row]:
    """A handful of rows: the first of each task, the second of each, and so on."""
    tasks: dict[object, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    rounds = chain.from_iterable(zip_longest(*tasks.values()))
    return [dict(row) for row in islice(filter(None, rounds), DEMO_ROWS)]


def make_maker(settings: InferenceSettings, predictor: Predictor, tools: Sequence[Tool] = ()) -> Callable[[str], Row]:
    """Return the function that turns a typed text and the given fields into a row."""
    input, category = settings.input, settings.category
    return lambda text: make_row(predictor.task, text, input=input, category=category, tools=tools)
