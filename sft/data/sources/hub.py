"""A data set of the Hugging Face hub, streamed at one commit: configurations and splits in turn, or the files named.

    kind: hub
    id: qiaojin/PubMedQA
    revision: main     # a commit of 40 digits pins it; a branch is resolved once and recorded
    config: [pqa_labeled, pqa_artificial]
    hub_split: train
    columns: {output: long_answer}

A row is named after the data set, configuration and split as far as they are given, and its number from 1:
`qiaojin/PubMedQA/pqa_labeled/train:17`. Below the source stand the stream of one part, then the explanations of
failures:

    commit = find_commit("qiaojin/PubMedQA", None)                       # 40 hex digits; what `main` is now
    part = HubPart("qiaojin/PubMedQA", commit.sha, config="pqa_labeled", split="train")
    for number, record in stream_records(part): ...                      # 1, {"pubid": 21645374, "question": ...}

Retries of the clients themselves (up to six per request, waiting 1 to 8 seconds) are reported in a line each. A
connection that still fails is opened again at the last batch of rows, so no row is lost or read twice. Every
failure is one line that says what to do; neither a token nor an address with its query (signed addresses open files)
is in it.
"""

import csv
import fnmatch
import functools
import itertools
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from sft.console import say
from sft.data.files.tables import make_restorer
from sft.data.rows.canonical import GoodRecord, Record
from sft.data.rows.recognised import Recognised
from sft.data.sources.base import BadRow, Chunk, FoundRow, MappedSource, Origin, RecordsChunk, cut
from sft.errors import TRANSIENT_STATUS, DataError, nearest_name, one_line

if TYPE_CHECKING:
    from datasets import IterableDataset

BATCH_ROWS = 256  # rows in memory, and read again after a break
WAITS_S = (2.0, 5.0, 10.0)  # before a broken stream is opened again; counted anew after every batch that arrives
OPENING_WAITS_S = (0.5, 1.0, 2.0)  # nobody should wait long to hear that there is no network
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
PACKED = (".gz", ".zst", ".xz", ".bz2")
TRANSIENT_NAMES = (  # by name: httpx, requests and aiohttp are not imported to be compared with
    "TransportError", "ConnectionError", "TimeoutError", "FSTimeoutError", "IncompleteRead", "ClientError",
    "ServerDisconnectedError", "LocalEntryNotFoundError", "OfflineModeIsEnabled",
)  # fmt: skip
ADDRESS = re.compile(r"\w+://\S+")


class Commit(NamedTuple):
    """A commit of a repository and the names of its files."""

    sha: str
    files: tuple[str, ...]


class HubPart(NamedTuple):
    """The part of a repository that is read: one configuration's split, or the named files."""

    name: str
    commit: Commit
    config: str | None = None
    split: str | None = None  # train, or the only one there is
    files: tuple[str, ...] = ()


class HubDataset(MappedSource):
    """`kind: hub`, `id: Open-Orca/SlimOrca`, and what of it is read. The token is HF_TOKEN, never a key here."""

    is_remote: ClassVar[bool] = True

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = None  # a commit, branch or tag; default main
    config: tuple[str, ...] = ()  # read one after the other
    hub_split: tuple[str, ...] = ()  # likewise; default train, or the only one there is
    files: tuple[str, ...] = ()  # instead of config and split: names in the repository, * allowed
    limit: int | None = Field(default=None, ge=1)  # of each of them only the first this many rows

    @field_validator("config", "hub_split", "files", mode="before")
    @classmethod
    def _accept_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def read(self) -> Iterator[FoundRow | BadRow]:
        """The rows in the order of the data set; says afterwards which forms were recognised."""
        recognised: dict[str, Recognised] = {}
        for chunk in self.chunks():
            yield from chunk.read(recognised)
        for shown_as, found in recognised.items():
            say(found.describe(shown_as))

    def chunks(self) -> Iterator[Chunk]:
        """Records a batch at a time: their columns are mapped by the process that filters them."""
        commit = find_commit(self.id, self.revision)
        if commit.sha != self.revision:
            say(f"{self.id}: {self.revision or 'main'} is revision {commit.sha} now; name it in the preset to keep it")
        mapping, reading = self.mapping(), self.reading()
        for config, split in itertools.product(self.config or (None,), self.hub_split or (None,)):
            part = HubPart(self.id, commit, config, split, self.files)
            shown_as = "/".join([self.id, *(name for name in (config, split) if name)])
            found = itertools.starmap(GoodRecord, itertools.islice(stream_records(part), self.limit))
            for records in cut(found):
                yield RecordsChunk(shown_as, reading, records, mapping)

    def check(self) -> None:
        """The repository has to be there and open to this user."""
        find_commit(self.id, self.revision)

    def origin(self) -> Origin:
        """The repository and the commit that was read, which fixes every file."""
        return Origin(self.id, find_commit(self.id, self.revision).sha, {})


