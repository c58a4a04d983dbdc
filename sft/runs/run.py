"""Run folders: written by train.py, read by every other script.

outputs/<run>/run.json      status, settings with their origin, prompt fingerprint, data, base, versions, metrics
outputs/<run>/adapter/      the tuned weights with the tokenizer inside; model/ for methods freeze and full
outputs/<run>/checkpoints/  log.jsonl  loss.png  evaluation/
outputs/latest              points at the newest finished run, wherever that is
"""

import fcntl
import itertools
import json
import math
import os
import shlex
import subprocess
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from glob import escape
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from prompts import Fingerprint, PromptError
from sft.config.layers import restore_settings
from sft.config.train import TrainSettings
from sft.console import say
from sft.data.rows.reading import restore_tasks
from sft.errors import RunError
from sft.files import NotWritableError, parse_json

OUTPUTS = Path("outputs")
LATEST = "latest"
RUN_FILE = "run.json"
COMPLETE = "complete"
TRAINING = "training"
OF_ONE_CALL = (
    *("output_dir", "json_output", "resume_from_checkpoint", "allow_mismatch", "dry_run", "use_qlora"),
    "trust_remote_code",  # a run may come from anybody, so its code runs only if this call trusts it
)
IN_MEMORY = ("weights", "base_now", "has_base")  # fields that are not in run.json
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth", "tokenizers")


class HeadFacts(TypedDict):
    """A run's classification head: {"kind": "classification", "pooling": "last", "id2label": {"0": "负面"}, ...}."""

    kind: str
    pooling: str
    dropout: float
    id2label: dict[str, str]
    label2id: dict[str, int]


