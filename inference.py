"""Answer one text with a tuned model, streamed as it is written.

Reads the run folder (model, prompt) and the text: --text, else standard input, else an example of the task. The answer
goes to stdout; for tasks with labels or entities, what the answer says.

    python inference.py --text "What is LoRA?"
    python inference.py --task sentiment --text "房间很干净" --json
    cat question.txt | python inference.py --decoding precise
"""

import sys
import time
from collections.abc import Iterable

from prompts import conversation_of
from prompts.tasks import Entity, Parsed, Task, Unparseable, get_task
from sft.config.layers import load_settings
from sft.config.talk import InferenceSettings
from sft.console import TerminalFilter, make_visible, read_standard_input, run_command, say, to_json
from sft.conversation import fit_prompt
from sft.errors import ConfigError
from sft.runs import open_run

LABEL_MARGIN = 8  # tokens beyond the longest label, for quotes or a full stop; with more behind it, it is no label


def main(argv: list[str] | None = None) -> None:
    """Parse, find run and text, answer, print."""
    settings = load_settings(InferenceSettings, argv)
    for line in settings.describe():
        say(line)
    task = get_task(settings.task)
    run = None if settings.model else open_run(settings.run)
    row = read_row(settings, task)
    messages = conversation_of(row, run.system_prompt if run else None, with_answer=False)

    from sft.generation import stream  # heavy: after --help, and after run and text were found
    from sft.models.loading import load_base, load_run

    loaded = load_run(run, allow_mismatch=settings.allow_mismatch) if run else load_base(str(settings.model))
    decoding = settings.decoding_of(settings.preset_for(task.kind))
    if labels := task.allowed_labels(row):
        longest = max(len(loaded.chat.encode_answer(label)) for label in labels)
        decoding = decoding.model_copy(update={"max_new_tokens": min(decoding.max_new_tokens, longest + LABEL_MARGIN)})
    prompt = fit_prompt(loaded.chat, messages, max_context=loaded.max_context, max_new_tokens=decoding.max_new_tokens)
    if prompt.num_cut:
        say(f"the text is too long for the model's {loaded.max_context:,} tokens: {prompt.num_cut:,} were left out")

    is_streamed = task.kind == "text" and not settings.json_output
    started = time.monotonic()
    with stream(loaded, prompt.ids, decoding) as pieces:
        text = write_pieces(pieces) if is_streamed else "".join(pieces)
    parsed = task.parse_answer(text, row)
    if settings.json_output:
        result = {"task": task.name, "answer": text, **describe(parsed), "finished": pieces.finished}
        duration_s = round(time.monotonic() - started, 3)
        print(to_json({**result, "num_tokens": len(pieces.token_ids), "duration_s": duration_s}))
    elif not is_streamed:
        print(make_visible(show(parsed)))
    if isinstance(parsed, Unparseable):
        say(f"no valid answer to task {task.name}: {parsed.reason}")
    if not pieces.finished and not labels:
        say(f"cut off after {len(pieces.token_ids)} tokens; raise --max_new_tokens for more")


def read_row(settings: InferenceSettings, task: Task) -> dict[str, object]:
    """The row to answer: {"task": "sentiment", "text": "房间很干净"}. Raises ConfigError where the task needs more."""
    extra: dict[str, object] = {"input": settings.input} if settings.input is not None else {}
    extra |= {"category": list(settings.category)} if settings.category else {}
    for flag, owner in (("input", "instruct"), ("category", "news")):
        if flag in extra and task.name != owner:
            raise ConfigError(f"--{flag} is for task {owner}, this is {task.name}; leave it out or pass --task {owner}")
    text = settings.text if settings.text is not None else read_standard_input()
    if text is None:
        row = {**task.example, **extra, "task": task.name}
        question = {field: row[field] for field in (*task.prompt_fields, "input") if field in row}
        say(f"no --text and nothing on standard input, so an example of task {task.name}: {to_json(question)}")
        return row
    field = task.prompt_fields[0]
    value = [{"role": "user", "content": text}] if field == "messages" else text
    row = {"task": task.name, field: value, **extra}
    if missing := [name for name in task.prompt_fields if name not in row]:
        raise ConfigError(f"task {task.name} needs more than a text; give --{missing[0]} too, see inference.py --help")
    return row


def write_pieces(pieces: Iterable[str]) -> str:
    """Write an answer to stdout as it comes, and give it back whole."""
    out, text = TerminalFilter(sys.stdout), ""
    for piece in pieces:
        out.write(piece)
        text += piece
    out.write("\n")
    return text


def show(parsed: Parsed | Unparseable) -> str:
    """正面, or one JSON object per entity and line; an answer that says nothing valid is shown as it is."""
    if isinstance(parsed, Unparseable):
        return parsed.text
    return parsed if isinstance(parsed, str) else "\n".join(to_json(show_entity(entity)) for entity in parsed)


def describe(parsed: Parsed | Unparseable) -> dict[str, object]:
    """{"parsed": "正面", "problem": None}, or the reason why there is nothing."""
    if isinstance(parsed, Unparseable):
        return {"parsed": None, "problem": parsed.reason}
    return {
        "parsed": parsed if isinstance(parsed, str) else [show_entity(entity) for entity in parsed],
        "problem": None,
    }


def show_entity(entity: Entity) -> dict[str, str]:
    """As in the answers the model was trained on: {"entity_text": "北京", "entity_label": "GPE"}."""
    return {"entity_text": entity.text, "entity_label": entity.label}


if __name__ == "__main__":
    run_command(main)
