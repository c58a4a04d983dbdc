"""What went wrong with the hub, as one line that says what to do; and what is worth another try.

Neither a token nor an address with its query (signed addresses open files) ever stands in such a line.
"""

import re
from collections.abc import Iterator

from sft.errors import DataError, nearest_name

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSIENT_NAMES = (  # by name: httpx, requests and aiohttp are not imported to be compared with
    "TransportError", "ConnectionError", "TimeoutError", "FSTimeoutError", "IncompleteRead", "ClientError",
    "ServerDisconnectedError", "LocalEntryNotFoundError", "OfflineModeIsEnabled",
)  # fmt: skip
ADDRESS = re.compile(r"\w+://\S+")


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
    text = ADDRESS.sub("the hub", " ".join(str(last).split()))[:80]
    return f"{type(last).__name__}: {text}" if text else type(last).__name__


def find_status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if there is one."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def explain_repository(error: BaseException, name: str, revision: str, page: str, tries: int) -> DataError:
    """The line for a repository that cannot be opened: unknown, gated, no such revision, wrong token, no network."""
    names = {kind for cause in _chain(error) for kind in _names_of(cause)}
    if "OfflineModeIsEnabled" in names:
        return DataError(f"{name}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it, or give a file instead")
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
    """The line for a repository whose content is not what was asked for: configuration, script, broken file."""
    text = " ".join(str(error).split())
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
        return DataError(f"{name}: it holds no data files that can be read (files: {shown})")
    cause = next((inner for inner in reversed(list(_chain(error)))), error)
    first = ADDRESS.sub("a file", " ".join(str(cause).split()))[:160]
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
