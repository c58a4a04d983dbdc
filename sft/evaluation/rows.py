"""The rows of an evaluation: held out from the run's training, as the token ids training would have seen.

Reads the run's test split or a new file; gives EvalRow's, the context that asks more rows in just the same way, and
the slices of figures (source, length and language of a row).
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from prompts import ChatFormat, Encoded, Head, Tool, conversation_of
from prompts.head import answers_of
from prompts.messages import DOCUMENT
from prompts.tasks import Task, get_task
from sft.config.evaluate import EvaluateSettings, Turns
from sft.config.train import TrainSettings
from sft.console import say
from sft.data import Dataset, Reading, Row, open_dataset, open_dataset_of
from sft.data.dataset import SPLIT_RULE, find_parts, reading_of, splits_as_before
from sft.data.folder import recover_folder
from sft.data.named_files import hash_files, names_files
from sft.data.quotas import largest_remainder
from sft.data.rows.canonical import Turn, question_of
from sft.data.sources.registry import known_names
from sft.encoding import encode_rows
from sft.errors import ConfigError, DataError, UserError
from sft.models.loaded import LoadedModel
from sft.runs.run import Run, open_run
from sft.text import detect_language

LENGTH_EDGES = (64, 128, 256, 512, 1024, 2048, 4096)  # tokens of the whole row


@dataclass(frozen=True)
class Selection:
    """Rows of one split before they are encoded; `available` counts what there was to choose from.

    training: the rows the run was trained on, to look for leaks in and to fit yardsticks on.
    why_untrained: why they cannot be read.
    """

    rows: list[Row]
    split: str
    path: Path
    sha256: str
    available: int
    seed: int
    training: list[Row] = field(default_factory=list)
    why_untrained: str = ""


@dataclass(frozen=True)
class EvalRow:
    """One row ready to be scored and answered.

    encoded: what its loss is measured on, more than one piece where a think policy supervises only last answers.
    prompt_ids: the prompt of generation; equal to the tokens before the answer in training.
    labels: the answers the row allows, () if it is free text; beside a classification head those it knows.
    turn: number of the answer in its conversation, from 1, if each answer is a row of the evaluation; else None.
    history: (role, content) of the turns between the answer before it, or the start, and the question.
    """

    row: Row
    task: Task
    question: str  # the last user turn before the answer
    reference: str
    encoded: tuple[Encoded, ...]
    prompt_ids: list[int]
    labels: tuple[str, ...]
    turn: int | None = None
    history: tuple[tuple[str, str], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the labels, in their order: ("负面", "正面")."""
        return self.task.classes_of(self.labels, self.row)

    @property
    def tools(self) -> Sequence[Tool]:
        """The functions that the row offers."""
        return self.row.get("tools", ())

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of the answer as training has it, its thought, calls and end among them."""
        return sum(self.encoded[-1].loss_mask[len(self.encoded[-1].prompt_ids) :])

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole row before anything was cut."""
        if self.is_document:  # a window starts with the last token of the one before it
            return sum(len(window.input_ids) for window in self.encoded) - len(self.encoded) + 1
        return len(self.encoded[-1].input_ids) + self.encoded[-1].num_cut

    @property
    def is_document(self) -> bool:
        """Whether it is learned whole, so that it has a loss but no question and no answer."""
        return self.task.kind == "document"

    @property
    def num_cut(self) -> int:
        """Tokens of its documents that did not fit."""
        return self.encoded[-1].num_cut


@dataclass(frozen=True)
class EvalRows:
    """All rows of an evaluation; too_long: id -> reason for rows that do not fit."""

    rows: list[EvalRow]
    too_long: dict[str, str]

    @property
    def last_turns(self) -> list[EvalRow]:
        """One for each row of the data, that of its last answer: the whole conversation is in it."""
        return list({str(row.row["id"]): row for row in self.rows}.values())


