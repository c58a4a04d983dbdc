"""A file of rows -> a file of answers, one line per row, in order; resumable after a kill.

in.jsonl                   any file that read_records reads
out.jsonl                  {"line": 17, "task": "sentiment", "answer": "正面", "label": "正面", ...}
out.jsonl.made_from.json   the input's hash, run, task and decoding: who continues must have the same
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prompts import PromptError
from sft.console import progress, say
from sft.errors import DataError
from sft.files import named_in_errors, parse_json, sha256_of
from sft.inference.predictor import Prediction, Predictor
from sft.inference.questions import FileRow
from sft.runs.run import write_atomically

CHUNK_ROWS = {"cuda": 256, "cpu": 16}  # rows between two writes, the most a kill loses; enough to fill a batch


@dataclass(frozen=True)
class FileSummary:
    """Counts of a file: rows = answered before + answered now; problems counts unusable answers and rows."""

    rows: int
    answered_before: int
    problems: int
    output: str


def answer_rows(
    predictor: Predictor, rows: Sequence[FileRow], target: Path, made_from: Mapping[str, object]
) -> FileSummary:
    """Answer the remaining rows, appending to `target` in the order of the rows.

    Each chunk of lines is on the disk before the next is begun. Raises DataError if target exists and was made from
    something else.
    """
    done = open_target(target, made_from, rows)
    if done:
        rest = f"; continuing with the other {len(rows) - done:,}" if done < len(rows) else ""
        say(f"{target}: {done:,} of {len(rows):,} rows were answered before{rest}")
    size = CHUNK_ROWS.get(predictor.loaded.device.type, CHUNK_ROWS["cpu"])
    written = done
    try:
        with (
            named_in_errors(target),
            target.open("ab") as file,
            progress(total=len(rows) - done, description="answer") as bar,
        ):
            for start in range(done, len(rows), size):
                chunk = rows[start : start + size]
                append_lines(
                    file, [line_of(row, answer) for row, answer in zip(chunk, ask(predictor, chunk), strict=True)]
                )
                written = start + len(chunk)
                bar.update(len(chunk))
    except KeyboardInterrupt:
        say(f"{target}: {written:,} of {len(rows):,} rows are answered; the same command resumes from there")
        raise
    problems = sum(parse_json(line)["problem"] is not None for line in target.read_bytes().splitlines())
    return FileSummary(len(rows), done, problems, str(target))


def ask(predictor: Predictor, rows: Sequence[FileRow]) -> list[Prediction]:
    """The answers to a chunk; a row that lacks fields or does not fit the model gets a problem instead."""
    task = predictor.task.name
    answers = [Prediction(task, "", finished=False, problem=row.problem) for row in rows]
    askable = {}
    for place, row in enumerate(rows):
        if row.row is None:
            continue
        try:
            askable[place] = predictor.check(row.row)
        except PromptError as error:
            answers[place] = Prediction(str(row.row["task"]), "", finished=False, problem=str(error))
    for place, answer in zip(askable, predictor.predict_batch(list(askable.values())), strict=True):
        answers[place] = answer
    return answers


def line_of(row: FileRow, answer: Prediction) -> bytes:
    """A line of the output: {"line": 17, "id": "reviews-3", "task": ...}."""
    fields: dict[str, object] = {"line": row.line} | ({"id": row.id} if row.id is not None else {})
    return (json.dumps(fields | answer.to_fields(), ensure_ascii=False, allow_nan=False) + "\n").encode()


def append_lines(file: BinaryIO, lines: Sequence[bytes]) -> None:
    """Write lines in one piece and wait until they are on the disk."""
    file.write(b"".join(lines))
    file.flush()
    os.fsync(file.fileno())


def describe_source(path: Path, predictor: Predictor, settings: Mapping[str, object]) -> dict[str, object]:
    """Everything that an answer depends on: {"input sha256": "...", "run": "...", "task": "sentiment", "temperature":
    0.0}."""
    run = predictor.run
    model = (
        f"{run.fingerprint.digest[:16]}, adapter {run.adapter}"
        if run
        else predictor.loaded.source.identity()["weights"]
    )
    asked = {"task": predictor.task.name, "max_seq_length": predictor.limits.max_length}
    return {"input sha256": sha256_of(path), "model": model, **asked, **settings}


def open_target(target: Path, made_from: Mapping[str, object], rows: Sequence[FileRow]) -> int:
    """Create the output's folder and record its inputs, or count the rows that it already has.

    A line that a kill left half written is cut off.
    """
    beside = target.parent / f"{target.name}.made_from.json"
    if not target.exists() or target.stat().st_size == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(beside, json.dumps(made_from, ensure_ascii=False, indent=2) + "\n")
        return 0
    try:
        known = parse_json(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{target} is there already and not from this command; name another --output") from None
    if differing := [name for name in {**known, **made_from} if known.get(name) != made_from.get(name)]:
        name = differing[0]
        raise DataError(
            f"{target} was begun with {name} {known.get(name)}, now it is {made_from.get(name)}; "
            "name another --output, or remove it to begin anew"
        )
    done, num_bytes = count_lines(target, rows)
    os.truncate(target, num_bytes)
    return done


def count_lines(target: Path, rows: Sequence[FileRow]) -> tuple[int, int]:
    """Number of complete lines of a file of answers that belong to its rows, and their bytes."""
    done = num_bytes = 0
    with target.open("rb") as file:
        for line, row in zip(file, rows, strict=False):
            try:
                belongs = line.endswith(b"\n") and parse_json(line)["line"] == row.line
            except (ValueError, TypeError, KeyError):
                belongs = False
            if not belongs:
                break
            done, num_bytes = done + 1, num_bytes + len(line)
    return done, num_bytes
