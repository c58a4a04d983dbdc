"""A small Hugging Face hub on 127.0.0.1 for the real `datasets`, `huggingface_hub` and `transformers` clients.

It serves folders over HTTP as the hub does (repository info, trees, paths-info, resolve with ETag, commit and ranges)
and can be told to fail: with a status, with a connection that is cut, or slowly.

    with HubServer() as hub:
        commit = hub.add("datasets", "owner/name", folder)        # its files are what `main` now is
        hub.fail("train.parquet", "cut", times=2)                  # the next two requests for it end half-way
        ... HF_ENDPOINT=hub.url ...
        hub.requests                                               # every request: method, path, headers
"""

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from huggingface_hub import close_session

from tests.hub_repository import Repository, find_paths, list_tree, object_id
from tests.loopback import LoopbackServer, QuietHandler

CHUNK_BYTES = 1 << 16


class Request(NamedTuple):
    """One request as it came in: Request("GET", "/api/datasets/a/b", {"authorization": "Bearer ..."})."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Failure:
    """What goes wrong with requests whose path holds `part`: a status ("503"), "cut" or "slow"; `times` of them."""

    part: str
    how: str
    times: int
    after: int  # matching requests that are served first
    seconds: float


class HubServer(LoopbackServer):
    """The server, running in a thread of its own while the `with` block lasts. `url` is what HF_ENDPOINT should be."""

    def __init__(self, handler: type["HubRequestHandler"] | None = None, port: int = 0) -> None:
        super().__init__(handler or HubRequestHandler, port)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self._failures: list[Failure] = []
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        name: str,
        folder: Path,
        *,
        commit: str | None = None,
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Make `folder` the newest commit of a repository and return that commit; older ones stay reachable.

        `commit`: the name it shall have, where something pins it; else a hash of the content.
        """
        repository = self.repositories.setdefault((kind, name), Repository(kind, name))
        sha = hashlib.sha1(f"{kind}/{name}".encode())
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sha.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        commit = commit or sha.hexdigest()
        repository.commits[commit] = folder
        repository.branches["main"] = commit
        repository.token, repository.gated = token, gated
        return commit

    def fail(self, part: str, how: str, *, times: int = 1, after: int = 0, seconds: float = 1.0) -> None:
        """Let the next `times` requests with `part` in their path fail, once `after` of them were served.

        how: a status such as "503"; "cut": half of the body, then the connection ends; "slow": `seconds` of silence.
        """
        with self._lock:
            self._failures.append(Failure(part, how, times, after, seconds))

    def heal(self) -> None:
        """Let nothing fail any more."""
        with self._lock:
            self._failures.clear()

    def next_failure(self, path: str) -> Failure | None:
        """The failure that this request meets, which is used up by it."""
        with self._lock:
            for failure in self._failures:
                if failure.part in path and failure.times > 0:
                    if failure.after > 0:
                        failure.after -= 1
                        return None
                    failure.times -= 1
                    return failure
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is no news."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        close_session()  # connections kept open would answer for the next server that gets this port


class HubRequestHandler(QuietHandler):
    """One connection. A subclass adds endpoints by extending `answer`."""

    server: HubServer

    def do_HEAD(self) -> None:
        """Headers only."""
        self._serve()

    def do_GET(self) -> None:
        """Everything but paths-info."""
        self._serve()

    def do_POST(self) -> None:
        """paths-info."""
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, self.path, headers))
        self.failure = self.server.next_failure(path)
        if self.failure and self.failure.how == "slow":
            time.sleep(self.failure.seconds)
        if self.failure and self.failure.how.isdigit():
            self.send_json({"error": "made to fail"}, int(self.failure.how))
        else:
            self.answer(path, body)

    def answer(self, path: str, body: bytes) -> None:
        """Serve one request, by its path."""
        for kind, name, action, rest in _read_routes(path):
            repository = self.server.repositories.get((kind, name))
            if repository is None:
                continue
            if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                if repository.gated:
                    return self.refuse(403, "GatedRepo", "Access to this dataset is restricted")
                break
            return self._serve_repository(repository, action, rest, body)
        self.refuse(401 if "/api/" in path else 404, "RepoNotFound", "Repository not found")

    def _serve_repository(self, repository: Repository, action: str, rest: str, body: bytes) -> None:
        if action in ("", "revision"):
            commit = repository.find_commit(rest or "main")
            return self._send_info(repository, commit) if commit else self._refuse_revision()
        revision, _, path = rest.partition("/")
        commit = repository.find_commit(revision)
        if commit is None:
            return self._refuse_revision()
        files = repository.list_files(commit)
        if action == "resolve":
            return self._send_file(files[path], commit) if path in files else self._refuse_entry(commit)
        if action == "tree":
            recursive = "recursive=true" in self.path.lower()
            entries = list(list_tree(files, path.strip("/"), recursive))
            return self.send_json(entries) if entries or not path else self._refuse_entry(commit)
        return self.send_json(list(find_paths(files, _read_paths(body))))  # paths-info

    def _send_info(self, repository: Repository, commit: str) -> None:
        self.send_json(
            {
                "_id": "0" * 24,
                "id": repository.name,
                "sha": commit,
                "private": repository.token is not None,
                "gated": "manual" if repository.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": "2024-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": name} for name in repository.list_files(commit)],
            }
        )

    def _send_file(self, path: Path, commit: str) -> None:
        size = path.stat().st_size
        start, end, status = 0, size, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, end, status = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size), 206
        if start >= end and size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(status)
        self.send_header("ETag", f'"{object_id(path)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command != "HEAD":
            self._send_part(path, start, end)

    def _send_part(self, path: Path, start: int, end: int) -> None:
        if self.failure and self.failure.how == "cut":
            end = start + (end - start) // 2
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                start += self.wfile.write(file.read(min(CHUNK_BYTES, end - start)))
        if self.failure and self.failure.how == "cut":
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def send_json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        """Answer with an error as the hub words it."""
        headers = {"X-Error-Code": code, "X-Error-Message": message} | ({"X-Repo-Commit": commit} if commit else {})
        self.send_json({"error": message}, status, headers)

    def _refuse_revision(self) -> None:
        self.refuse(404, "RevisionNotFound", "Invalid rev id")

    def _refuse_entry(self, commit: str) -> None:
        self.refuse(404, "EntryNotFound", "Entry not found", commit)


def _read_routes(path: str) -> Iterator[tuple[str, str, str, str]]:
    """How a path may be meant: kind, repository, action, rest. /api/datasets/a/b/tree/main/data -> tree, main/data."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 4:
        yield parts[1], "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "", "/".join(parts[5:])
    elif "resolve" in parts:
        kind, name = (parts[0], parts[1:3]) if parts[0] == "datasets" else ("models", parts[0:2])
        yield kind, "/".join(name), "resolve", "/".join(parts[parts.index("resolve") + 1 :])


def _read_paths(body: bytes) -> list[str]:
    paths = json.loads(body)["paths"]
    return [paths] if isinstance(paths, str) else paths