def select_rows(run: Run, settings: EvaluateSettings) -> Selection:
    """Rows of the requested split, from the run's data (or --data), as it was split in training.

    All rows of a file that the run has not seen are evaluated, unless --eval_ratio is given. Raises DataError if the
    run's data changed since, and ConfigError for settings that would test on training rows.
    """
    trained = run.train_settings()
    if settings.data is None and "path" not in run.data:
        raise DataError(
            f"it is unknown which rows {run.path.name} was trained on; name the rows to score: --data rows.jsonl"
        )
    path = Path(settings.data or str(run.data["path"]))
    if settings.data is None:
        _check_there(path, "; run this in the folder where it was trained, or name the rows with --data")
    seed = trained.split_seed if settings.seed is None else settings.seed
    if settings.data is not None and names_files(path) and not _is_own(path, run):
        rows, split, sha256 = _read_new_file(path, settings, seed, run)
        training = None
    elif given := [f"--{name}" for name in ("columns", "label_map", "encoding") if getattr(settings, name)]:
        raise ConfigError(f"{', '.join(given)}: for a file of other rows, named by --data; leave it out")
    else:
        rows, split, sha256, training = _read_split(path, run, settings, seed)
    why_untrained = ""
    if run.is_adopted:
        why_untrained = "it is unknown which rows these weights were trained on"
        say(f"{why_untrained}: leaks cannot be looked for")
    elif training is None and settings.leak_check:
        training = _read_training_rows(run, ", so leaks cannot be looked for; restore it, or pass --no-leak_check")
    elif training is None and settings.yardsticks is not False and any(_has_form(row) for row in rows):
        try:
            training = _read_training_rows(run)
        except DataError as error:
            why_untrained = str(error)
    if settings.leak_check:
        training = [*(training or []), *_read_earlier_rows(run)]
    chosen = rows if settings.num_samples is None else sample_by_task(rows, settings.num_samples, seed)
    return Selection(chosen, split, path, sha256, len(rows), seed, training or [], why_untrained)


def _has_form(row: Row) -> bool:
    return get_task(row["task"]).has_form


def _read_new_file(path: Path, settings: EvaluateSettings, seed: int, run: Run) -> tuple[list[Row], str, str]:
    if settings.split is not None:
        raise ConfigError(f"--split {settings.split}: {path} is a single file that has no splits; leave --split out")
    trained = run.train_settings()
    own = {"columns": (*trained.columns, *settings.columns), "label_map": (*trained.label_map, *settings.label_map)}
    trained = trained.model_copy(update={**own, "encoding": settings.encoding})
    dataset = open_dataset(
        path,
        eval_ratio=settings.eval_ratio or 0.0,
        seed=seed,
        on_bad_row=settings.on_bad_row or trained.on_bad_row,
        reading=reading_of(trained)
        if trained.task or trained.labels or trained.label_map
        else _reading_of_own(run, trained),
    )
    if settings.eval_ratio is None:
        return dataset.train, "whole", dataset.sha256
    return dataset.validation, "validation", dataset.sha256


def _read_split(
    path: Path, run: Run, settings: EvaluateSettings, seed: int
) -> tuple[list[Row], str, str, list[Row] | None]:
    """Rows, name of the split, hash of the data, and the training rows if the run was trained on this data."""
    trained = run.train_settings()
    ratio = trained.eval_ratio if settings.eval_ratio is None else settings.eval_ratio
    if names_files(path) and (ratio, seed) != (trained.eval_ratio, trained.split_seed):
        raise ConfigError(
            f"--eval_ratio {ratio} --seed {seed}: the run split {path} by {trained.eval_ratio} and "
            f"{trained.split_seed}, another split would contain rows it was trained on; leave both out, or name other "
            "rows with --data"
        )
    on_bad_row = settings.on_bad_row or trained.on_bad_row  # the same rows as training saw, or ids and split differ
    dataset = _open_like(path, trained, eval_ratio=ratio, seed=seed, on_bad_row=on_bad_row)
    if settings.data is None and dataset.sha256 != run.data.get("sha256"):
        raise DataError(
            f"{path} changed since the run was trained (sha256 {dataset.sha256[:12]}, then "
            f"{str(run.data['sha256'])[:12]}); restore it, or give the rows to use with --data"
        )
    if dataset.sha256 == run.data.get("sha256"):
        _check_split_rule(path, run, dataset)
    split = settings.split or ("test" if dataset.test else "validation")
    rows = dataset.test if split == "test" else dataset.validation
    if not rows:
        raise DataError(f"{path}: the {split} split has no rows; choose the other one with --split, or --data")
    return rows, split, dataset.sha256, dataset.train if dataset.sha256 == run.data.get("sha256") else None


def _read_training_rows(run: Run, advice: str = "") -> list[Row]:
    """The data that the run was trained on; raises DataError, ending in `advice`, if it is gone."""
    trained, path = run.train_settings(), Path(str(run.data["path"]))
    _check_there(path, advice)
    dataset = _open_like(path, trained)
    if dataset.sha256 != run.data["sha256"]:
        raise DataError(f"{path}: changed since the run was trained{advice}")
    _check_split_rule(path, run, dataset)
    return dataset.train


