"""A ModelScope on 127.0.0.1: lists and serves files as modelscope.cn's API does, and fails on request."""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.loopback import LoopbackServer, QuietHandler


class ModelScopeServer(LoopbackServer):
    """Serves while its `with` block lasts. `url` is what MODELSCOPE_ENDPOINT should be."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repositories: dict[tuple[str, str], Path] = {}  # ("models", "owner/name") -> its folder
        self.private: set[str] = set()  # names that want the token "secret"
        self.requests: list[str] = []
        self.cookies: list[str] = []
        self.cuts = 0  # so many downloads end in their middle
        self.lies = False  # whether listed hashes are wrong


class _Handler(QuietHandler):
    server: ModelScopeServer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        cookie = self.headers.get("Cookie") or ""
        self.server.requests.append(f"{address.path} {query.get('FilePath', '')}".strip())
        self.server.cookies.append(cookie)
        found = re.fullmatch(r"/api/v1/(models|datasets)/(.+?)(/repo/files|/repo/tree|/repo|)", address.path)
        kind, name, action = found.groups() if found else ("", "", "")
        by_number = {str(number): name for number, (_, name) in enumerate(self.server.repositories)}
        name = by_number.get(name, name)
        folder = self.server.repositories.get((kind, name))
        if folder is None or (name in self.server.private and "m_session_id=secret" not in cookie):
            return self._send(404, {"Code": 10010205001, "Message": f"获取失败，{name} 不存在", "Success": False})
        if query.get("Revision", "master") not in ("master", "v1.0"):
            return self._send(404, {"Code": 10010205002, "Message": "revision not found", "Success": False})
        if action == "/repo":
            return self._send_file(folder / query["FilePath"])
        if action == "":
            number = next(number for number, known in by_number.items() if known == name)
            return self._send(200, {"Code": 200, "Data": {"Id": int(number), "Type": 4}, "Success": True})
        files = self._list(folder)
        if action == "/repo/tree":
            size = int(query["PageSize"])
            files = files[size * (int(query["PageNumber"]) - 1) :][:size]
        return self._send(200, {"Code": 200, "Data": {"Files": files}, "Success": True})

    def _list(self, folder: Path) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                entries.append({"Name": path.name, "Path": name, "Type": "tree", "Size": 0, "Sha256": ""})
                continue
            content = b"lie" if self.server.lies else path.read_bytes()
            entries.append({"Name": path.name, "Path": name, "Type": "blob", "Size": path.stat().st_size,
                            "Sha256": hashlib.sha256(content).hexdigest(), "Revision": "0" * 40})  # fmt: skip
        return entries

    def _send_file(self, path: Path) -> None:
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.cuts:
            self.server.cuts -= 1
            end = start + (end - start) // 2
            self.close_connection = True
        self.wfile.write(content[start:end])

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
