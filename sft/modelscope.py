"""Models and data sets of ModelScope (modelscope.cn), fetched into the cache folder over plain HTTP.

    fetch("models", "modelscope:Qwen/Qwen2.5-0.5B-Instruct", ["*.json", "*.safetensors"])      # Snapshot(folder, ...)
    fetch("datasets", "modelscope:AI-ModelScope/alpaca-gpt4-data-zh", ["*.json", "*.csv"])

What a repository holds is asked of its API (a list of files with their SHA-256), each file is fetched once, checked and
put in place under a name; a second start asks for the list alone, and without a network the files fetched before are
used. The variables are those of ModelScope's own client: MODELSCOPE_ENDPOINT (or MODELSCOPE_DOMAIN) names another
address, MODELSCOPE_API_TOKEN opens what is private and is sent to that address alone, as a cookie.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sft.console import say
from sft.errors import TRANSIENT_STATUS, DataError, UserError
from sft.files import cache_root, held, lock_of, sha256_of

if TYPE_CHECKING:
    import httpx

PREFIX = "modelscope:"
HOME = "https://www.modelscope.cn"
PAGE_SIZE = 100  # files of a data set that are listed at once
WAITS_S = (0.5, 1.0, 2.0)  # before a request that failed is made again
Kind = Literal["models", "datasets"]


class Snapshot(NamedTuple):
    """The files of a repository on this machine; `revision` identifies them: "master, files 3f9a0c41d2b8"."""

    folder: Path
    revision: str


class RemoteFile(NamedTuple):
    """A file as listed by the API; sha256 is "" if the list has none."""

    path: str
    size: int
    sha256: str


class HubError(UserError):
    """One line of what went wrong with ModelScope, and what helps."""


def is_modelscope(name: object) -> bool:
    """Whether a name is one of ModelScope's: "modelscope:owner/name"."""
    return str(name).startswith(PREFIX)


def fetch(kind: Kind, name: str, patterns: Sequence[str], revision: str | None = None) -> Snapshot:
    """The files of a repository that match; raises HubError in one line.

    name: "modelscope:owner/name", for data sets also with files of it: "modelscope:owner/name/data/train*.jsonl".
    """
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    title, _, inside = rest.partition("/")
    if not owner or not title or (inside and kind == "models"):
        raise HubError(f"{name}: expected {PREFIX}OWNER/NAME, as on the page of modelscope.cn")
    asked = revision or "master"
    cache = cache_root() / "modelscope" / kind / owner / title
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f"{hashlib.sha256(f'{asked} {inside} {list(patterns)}'.encode()).hexdigest()[:12]}.json"
    hub = _Hub(kind, f"{owner}/{title}", asked)
    with held(lock_of(cache), f"{name}: another process fetches it", "try again", timeout_s=600):
        try:
            files = _choose(hub.list_files(), inside, patterns)
        except _SilentError as error:
            if not note.is_file():
                raise HubError(f"{error}; check the network or MODELSCOPE_ENDPOINT") from None
            say(f"{error}; using what was fetched before")
            return Snapshot(*_read_note(note, cache))
        if not files:
            raise HubError(f"{name}: no such files at revision {asked} ({inside or ', '.join(patterns)})")
        listed = "\n".join(f"{file.path} {file.sha256 or file.size}" for file in sorted(files))
        key = hashlib.sha256(listed.encode()).hexdigest()[:12]
        for number, file in enumerate(files, start=1):
            _fetch_file(hub, file, cache / key, f"{number} of {len(files)}")
        note.write_text(json.dumps([key, f"{asked}, files {key}"]), encoding="utf-8")
        return Snapshot(cache / key, f"{asked}, files {key}")


def _read_note(note: Path, cache: Path) -> tuple[Path, str]:
    key, revision = json.loads(note.read_text(encoding="utf-8"))
    return cache / key, revision


def _choose(files: Sequence[RemoteFile], inside: str, patterns: Sequence[str]) -> list[RemoteFile]:
    wanted = [inside] if inside else patterns
    return [file for file in files if any(fnmatch(file.path, pattern) for pattern in wanted)]


def _fetch_file(hub: "_Hub", file: RemoteFile, folder: Path, which: str) -> None:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise HubError(f"{hub.name}: lists a file outside of itself, {file.path!r}; it is not fetched")
    target = folder / relative
    if target.is_file() and target.stat().st_size == file.size:
        return  # it was checked when it was downloaded, and the folder's name is a hash of the list
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"{hub.name}: {file.path} ({file.size / 1e6:,.1f} MB, {which})")
    stage = target.with_name(f".{target.name}.part")
    try:
        hub.download(file, stage)
    except _SilentError as error:
        raise HubError(f"{error}; the same command resumes it") from None
    if file.sha256 and sha256_of(stage) != file.sha256:
        stage.unlink()
        raise HubError(f"{hub.name}: {file.path} came with another SHA-256 than listed; run the command again")
    stage.replace(target)