def _check_there(path: Path, advice: str) -> None:
    recover_folder(path)
    if not path.exists() and not names_files(path) and str(path) not in known_names():
        raise DataError(f"{path}: what the run was trained on is not found from here{advice}")


def _read_earlier_rows(run: Run) -> list[Row]:
    """What the adapters that a run continued from were trained on; where that is not known any more, it is said."""
    rows: list[Row] = []
    for stage in run.lineage:
        try:
            if stage["run"] is None:
                raise DataError("it was made elsewhere")
            rows += _read_training_rows(open_run(str(stage["run"])))
        except UserError as error:
            say(f"leaks from what {stage['adapter']} was trained on cannot be looked for: {error}")
    return rows


def _check_split_rule(path: Path, run: Run, dataset: Dataset) -> None:
    """Raises DataError if a run split its file by an older rule that gives other sides: trained rows would be told
    as held out."""
    by_older_rule = dataset.split != "as built" and run.data.get("split_rule", 1) != SPLIT_RULE
    if by_older_rule and not splits_as_before([*dataset.train, *dataset.validation]):
        raise DataError(
            f"{path}: an older version split its conversations for this run, and today's split contains rows it was "
            "trained on; evaluate on other rows with --data and --no-leak_check, or train again"
        )


def _is_own(path: Path, run: Run) -> bool:
    """Whether files are those the run was trained on: by themselves, or with the splits that were given beside them."""
    trained = run.train_settings()
    given = find_parts(path, None, None), find_parts(path, trained.validation_data, trained.test_data)
    return run.data.get("sha256") in {hash_files(parts) for parts in given}


def _open_like(path: Path, trained: TrainSettings, **how: object) -> Dataset:
    """Data read as the run read its own; of files the splits that were given beside them belong to it, too."""
    if names_files(path):
        return open_dataset_of(trained.model_copy(update={"data": str(path)}), **how)  # type: ignore[arg-type]
    own = {"eval_ratio": trained.eval_ratio, "seed": trained.split_seed, "on_bad_row": trained.on_bad_row}
    return open_dataset(path, **own | how, max_samples=trained.max_samples)  # type: ignore[arg-type]


def _reading_of_own(run: Run, trained: TrainSettings) -> Reading:
    """The run's reading where no flag named its task: it may know it from a file that declared its classes."""
    reading = reading_of(trained)
    if len(run.described_tasks) != 1:
        return reading
    (task,) = run.described_tasks
    return replace(reading, task=str(task["name"]), definition=task)  # type: ignore[arg-type]