def find_commit(name: str, revision: str | None) -> Commit:
    """The commit that a revision (a branch, tag or commit; default `main`) means now. Raises DataError in one line.

    Looked up once per process, so that a whole build reads one commit whatever is pushed meanwhile.
    """
    from huggingface_hub import constants

    return _find_commit(constants.ENDPOINT, name, revision)


@functools.lru_cache
def _find_commit(endpoint: str, name: str, revision: str | None) -> Commit:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    waits = list(OPENING_WAITS_S)
    while True:
        try:
            info = HfApi(endpoint=endpoint).dataset_info(name, revision=revision, timeout=10)
            return Commit(str(info.sha), tuple(file.rfilename for file in info.siblings or ()))
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
            failed: BaseException = error
        except Exception as error:
            if not is_transient(error):  # httpx's errors share no ancestor with the others
                raise
            failed = error
        if not is_transient(failed) or not waits:
            page = f"{endpoint}/datasets/{name}"
            tries = len(OPENING_WAITS_S) - len(waits) + 1
            raise explain_repository(failed, name, revision or "main", page, tries) from None
        time.sleep(waits.pop(0))


def stream_records(part: HubPart) -> Iterator[tuple[int, Record]]:
    """Every row with its number, from 1. Raises DataError if it cannot be opened or the hub falls silent."""
    with _tell_retries(part.name):
        stream = _open_stream(part)
        declared = getattr(stream.features, "arrow_schema", None)
        state, number, tries = stream.state_dict(), 0, 0
        while True:
            try:
                for batch in stream.iter(batch_size=BATCH_ROWS):
                    as_meant = make_restorer(declared or batch.schema)
                    for record in batch.to_pylist():
                        number += 1
                        yield number, as_meant(record)
                    state, tries = stream.state_dict(), 0
                return
            except GeneratorExit:
                raise
            except Exception as error:
                if is_unlike(error) and len(names := _files_of(part)) > 1:
                    break
                if not is_transient(error):
                    raise _explain(error, part) from None
                failed = error
            if tries == len(WAITS_S):
                raise explain_silence(failed, part.name, number, tries + 1) from None
            say(f"{part.name}: {name_trouble(failed)} after {number:,} rows; retrying in {WAITS_S[tries]:g} s")
            time.sleep(WAITS_S[tries])
            tries += 1
            stream.load_state_dict(state)
    say(f"{part.name}: its files have unlike columns; each is read with its own")
    apart = itertools.chain.from_iterable(stream_records(part._replace(files=(name,))) for name in names)
    yield from enumerate((record for _, record in itertools.islice(apart, number, None)), start=number + 1)


def _files_of(part: HubPart) -> list[str]:
    """The files that a part is read from, in their order."""
    return _match_files(part) if part.files else _data_files_of(part)[1]


def _data_files_of(part: HubPart) -> tuple[str, list[str]]:
    """What reads a configuration's split ("csv") and the names of its files, as the client resolves them."""
    import datasets

    builder = datasets.load_dataset_builder(part.name, part.config, revision=part.commit.sha)
    files = builder.config.data_files or {}
    chosen = files[_choose_split(part, [str(split) for split in files])]
    return builder.dataset_name or "", [str(url).partition(f"@{part.commit.sha}/")[2] for url in chosen]


