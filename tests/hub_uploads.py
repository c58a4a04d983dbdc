"""A hub on 127.0.0.1 that takes uploads: what huggingface_hub's create_repo, upload_folder and downloads ask of it.

    with UploadHub(token="hf_x") as hub:
        ... HF_ENDPOINT=hub.url, HF_TOKEN=hf_x ...
        hub.repositories["ada/reviews"].files      # {"README.md": b"..."}
        hub.requests                               # ["POST /api/repos/create", ...]

Small files come inside the commit, large ones by LFS: asked for with their SHA-256, sent by PUT, checked.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.loopback import LoopbackServer, QuietHandler

LFS_SUFFIXES = (".safetensors", ".gguf")


@dataclass
class UploadedRepository:
    """One repository: its newest commit's files, and what came with each commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)  # messages

    @property
    def sha(self) -> str:
        """The newest commit's name."""
        return hashlib.sha1(repr((self.commits, sorted(self.files))).encode()).hexdigest()


class UploadHub(LoopbackServer):
    """The server, in a thread of its own while the `with` block lasts."""

    def __init__(self, *, token: str) -> None:
        super().__init__(_Handler)
        self.token = token
        self.repositories: dict[str, UploadedRepository] = {}
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        self.requests: list[str] = []


class _Handler(QuietHandler):
    server: UploadHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._read_body()
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/objects/"):  # signed addresses carry no token
            self._take_object(path.rpartition("/")[2], body)
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._send(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif "/resolve/" in path:
            self._resolve(*path[1:].split("/resolve/", 1))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._plan_objects(json.loads(body))
        elif path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            self._answer_model(f"{owner}/{name}", rest, body)
        else:
            self._send(404, {"error": path})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, wanted: dict[str, object]) -> None:
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.server.url}/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.server.repositories:
            self._send(409, {"error": "You already created this model repo", **url})
            return
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        self.server.repositories[repo_id] = UploadedRepository(private)
        self._send(200, url)

    def _answer_model(self, repo_id: str, rest: list[str], body: bytes) -> None:
        repository = self.server.repositories.get(repo_id)
        if repository is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["preupload"]:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif rest[:1] == ["commit"]:
            self._commit(repo_id, repository, body)
        elif rest[:1] == ["tree"]:
            files = repository.files.items()
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in sorted(files)
            ]
            self._send(200, listing)
        else:  # repository info, with or without a revision
            siblings = [{"rfilename": name} for name in sorted(repository.files)]
            info = {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": repository.sha, "tags": [], "downloads": 0}
            self._send(200, {**info, "private": repository.private, "siblings": siblings, "likes": 0})

    def _plan_objects(self, wanted: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.server.url}/objects/{entry['oid']}"}}}
            for entry in wanted["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def _take_object(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(422, {"error": "content and SHA-256 differ"})
            return
        self.server.objects[oid] = body
        self._send(200, {})

    def _commit(self, repo_id: str, repository: UploadedRepository, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository.commits.append(value["summary"])
            elif entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
        url = f"{self.server.url}/{repo_id}/commit/{repository.sha}"
        self._send(200, {"success": True, "commitUrl": url, "commitOid": repository.sha, "hookOutput": ""})

    def _resolve(self, repo_id: str, revision_and_path: str) -> None:
        repository = self.server.repositories[repo_id]
        content = repository.files.get(revision_and_path.split("/", 1)[1])
        if content is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send_bytes(200, content, {"ETag": etag, "X-Repo-Commit": repository.sha})

    def _send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        named = {"Content-Type": "application/json", **(headers or {})}
        self._send_bytes(status, json.dumps(content).encode(), named)

    def _send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