class _SilentError(Exception):
    """The hub does not answer; the message says so."""


class _Hub:
    """One repository, at one revision."""

    def __init__(self, kind: Kind, name: str, revision: str) -> None:
        domain = os.environ.get("MODELSCOPE_DOMAIN")
        self.home = (os.environ.get("MODELSCOPE_ENDPOINT") or (f"https://{domain}" if domain else HOME)).rstrip("/")
        self.kind, self.name, self.revision = kind, name, revision

    def list_files(self) -> list[RemoteFile]:
        """Every file, folders left out."""
        if self.kind == "models":
            answer = self._ask(f"models/{self.name}/repo/files", Revision=self.revision, Recursive="True")
            return _read_files(answer)
        number = self._ask(f"datasets/{self.name}")["Id"]  # the file list of a data set needs its number
        files: list[RemoteFile] = []
        for page in range(1, 1_000_000):
            found = self._ask(f"datasets/{number}/repo/tree", Revision=self.revision, Root="/", Recursive="True",
                              PageNumber=page, PageSize=PAGE_SIZE)  # fmt: skip
            files += _read_files(found)
            if len(found.get("Files") or ()) < PAGE_SIZE:
                break
        return files

    def download(self, file: RemoteFile, stage: Path) -> None:
        """Download the file to `stage`, continuing a partial one; a broken connection is resumed."""
        import httpx

        for wait in (*WAITS_S, None):
            have = stage.stat().st_size if stage.is_file() else 0
            if have >= file.size > 0:
                return
            query = {"Revision": self.revision, "FilePath": file.path}
            try:
                with self._open() as client, client.stream(
                    "GET", f"{self.home}/api/v1/{self.kind}/{self.name}/repo", params=query,
                    headers={"Range": f"bytes={have}-"} if have else {},
                ) as answer:  # fmt: skip
                    self._check(answer.status_code, "")
                    with stage.open("ab" if answer.status_code == HTTPStatus.PARTIAL_CONTENT else "wb") as target:
                        for block in answer.iter_bytes(1 << 20):
                            target.write(block)
                if stage.stat().st_size == file.size:
                    return
                trouble = f"{stage.stat().st_size:,} of {file.size:,} bytes came"
            except (httpx.TransportError, _SilentError) as error:
                trouble = str(error) or type(error).__name__
            if wait is None:
                raise _SilentError(f"{self.name}: {file.path}: {trouble}")
            say(f"{self.name}: {trouble}; going on in {wait:g} s")
            time.sleep(wait)

    def _ask(self, path: str, **query: object) -> dict[str, Any]:
        """The `Data` of an answer."""
        import httpx

        for wait in (*WAITS_S, None):
            try:
                with self._open() as client:
                    answer = client.get(f"{self.home}/api/v1/{path}", params=query)  # type: ignore[arg-type]
                told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
                self._check(int(told.get("Code") or answer.status_code), str(told.get("Message") or ""))
                data: dict[str, Any] = told.get("Data") or {}
                return data
            except (httpx.TransportError, _SilentError) as error:
                if wait is None:
                    what = str(error) or type(error).__name__
                    raise _SilentError(f"{self.name}: {self.home} does not answer ({what})") from None
                time.sleep(wait)
        raise AssertionError  # the last wait is None

    def _open(self) -> "httpx.Client":
        import httpx

        token = os.environ.get("MODELSCOPE_API_TOKEN")
        # httpx does not forward the Cookie header on a redirect, because files are on other servers.
        headers = {"Cookie": f"m_session_id={token}"} if token else {}
        return httpx.Client(headers=headers, timeout=30, follow_redirects=True)

    def _check(self, status: int, message: str) -> None:
        """Raises HubError for an answer that will stay what it is, _SilentError for one that may not."""
        if status < HTTPStatus.BAD_REQUEST:
            return
        if status in TRANSIENT_STATUS:
            raise _SilentError(f"status {status}")
        what = "model" if self.kind == "models" else "data set"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise HubError(f"{PREFIX}{self.name}: not open to you; accept its terms there and set MODELSCOPE_API_TOKEN")
        told = f" ({message})" if message else ""
        raise HubError(
            f"{PREFIX}{self.name}: ModelScope has no such {what} at revision {self.revision}, or it is private (set "
            f"MODELSCOPE_API_TOKEN); check the spelling{told}"
        )


def _read_files(data: dict[str, Any]) -> list[RemoteFile]:
    try:
        return [
            RemoteFile(str(entry["Path"]), int(entry["Size"]), str(entry.get("Sha256") or ""))
            for entry in data.get("Files") or ()
            if entry.get("Type") != "tree"
        ]
    except (KeyError, TypeError, ValueError):
        raise DataError("ModelScope's list of files is not what it was; use a folder, or another hub") from None