def _open_stream(part: HubPart) -> "IterableDataset":
    """The stream, as Arrow tables: rows are made of them a batch at a time, and its state is known between batches."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.STREAMING_READ_MAX_RETRIES = 1  # its own are silent and take 20 x 20 s; ours follow
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    waits = list(OPENING_WAITS_S)
    while True:
        try:
            if part.files:
                return _open_files(part).with_format("arrow")
            if _is_csv(part.commit):
                return _open_files(part._replace(files=tuple(_data_files_of(part)[1]))).with_format("arrow")
            splits = datasets.load_dataset(part.name, part.config, revision=part.commit.sha, streaming=True)
            return splits[_choose_split(part, list(splits))].with_format("arrow")
        except DataError:
            raise
        except Exception as error:
            if not is_transient(error):
                raise _explain(error, part) from None
            failed = error
        if not waits:
            raise explain_silence(failed, part.name, 0, len(OPENING_WAITS_S) + 1) from None
        time.sleep(waits.pop(0))


def _choose_split(part: HubPart, there: list[str]) -> str:
    wanted = part.split or ("train" if "train" in there or len(there) > 1 else there[0])
    if wanted not in there:
        raise DataError(f"{part.name}: no split {wanted!r}{nearest_name(wanted, there)} (it has: {', '.join(there)})")
    return wanted


def _open_files(part: HubPart) -> "IterableDataset":
    import datasets

    names = _match_files(part)
    kinds = {_suffix_of(name) for name in names}
    builders = {BUILDERS.get(kind, "") for kind in kinds}
    if len(builders) > 1 or "" in builders:
        raise DataError(f"{part.name}: files of kind {', '.join(sorted(kinds))}; give one of: {', '.join(BUILDERS)}")
    urls = [f"hf://datasets/{part.name}@{part.commit.sha}/{name}" for name in names]
    options = _keep_cells_as_text(urls[0], "\t" if kinds == {".tsv"} else ",") if builders == {"csv"} else {}
    return datasets.load_dataset(builders.pop(), data_files=urls, split="train", streaming=True, **options)


def _match_files(part: HubPart) -> list[str]:
    """The files named, in the order of their names within each pattern; `*` also spans folders."""
    names: list[str] = []
    for pattern in part.files:
        data_files = [name for name in part.commit.files if name == pattern or _suffix_of(name) in BUILDERS]
        found = sorted(name for name in data_files if fnmatch.fnmatchcase(name, pattern))
        if not found:
            there = ", ".join(_data_files(part.commit)[:6]) or "no data files"
            raise DataError(f"{part.name}: no file {pattern!r} at this revision (it has: {there})")
        names += [name for name in found if name not in names]
    return names


def _keep_cells_as_text(url: str, delimiter: str) -> dict[str, object]:
    """Options that keep CSV cells what they are, "001" and "NA" too; the client wants each column named for that."""
    import datasets
    from huggingface_hub import HfFileSystem

    with HfFileSystem(endpoint=datasets.config.HF_ENDPOINT).open(url, encoding="utf-8-sig", mode="r") as file:
        line = file.readline()
    header = next(csv.reader([line], delimiter=delimiter), [])
    if len(header) == 1 and (other := max(";\t|,", key=line.count)) in line:
        delimiter, header = other, next(csv.reader([line], delimiter=other))
    features = datasets.Features({column: datasets.Value("string") for column in header})
    return {"features": features, "keep_default_na": False, "sep": delimiter}


def _is_csv(commit: Commit) -> bool:
    """Whether all the data of a repository is CSV, of whose cells the client would guess numbers and blanks."""
    files = _data_files(commit)
    return bool(files) and all(_suffix_of(name) in (".csv", ".tsv") for name in files)


def _explain(error: Exception, part: HubPart) -> DataError:
    return explain_content(error, part.name, part.config or "default", _data_files(part.commit))


def _data_files(commit: Commit) -> list[str]:
    return [name for name in commit.files if _suffix_of(name) in BUILDERS]


def _suffix_of(name: str) -> str:
    """The kind of a file, packed or not: ".jsonl" of data/train.jsonl.gz."""
    for packing in PACKED:
        name = name.removesuffix(packing)
    return name[name.rfind(".") :].lower() if "." in name else ""


class _Teller(logging.Handler):
    """Turns the client's two warnings per retry into one line without the address."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._name = name
        self._trouble = "no answer"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error and report it when the wait starts."""
        text = record.getMessage()
        if text.startswith("Retrying in"):
            say(f"{self._name}: {self._trouble}; {text[0].lower()}{text[1:]}")
        elif " thrown while requesting" in text:
            self._trouble = text.partition(" thrown while requesting")[0].strip("'\"") or "no answer"


@contextmanager
def _tell_retries(name: str) -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub.utils._http")
    quiet = [logging.getLogger(other) for other in ("datasets", "huggingface_hub.repocard", "fsspec")]
    levels = [other.level for other in quiet]
    teller, propagate = _Teller(name), logger.propagate
    logger.addHandler(teller)
    logger.propagate = False
    for other in quiet:
        other.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.propagate = propagate
        for other, level in zip(quiet, levels, strict=True):
            other.setLevel(level)


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: a broken connection, a time-out, a server that is busy."""
    if any("OfflineModeIsEnabled" in _names_of(cause) for cause in _chain(error)):
        return False
    if status := find_status(error):
        return status in TRANSIENT_STATUS
    return any(name in TRANSIENT_NAMES for cause in _chain(error) for name in _names_of(cause))


