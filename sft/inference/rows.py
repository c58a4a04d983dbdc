"""The rows of a file that is to be answered. Pure: a file that is wrong is found so before a model is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from prompts import PromptError
from prompts.tasks import Row, Task, task_names
from sft.data.records import BadRecord, read_records
from sft.errors import DataError
from sft.inference.questions import row_of_record


@dataclass(frozen=True)
class FileRow:
    """One row of the input: where it stands, and either what it asks or why it cannot be asked."""

    line: int
    id: str | None
    row: Row | None
    problem: str | None = None


def read_rows(
    path: Path,
    task: Task,
    *,
    keep_bad: bool,
    columns: Mapping[str, str] = MappingProxyType({}),
    encoding: str | None = None,
) -> list[FileRow]:
    """The rows of a file; columns: what the run's own file called its fields, {"text": "评论"}.

    Raises DataError for a file that cannot be read; unless keep_bad, for the first bad row.
    """
    rows = []
    for record in read_records(path, encoding):
        row, name, problem = None, None, record.message if isinstance(record, BadRecord) else None
        if not isinstance(record, BadRecord):
            given = record.fields.get("id")
            name = str(given) if isinstance(given, str | int) else None
            named = {field: record.fields[column] for field, column in columns.items() if column in record.fields}
            if record.fields.get("task") not in task_names():  # a column like others
                named["task"] = None
            try:
                row = row_of_record(record.fields | named, task)
            except PromptError as error:
                problem = str(error)
        if problem is not None and not keep_bad:
            raise DataError(f"{path}:{record.line}: {problem}; or pass --on_bad_row quarantine")
        rows.append(FileRow(record.line, name, row, problem))
    if not rows:
        raise DataError(f"{path}: no rows in this file; give one with a row a line")
    return rows