def sample_by_task(rows: Sequence[Row], num_samples: int, seed: int) -> list[Row]:
    """At most num_samples rows in their order, each task by its share of all rows; a pure function of the seed."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["task"]].append(place)
    quotas = largest_remainder(min(num_samples, len(rows)), [len(group) for group in places.values()])
    rng = random.Random(seed)
    chosen = [place for group, quota in zip(places.values(), quotas, strict=True) for place in rng.sample(group, quota)]
    return [rows[place] for place in sorted(chosen)]


def prepare_rows(
    rows: Sequence[Row],
    chat: ChatFormat,
    system_prompt: str | None,
    trained: TrainSettings,
    max_length: int,
    head: Head | None = None,
    *,
    turns: Turns = "last",
) -> EvalRows:
    """Rows encoded as training encodes them, so that their loss is that of the training's own validation.

    turns: "all" makes a row of each answer of a conversation, after the turns before it as the data has them; "last"
    generates only the last answer, and computes the loss of everything that training supervises.
    head: where classes are chosen and nothing is written, whose classes; a row is its prompt alone then.
    A row that does not fit however its document is shortened is left out and named in too_long, a conversation as a
    whole. Raises DataError if none fits.
    """
    parts = [_Part(row, row) for row in rows]
    if turns == "all":
        parts = [part for row in rows for part in _split_turns(row)]
    supervise = trained.supervise if turns == "last" else "last"
    rules = trained.rules._replace(max_length=max_length, supervise=supervise)
    encoded = encode_rows([part.ends_here for part in parts], chat, system_prompt, rules, head)
    examples: dict[int, list[Encoded]] = defaultdict(list)
    for source, example in zip(encoded.rows, encoded.encoded, strict=True):
        examples[id(source)].append(example)  # the object itself: turns of a conversation share the row's name
    kept = [part for part in parts if part.row["id"] not in encoded.dropped]
    if not kept:
        raise DataError(f"none of the {len(rows)} rows fits {max_length} tokens; raise --max_seq_length")
    return EvalRows(
        [_prepare_part(part, tuple(examples[id(part.ends_here)]), system_prompt, head) for part in kept],
        encoded.dropped,
    )


class _Part(NamedTuple):
    """The context of one answer: a row unchanged, or a conversation up to one of its answers."""

    row: Row
    ends_here: Row
    turn: int | None = None
    start: int = 0  # index of its first message that no part before it has


def _split_turns(row: Row) -> list[_Part]:
    """A part for each answer that follows a question and is to be learned; of a row with one the row itself."""
    messages = row.get("messages", [])
    ends = [
        end
        for end, turn in enumerate(messages, start=1)
        if turn["role"] == "assistant" and turn.get("supervised", True)
        if any(before["role"] == "user" for before in messages[:end])
    ]
    if len(ends) < 2:
        return [_Part(row, row)]
    starts = [0, *ends]
    return [
        _Part(row, {**row, "messages": messages[:end]}, number, start)
        for number, (start, end) in enumerate(zip(starts, ends, strict=False), start=1)
    ]


def _prepare_part(part: _Part, encoded: tuple[Encoded, ...], system_prompt: str | None, head: Head | None) -> EvalRow:
    row = part.ends_here
    task = get_task(row["task"])
    asked = conversation_of(row, system_prompt, with_answer=False)
    return EvalRow(
        row=part.row,
        task=task,
        question=next(turn["content"] for turn in reversed(asked) if turn["role"] in ("user", DOCUMENT)),
        reference=task.answer_of(row),
        encoded=encoded,
        prompt_ids=encoded[-1].prompt_ids,
        labels=answers_of(task, row, head),
        turn=part.turn,
        history=_turns_before(row.get("messages", [])[part.start :]),
    )


def _turns_before(messages: Sequence[Turn]) -> tuple[tuple[str, str], ...]:
    """(role, content) of the turns before the last question, without system prompts."""
    asked = max((index for index, turn in enumerate(messages) if turn["role"] == "user"), default=0)
    return tuple((turn["role"], turn["content"]) for turn in messages[:asked] if turn["role"] != "system")


def count_by(rows: Sequence[EvalRow], field_name: str) -> dict[str, int]:
    """Rows per source or task: {"reviews": 150, "newspaper": 50}."""
    return dict(Counter(str(row.row[field_name]) for row in rows))  # type: ignore[literal-required]


def supervised_ids(encoded: Encoded) -> list[int]:
    """The ids that carry loss: the answers and their end tokens."""
    return [token for token, flag in zip(encoded.input_ids, encoded.loss_mask, strict=True) if flag]


@dataclass(frozen=True)
class Context:
    """How rows are encoded (as in training), and how many tokens a batch may hold; None: the device's usual."""

    system_prompt: str | None
    trained: TrainSettings
    max_length: int
    max_tokens: int | None = None

    def prepare(self, rows: Sequence[Row], loaded: LoadedModel) -> list[EvalRow]:
        """Rows with their prompts; those that do not fit are left out. Raises DataError if none fits."""
        prepared = prepare_rows(rows, loaded.chat, self.system_prompt, self.trained, self.max_length, loaded.head)
        return prepared.rows


def language_of_row(row: EvalRow) -> str:
    """Language of the row's question, "none" without letters; as in filters and strata of data sets.

    Neither the task's own prompt counts nor the answer, whose JSON would make English of a Chinese row.
    """
    return detect_language(question_of(row.row)) or "none"


def length_bucket(num_tokens: int) -> str:
    """The bucket a row's length falls into: 100 -> "65-128", 5000 -> "4097+"."""
    low = 1
    for edge in LENGTH_EDGES:
        if num_tokens <= edge:
            return f"{low}-{edge}"
        low = edge + 1
    return f"{low}+"


SLICES: dict[str, Callable[[EvalRow], str]] = {
    "source": lambda row: row.row["source"],
    "task": lambda row: row.task.name,
    "length": lambda row: length_bucket(row.num_tokens),
    "language": language_of_row,
}


def places_in_slices(rows: Sequence[EvalRow]) -> dict[str, dict[str, list[int]]]:
    """Row numbers by kind of slice and slice: {"language": {"zh": [0, 2], "latin": [1]}, ...}; lengths in order."""
    found: dict[str, dict[str, list[int]]] = {kind: {} for kind in SLICES}
    for place, row in enumerate(rows):
        for kind, name_of in SLICES.items():
            found[kind].setdefault(name_of(row), []).append(place)
    found["length"] = dict(sorted(found["length"].items(), key=lambda item: int(item[0].rstrip("+").split("-")[0])))
    return found