@dataclass
class Run:
    """One fine-tuning run, as run.json holds it. `path` is the folder and is not written down."""

    path: Path
    status: str
    settings: dict[str, object]
    origins: dict[str, str]
    base: dict[str, str]  # name, revision or weights hash: the identity of the untuned model
    system_prompt: str | None
    fingerprint: Fingerprint
    data: dict[str, object]  # path, sha256, split, rows kept and dropped
    adapter: str | None = None  # hash of the tuned weights, adapter or model, once they are written
    files: dict[str, str] | None = None  # checksums of all their bytes and of the configuration beside them
    backend: str = "transformers"
    head: HeadFacts | None = None  # of a run that classifies instead of writing
    quantisation: str | None = None  # "nf4": trained on a base in 4 bits; to merge, load the base in 16 bits
    processes: int = 1
    hardware: str = ""  # "NVIDIA H200", "AMD EPYC 9B14, 2 cores"
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    described_tasks: list[dict[str, object]] = field(default_factory=list)  # those of `tasks` that are no Python file
    versions: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    metrics: dict[str, object] = field(default_factory=dict)
    lineage: list[dict[str, object]] = field(default_factory=list)  # adapters it continued from, the first one first
    # Not written down:
    weights: Path | None = None  # folder of tuned weights without a run.json (sft.models.adopted)
    base_now: str | None = None  # where the base is now, if not where training found it (--base)
    has_base: bool = True  # whether anybody knows what it was tuned from; not of a whole model that came alone

    @property
    def is_adopted(self) -> bool:
        """Whether it was made up for weights that came without a run.json: its data is not known."""
        return self.weights is not None

    @property
    def tasks(self) -> list[str]:
        """Tasks of the rows it was trained on: ["instruct", "sentiment"]."""
        return [str(task) for task in self.data["tasks"]]  # type: ignore[attr-defined]

    @property
    def is_classifier(self) -> bool:
        """Whether it classifies and cannot write."""
        return self.head is not None

    @property
    def learned_documents(self) -> bool:
        """Whether it learned only whole documents, so that it continues a text and answers nothing."""
        return self.tasks == ["text"]

    def check_writes(self, what: str) -> None:
        """Raises RunError if the run cannot write, so that `what` (chat.py, --gguf) can do nothing with it."""
        if self.is_classifier:
            raise RunError(
                f"{what}: {self.path.name} has a classification head, which says labels and writes nothing; "
                "ask it with inference.py or serve.py"
            )

    @property
    def weights_dir(self) -> Path:
        """The tuned weights and their tokenizer: adapter/, or model/ where the weights themselves were trained."""
        own = self.path / ("model" if self.settings.get("method") in ("freeze", "full") else "adapter")
        return self.weights or own

    @property
    def adapter_dir(self) -> Path:
        """Folder of the adapter; runs of method freeze or full have none (weights_dir works for all)."""
        return self.weights or self.path / "adapter"

    @property
    def checkpoints_dir(self) -> Path:
        """What --resume_from_checkpoint reads."""
        return self.path / "checkpoints"

    @property
    def evaluation_dir(self) -> Path:
        """What evaluate.py writes: metrics.json, predictions.jsonl, report.html."""
        return self.path / "evaluation"

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimiser step sees, over all processes."""
        sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
        return math.prod(int(str(self.settings.get(name, 1))) for name in sizes) * self.processes

    def train_settings(self) -> TrainSettings:
        """The settings the run was trained with; raises ConfigError where this version cannot read them."""
        return restore_settings(TrainSettings, self.settings, str(self.path / RUN_FILE))

    def began_with(self) -> dict[str, object]:
        """The settings that a resumed run keeps unless overridden: all except those that concern a single call."""
        return {name: value for name, value in self.settings.items() if name not in OF_ONE_CALL}

    def save(self) -> None:
        """Write run.json whole or not at all."""
        content = asdict(self) | {"fingerprint": self.fingerprint.to_json()}
        for name in ("path", *IN_MEMORY):
            del content[name]
        write_atomically(self.path / RUN_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    def finish(self, metrics: dict[str, object]) -> None:
        """Mark the run complete, as the last thing written, and let outputs/latest point at it."""
        self.metrics, self.status = metrics, COMPLETE
        self.save()
        _point_latest_at(self.path.resolve())


def _point_latest_at(run_dir: Path) -> None:
    """Let outputs/latest name a run: by its name alone in outputs/, which can be moved; by its whole path elsewhere."""
    aside = OUTPUTS / f".{LATEST}-{uuid.uuid4().hex}"
    try:
        OUTPUTS.mkdir(exist_ok=True)
        aside.symlink_to(run_dir.name if run_dir.parent == OUTPUTS.resolve() else run_dir)
        aside.replace(OUTPUTS / LATEST)
    except OSError as error:  # the run is whole all the same
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        say(f"WARNING {OUTPUTS / LATEST} does not point at this run ({error.strerror}); name it: --run {run_dir}")


def make_run_dir(recipe: str | None) -> Path:
    """Make `outputs/20261122-153000-demo` for recipes/demo.yaml, or `...-demo-2` if that exists.

    Two commands in the same second get a folder each. Raises NotWritableError if none can be made.
    """
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{Path(recipe).stem if recipe else 'run'}"
    for number in itertools.count(1):
        folder = OUTPUTS / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.exists():
                continue
            raise NotWritableError(
                f"{OUTPUTS}: a file of this name is in the way; move it, or give --output_dir"
            ) from None
        except OSError as error:
            raise NotWritableError.of(OUTPUTS, error) from None
        return folder
    raise AssertionError("count(1) has no end")


def open_run(path: str | Path | None = None, *, or_else: str = "") -> Run:
    """The finished run in a folder (default: the newest, outputs/latest).

    Raises RunError if there is none, if it never finished, or if its run.json cannot be read; `or_else` says what
    else the user can do if there is none.
    """
    folder = Path(path) if path else OUTPUTS / LATEST
    run = read_run(folder, or_else=or_else)
    if run.status != COMPLETE:
        raise RunError(f"{folder}: this run has status {run.status!r}; continue it with `{continue_command(folder)}`")
    return run


def read_run(folder: Path, *, or_else: str = "") -> Run:
    """A run in any state, with its tasks added; raises RunError if there is none."""
    if not (folder / RUN_FILE).is_file():
        what = "no finished run yet" if folder == OUTPUTS / LATEST else f"no {RUN_FILE} in {folder}"
        raise RunError(f"{what}; run `python train.py` first, or name a run folder with --run{or_else}")
    try:
        content = parse_json((folder / RUN_FILE).read_text(encoding="utf-8"))
        fingerprint = Fingerprint.from_json(content.pop("fingerprint"))
        run = Run(path=folder.resolve(), fingerprint=fingerprint, **content)
        for name, kind in get_type_hints(Run).items():
            if name in content and not _is_of_type(content[name], kind):
                raise TypeError(f"{name} is {content[name]!r:.40}")
        if not isinstance(run.data.get("tasks"), list) or not isinstance(run.base.get("name"), str):
            raise TypeError("data has no list of tasks, or base no name")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{folder / RUN_FILE}: not a run of this version ({error}); train again") from None
    try:
        restore_tasks(run.described_tasks)
    except (PromptError, KeyError, TypeError) as error:
        raise RunError(f"{folder / RUN_FILE}: a task of the run cannot be used: {error}") from None
    return run


def _is_of_type(value: object, kind: object) -> bool:
    """Whether a value of a JSON file has the type of a field of Run: 7 is no `str | None`, [1] no `dict[str, str]`."""
    for choice in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        base = dict if is_typeddict(choice) else get_origin(choice) or choice
        of_texts = get_args(choice) == (str, str)
        if type(value) is base and not (of_texts and not all(isinstance(text, str) for text in value.values())):
            return True
    return False


def continue_command(folder: Path) -> str:
    """The command that resumes a run with the settings it started with."""
    return f"python train.py --output_dir {shlex.quote(str(folder))} --resume_from_checkpoint auto"


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file so that a reader, or a crash, finds the old content or the new, never half of it.

    mode: permissions before the umask; 0o600 for private files.
    """
    _remove_left_over(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            _lock(file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove leftovers of killed writes of this file; one that is being written is locked and stays."""
    for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}"):
        with suppress(OSError), left.open("rb") as file:
            if _lock(file.fileno()):
                left.unlink()


def _lock(descriptor: int) -> bool:
    """Lock a file; False if another process holds it, or the file system does not support locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def package_versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on: {"torch": "2.13.0", ...}."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str | None:
    """Commit of the scripts, with `+changes` where the tree differs from it; None outside a checkout."""
    try:
        options = {"capture_output": True, "text": True, "check": True, "cwd": Path(__file__).parents[1]}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
