"""Answer a text with a tuned model, streamed as it is written; or every row of a file, or line after line.

Reads the run folder (model, prompt) and the text: --text, else standard input, else an example of the task. The answer
goes to stdout, all else to stderr: a label with its confidence, entities with their places, or text. --file writes a
line for each row to --output; stopped, the same command continues where it was.

    python inference.py --task sentiment --file reviews.jsonl --output answers.jsonl
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sft.config.layers import load_settings
from sft.config.talk import OR_UNTUNED, InferenceSettings
from sft.console import LineReader, read_standard_input, run_command, say, to_json
from sft.data.rows.tools import load_tools
from sft.files import held, lock_of
from sft.runs.run import Run
from sft.runs.system_prompts import tell_differing

if TYPE_CHECKING:
    from sft.inference import Predictor


def main(argv: list[str] | None = None) -> None:
    """Parse, find run and text, answer, print."""
    settings = load_settings(InferenceSettings, argv)
    from sft.models.adopted import open_tuned

    run = None if settings.is_untuned else open_tuned(settings, or_else=OR_UNTUNED)
    settings.announce()
    tell_differing(run, "a row's own `system` sets another")
    if settings.file is not None and settings.output is not None:  # given together, or neither
        answer_file(settings, run, settings.file, settings.output)
    elif settings.interactive:
        answer_typed_lines(settings, run)
    elif settings.demo:
        from sft.inference.asking import answer_examples, choose_examples

        examples = choose_examples(predictor := load(settings, run), settings.task)
        answer_examples(predictor, examples, as_json=settings.json_output)
    else:
        answer_text(settings, run)


def load(settings: InferenceSettings, run: Run | None) -> "Predictor":
    """The model that is to answer."""
    say(f"loading {settings.model or (run.path.name if run else 'the model')}")
    from sft.inference import Predictor

    return Predictor(
        run,
        model=settings.model,
        system_prompt=settings.system_prompt,
        task=settings.task_name,
        decoding=settings.decoding_of(settings.decoding),
        max_seq_length=settings.max_seq_length,
        allow_mismatch=settings.allow_mismatch,
        trust_remote_code=settings.trust_remote_code,
    )


def answer_text(settings: InferenceSettings, run: Run | None) -> None:
    """One text, whose row is made before anything heavy is loaded: a mistake shows at once."""
    from sft.inference.questions import choose_task, example_row, make_row, show_question

    task = choose_task(settings.task_name, run.tasks if run else [], is_classifier=bool(run and run.is_classifier))
    if (text := settings.text if settings.text is not None else read_standard_input()) is None:
        row = example_row(task, input=settings.input, category=settings.category)
        say(f"no --text and no standard input, so an example of task {task.name}: {to_json(show_question(row))}")
    else:
        row = make_row(task, text, input=settings.input, category=settings.category, tools=load_tools(settings.tools))
    from sft.inference.asking import show_answer  # heavy

    show_answer(load(settings, run), row, as_json=settings.json_output)


def answer_typed_lines(settings: InferenceSettings, run: Run | None) -> None:
    """Line after line, each by itself."""
    from sft.inference.asking import answer_lines, make_maker

    tools, predictor = load_tools(settings.tools), load(settings, run)
    reader = LineReader(f"{predictor.task.name}> ")
    if reader.is_terminal:
        say("each line is answered on its own; exit, quit or Ctrl-D leaves")
    answer_lines(predictor, reader, make_maker(settings, predictor, tools), as_json=settings.json_output)


def answer_file(settings: InferenceSettings, run: Run | None, source: Path, target: Path) -> None:
    """Every row of a file; its rows are read and checked before anything heavy is loaded."""
    from sft.inference.questions import choose_task, read_rows

    started = time.monotonic()
    task = choose_task(settings.task_name, run.tasks if run else [], is_classifier=bool(run and run.is_classifier))
    columns = settings.columns_after(run.train_settings().columns if run else ())
    rows = read_rows(source, task, keep_bad=settings.on_bad_row != "error", columns=columns, encoding=settings.encoding)
    with held(lock_of(target), f"{target}: another command is writing it", "wait for it, or name another --output"):
        from sft.inference.files import answer_rows, describe_source  # heavy

        predictor = load(settings, run)
        made_from = describe_source(source, predictor, settings.made_from)
        summary = answer_rows(predictor, rows, target, made_from)
    say(f"{summary.rows:,} rows answered, {summary.problems:,} of them without a valid answer")
    duration = {"duration_s": round(time.monotonic() - started, 3)}
    print(to_json(asdict(summary) | duration) if settings.json_output else summary.output)


def __getattr__(name: str) -> object:
    """`from inference import SentimentPredictor`, as an earlier project's users write it (sft.inference.sentiment)."""
    if name == "SentimentPredictor":
        from sft.inference.sentiment import SentimentPredictor

        return SentimentPredictor
    raise AttributeError(f"module 'inference' has no attribute {name!r}")


if __name__ == "__main__":
    run_command(main)