def is_unlike(error: BaseException) -> bool:
    """Whether a file of a data set has other columns, or columns of another type, than the file before it."""
    return any(
        name in ("CastError", "DatasetGenerationCastError") for cause in _chain(error) for name in _names_of(cause)
    )


def name_trouble(error: BaseException) -> str:
    """A transient error in few words: "status 503", "ConnectError: Connection refused"."""
    if status := find_status(error):
        return f"status {status}"
    last = next((cause for cause in _chain(error) if _names_of(cause)[0] != "ConnectionError"), error)
    text = ADDRESS.sub("the hub", one_line(last))[:80]
    return f"{type(last).__name__}: {text}" if text else type(last).__name__


def find_status(error: BaseException) -> int | None:
    """The HTTP status after an error, if there is one."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def explain_repository(error: BaseException, name: str, revision: str, page: str, tries: int) -> DataError:
    """The line for a repository that cannot be opened: unknown, gated, no such revision, wrong token, no network."""
    names = {kind for cause in _chain(error) for kind in _names_of(cause)}
    if "OfflineModeIsEnabled" in names:
        return DataError(
            f"{name}: HF_HUB_OFFLINE is set, so the hub is not contacted; unset it, or give a file instead"
        )
    if "GatedRepoError" in names:
        return DataError(f"{name}: the hub asks for consent first; accept its terms at {page} and set HF_TOKEN")
    if "RevisionNotFoundError" in names:
        return DataError(f"{name}: the hub has no revision {revision!r}; look at the commits at {page}")
    if names & {"RepositoryNotFoundError", "HFValidationError"}:
        return DataError(f"{name}: the hub has no such data set (or it is private: set HF_TOKEN); check the spelling")
    status = find_status(error)
    if status in (401, 403):
        return DataError(f"{name}: the hub refuses the token (status {status}); check HF_TOKEN")
    return explain_silence(error, name, 0, tries)


def explain_silence(error: BaseException, name: str, rows: int, tries: int) -> DataError:
    """The line for a hub that does not answer (any more)."""
    when = "fails" if find_status(error) else "cannot be reached"
    when = f"stopped answering after {rows:,} rows" if rows else when
    tried = f", tried {tries} times" if tries > 1 else ""
    return DataError(
        f"{name}: the hub {when} ({name_trouble(error)}{tried}); check the network or HF_ENDPOINT and run it again"
    )


def explain_content(error: BaseException, name: str, config: str, data_files: list[str]) -> DataError:
    """The error for a repository whose content is not as requested: configuration, script, broken file."""
    text = one_line(error)
    listed = re.findall(r"'([^']*)'", text.partition("[")[2].partition("]")[0])
    if text.startswith("Config name is missing"):
        return DataError(f"{name}: it has several configurations; give one as config: {', '.join(listed)}")
    if "BuilderConfig" in text:
        return DataError(
            f"{name}: no configuration {config!r}{nearest_name(config, listed)} (it has: {', '.join(listed)})"
        )
    shown = ", ".join(data_files[:6]) + (", ..." if len(data_files) > 6 else "") or "none"
    if "scripts are no longer supported" in text:
        return DataError(f"{name}: it wants to run a script of its own, which is refused; name its files: {shown}")
    if type(error).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError"):
        return DataError(f"{name}: it has no data files that can be read (files: {shown})")
    cause = next((inner for inner in reversed(list(_chain(error)))), error)
    first = ADDRESS.sub("a file", one_line(cause))[:160]
    return DataError(f"{name}: a data file cannot be read ({first}); try another revision, or name sound files")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _names_of(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]
