"""The answers of a running evaluation: everything generated is on disk, and an interrupted run resumes from it.

predictions.partial.jsonl   first line: everything that the answers depend on; then one line per finished answer
predictions.jsonl           the finished file, which replaces the other at the end

Batches are planned as if nothing were there and only whole ones are taken over, so that the finished file is the same,
byte for byte, as that of an uninterrupted run.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypedDict

from sft.console import say
from sft.files import parse_json
from sft.generation import Generated
from sft.runs.run import write_atomically

PARTIAL_FILE = "predictions.partial.jsonl"
Side = Literal["tuned", "base"]


class Entry(TypedDict):
    """A line: one model's answer to row number `row` of the evaluation."""

    model: Side
    row: int
    id: str
    prediction: str
    token_ids: list[int]
    finished: bool


class Journal:
    """Answers by model and row number. `depends_on` names everything that decides about an answer.

    Journal(folder, {"adapter": "sha256 3f9a", "rows": "...", "decoding": "greedy", ...})
    """

    def __init__(self, folder: Path, depends_on: Mapping[str, str]) -> None:
        self.path = folder / PARTIAL_FILE
        self._depends_on = dict(depends_on)
        self._answers: dict[tuple[str, int], Generated] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not self._take_over():
            write_atomically(self.path, json.dumps({"depends_on": self._depends_on}, ensure_ascii=False) + "\n")
        self._file = self.path.open("a", encoding="utf-8")

    def answers(self, model: Side, ids: Mapping[int, str]) -> dict[int, Generated]:
        """The known answers of the requested rows: row number -> answer."""
        return {row: self._answers[model, row] for row in ids if (model, row) in self._answers}

    def add(self, model: Side, ids: Mapping[int, str], answers: Mapping[int, Generated]) -> None:
        """Append answers and wait until the disk has them."""
        for row, answer in answers.items():
            entry: Entry = {
                "model": model,
                "row": row,
                "id": ids[row],
                "prediction": answer.text,
                "token_ids": answer.token_ids,
                "finished": answer.finished,
            }
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._answers[model, row] = answer
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Leave the file as it is; a later run continues it."""
        self._file.close()

    def _take_over(self) -> bool:
        """Read the answers of an earlier run; False if it had other settings. A torn last line is dropped."""
        if not self.path.is_file():
            return False
        raw = self.path.read_bytes()
        lines = raw[: raw.rfind(b"\n") + 1].splitlines()  # without a torn last line
        try:
            before = parse_json(lines[0])["depends_on"]
            entries: list[Entry] = [parse_json(line) for line in lines[1:]]
            answers: dict[tuple[str, int], Generated] = {
                (entry["model"], entry["row"]): Generated(entry["prediction"], entry["token_ids"], entry["finished"])
                for entry in entries
            }
        except (IndexError, KeyError, TypeError, ValueError):
            say(f"{self.path.name}: damaged, so the answers are generated anew")
            return False
        names = dict.fromkeys((*before, *self._depends_on))
        if differing := [name for name in names if before.get(name) != self._depends_on.get(name)]:
            say(f"{self.path.name}: of another evaluation (differing: {', '.join(differing)}), so it starts anew")
            return False
        self._answers = answers
        os.truncate(self.path, raw.rfind(b"\n") + 1)
        if entries:
            say(f"{self.path.name}: resumes after the {len(entries):,} answers that exist")
        return True


def hash_of(value: object) -> str:
    """A short hash of anything JSON can hold: "sha256 3f9a0c41d2b8e675"."""
    return f"sha256 {hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]}"
