"""Show rows as the model sees them: control tokens, what is learned, how long they are, what a limit would cost.

Reads a dataset folder or any file of rows, and of the model only its tokenizer. Takes every flag of train.py, so that
the same flags show what training would see. Writes to stdout, and with --html one page.
    python inspect_data.py data/mixed
    python inspect_data.py examples/my_dataset.json --n 1 --model embedded
    python inspect_data.py data/mixed --row reviews-17
    python inspect_data.py data/mixed --config recipes/demo.yaml --html rows.html
"""

import difflib
import os
import sys
from pathlib import Path

from sft.config.inspect_data import InspectSettings
from sft.config.layers import load_settings
from sft.console import make_visible, run_command, say, table, to_json
from sft.errors import ConfigError, DataError

SHOWN_PROBLEMS = 5


def main(argv: list[str] | None = None) -> None:
    """Parse, read, print the rows and the two tables."""
    settings = load_settings(InspectSettings, spell_out(sys.argv[1:] if argv is None else argv))
    if settings.html:
        check_page(Path(settings.html))

    from sft.data import open_dataset_of  # after --help

    dataset = open_dataset_of(settings)
    settings.announce()
    from sft.runs.labels import choose_head

    head = choose_head(settings, dataset.train)
    from sft import inspection  # heavy: after the rows are known to be sound
    from sft.models.loading import load_chat_format
    from sft.runs.system_prompts import survey_system_prompts

    rows = [dict(row) for row in (*dataset.train, *dataset.validation, *dataset.test)]
    chosen = [find_row(rows, settings.row)] if settings.row else inspection.choose_rows(rows, settings.num_rows)
    chat = load_chat_format(
        settings.model,
        revision=settings.revision,
        think=settings.think,
        trust_remote_code=settings.trust_remote_code,
    )
    views = [view for row in chosen for view in inspection.view_row(row, chat, settings, head)]
    survey = inspection.survey_rows([] if settings.row and not settings.html else rows, chat, settings)

    if settings.json_output:
        print(to_json(inspection.describe(views, survey)))
    else:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        parts = [inspection.render_legend(colours), *(inspection.render_view(view, colours) for view in views)]
        if not settings.row:
            parts.append(table(inspection.length_rows(survey), header=inspection.LENGTH_HEADER))
            parts.append(table(inspection.cost_rows(survey), header=inspection.COST_HEADER))
        print("\n\n".join(parts))
    if line := survey_system_prompts([*dataset.train, *dataset.validation], settings.system_prompt).describe():
        say(make_visible(line))
    report_problems(survey.unusable)
    if not chat.supervises_every_answer:
        say(f"think policy {settings.think}: each answer of a conversation is an example of its own")
    if settings.html:
        facts = inspection.list_facts(rows, settings)
        write_page(Path(settings.html), inspection.render_page(settings.data, facts, views, survey))


def spell_out(argv: list[str]) -> list[str]:
    """`DATA --n 1` is short for `--data DATA --num_rows 1`."""
    words = ["--data", *argv] if argv and not argv[0].startswith("-") else argv
    return [word.replace("--n", "--num_rows") if word.partition("=")[0] == "--n" else word for word in words]


def find_row(rows: list[dict[str, object]], name: str) -> dict[str, object]:
    """The row of an id. Raises DataError with the nearest id there is."""
    found = next((row for row in rows if row["id"] == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [str(row["id"]) for row in rows], n=1, cutoff=0)
        raise DataError(f"no row has the id {name!r}; the nearest is {near[0]!r}")
    return found


def report_problems(unusable: dict[str, str]) -> None:
    """Rows that training would refuse, the first few by name."""
    for name, reason in list(unusable.items())[:SHOWN_PROBLEMS]:
        say(make_visible(f"warning: cannot be used: {name}: {reason}"))
    if len(unusable) > SHOWN_PROBLEMS:
        say(f"warning: {len(unusable):,} rows in all cannot be used")


def check_page(path: Path) -> None:
    """Raise ConfigError where --html names a file that holds something else than a page, such as the rows."""
    if path.exists() and not (path.is_file() and path.read_bytes()[:14].lower() in (b"", b"<!doctype html")):
        raise ConfigError(f"--html {path}: holds something else than a page; name another file")


def write_page(path: Path, page: str) -> None:
    """Write the page of --html. Raises ConfigError if that is not possible."""
    from sft.runs.run import write_atomically  # after --help

    try:
        write_atomically(path, page)
    except OSError as error:
        raise ConfigError(
            f"--html {path}: cannot be written ({error.strerror}); name a file in a folder of yours"
        ) from None
    say(f"written: {path}")


if __name__ == "__main__":
    run_command(main)
