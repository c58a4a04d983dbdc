"""Repositories of the hub in tests/hub_server.py: a commit is a folder, its files are listed as the hub lists them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Entry = dict[str, object]  # {"type": "file", "path": "data/train.parquet", "size": 7, "oid": "..."}


@dataclass
class Repository:
    """One repository: each commit is a folder; a branch names a commit."""

    kind: str  # datasets | models
    name: str
    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # who does not send it is told that there is no such repository
    gated: bool = False

    def find_commit(self, revision: str) -> str | None:
        """The commit that a branch or a commit's full name means."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def list_files(self, commit: str) -> dict[str, Path]:
        """The files of a commit: {"data/train.parquet": Path(...)}."""
        folder = self.commits[commit]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def object_id(path: Path) -> str:
    """What a file's ETag is."""
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _describe_file(name: str, path: Path) -> Entry:
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": object_id(path)}


def _describe_folder(name: str) -> Entry:
    return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def list_tree(files: dict[str, Path], folder: str, recursive: bool) -> Iterator[Entry]:
    """Files and folders below a folder ("" for all)."""
    seen: set[str] = set()
    for name, path in files.items():
        inside = name.removeprefix(f"{folder}/") if folder else name
        if folder and inside == name:
            continue
        *folders, _ = inside.split("/")
        for depth in range(1, len(folders) + 1 if recursive else min(1, len(folders)) + 1):
            above = "/".join([*([folder] if folder else []), *folders[:depth]])
            if above not in seen:
                seen.add(above)
                yield _describe_folder(above)
        if recursive or not folders:
            yield _describe_file(name, path)


def find_paths(files: dict[str, Path], paths: list[str]) -> Iterator[Entry]:
    """Those of the paths that exist."""
    for name in paths:
        if name in files:
            yield _describe_file(name, files[name])
        elif any(other.startswith(f"{name}/") for other in files):
            yield _describe_folder(name)
