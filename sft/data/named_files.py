"""The files that --data and a preset's `path` name: one, a folder of shards, a pattern, or several with commas between.

find_files("shards/")                       # or, if it has none, those of the folders below
                                            # [Path("shards/part-0.jsonl"), Path("shards/part-1.jsonl.gz")]
find_files("a.jsonl,more/*.csv")            # in the order given, those of a pattern or folder by name
by_split(find_files("mine/"))               # {"train": [...], "validation": [...], "test": [...]}, if they are named so
"""

import glob
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from sft.console import say_once
from sft.data.files.opening import PACKED, kind_of_file
from sft.data.files.reader import READABLE, nearest_file
from sft.data.folder import LEDGER, MANIFEST
from sft.data.quotas import SPLITS
from sft.errors import DataError
from sft.files import PROJECT_ROOT, sha256_of
from sft.modelscope import fetch, is_modelscope

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "训练", "训练集"), "train"),
    **dict.fromkeys(
        ("validation", "valid", "val", "dev", "eval", "development", "evaluation", "验证", "验证集", "开发集"),
        "validation",
    ),
    **dict.fromkeys(("test", "testing", "测试", "测试集"), "test"),
}
NO_ROWS = ("manifest.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def names_files(spec: str | Path) -> bool:
    """Whether this names existing files of rows, not a built dataset or a name from a registry."""
    path = Path(spec)
    return is_modelscope(spec) or (not is_built(path) and (path.exists() or is_several(str(spec))))


def is_built(path: Path) -> bool:
    """Whether a folder is a dataset that build_dataset.py wrote, be it that its manifest is gone."""
    return (path / MANIFEST).exists() or (path / LEDGER).exists()


def is_several(spec: str) -> bool:
    """Whether this is a pattern, a list, or a data set of ModelScope."""
    return "," in spec or _is_pattern(spec) or is_modelscope(spec)


def find_files(spec: str | Path, *, in_project: bool = False) -> list[Path]:
    """Every file named, each once. Raises DataError for a part that names none.

    in_project: also look in the project's folder.
    """
    if Path(spec).is_file():  # a name with a comma or a bracket in it
        return [Path(spec)]
    found: dict[Path, None] = {}
    for part in [part.strip() for part in str(spec).split(",") if part.strip()]:
        if is_modelscope(part):
            found.update(dict.fromkeys(_fetch(part)))
            continue
        for root in (Path(), PROJECT_ROOT) if in_project else (Path(),):
            if files := _expand(root / part):
                break
        else:
            raise DataError(_explain_nothing(part))
        found.update(dict.fromkeys(files))
    if not found:
        raise DataError(f"{spec}: names no file")
    return list(found)


def _fetch(name: str) -> list[Path]:
    """The files of rows of a data set of ModelScope, on this machine; raises HubError, and DataError for none."""
    kinds = [f"*{kind}{packed}" for kind in (*READABLE, ".ndjson", ".jsonlines") for packed in ("", *PACKED)]
    folder = fetch("datasets", name, [kind for kind in kinds if not kind.startswith("*.txt")]).folder
    files = [file for file in folder.rglob("*") if file.is_file() and not _is_beside(file, folder)]
    if not files:
        raise DataError(f"{name}: has no file of rows ({', '.join(READABLE)})")
    return sorted(files)


def by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names say; {} unless some are training rows and others are not.

    train-00000-of-00002.parquet, reviews.validation.xlsx, dev.tsv. Raises DataError if one of them says none.
    """
    named = {path: split_of_name(path) for path in files}
    if "train" not in named.values() or len(set(named.values()) - {None}) < 2:
        return {}
    if nameless := [path for path, split in named.items() if split is None]:
        raise DataError(
            f"{nameless[0]}: others beside it are named train, validation or test, this one is not; name it so, or "
            "list the files: --data a.jsonl,b.jsonl --validation_data c.jsonl"
        )
    return {split: [path for path in files if named[path] == split] for split in SPLITS}


def split_of_name(path: Path) -> str | None:
    """The split that a file's name says: "rows.val.csv" -> "validation"; None if it says none, or several."""
    words = {SPLIT_WORDS.get(word) for word in re.split(r"[\W_]+|\d+", path.name.lower())} - {None}
    return words.pop() if len(words) == 1 else None


def hash_files(parts: dict[str, list[Path]]) -> str:
    """SHA-256 of files and their roles; for a single file of rows, that of the file."""
    files = [(split, path) for split, paths in parts.items() for path in paths]
    if len(files) == 1:
        return sha256_of(files[0][1])
    lines = "".join(f"{split} {path.name} {sha256_of(path)}\n" for split, path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _expand(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        if is_built(path):
            raise DataError(f"{path}: a built dataset; several are mixed by a preset, one is read alone: --data {path}")
        found = [file for file in path.rglob("*") if file.is_file() and kind_of_file(file) in READABLE]
        found = [file for file in found if not _is_beside(file, path)]
        if rows := [file for file in found if kind_of_file(file) != ".txt"]:  # beside rows a text is a note on them
            found = rows
        if own := [file for file in found if file.parent == path]:  # folders below may have other things: runs, models
            if below := len(found) - len(own):
                say_once(f"{path}: {below} files in folders below it are not read; name those: {path}/**", about=path)
            found = own
    else:
        named = _match(path) if _is_pattern(str(path)) else []
        found = [file for file in named if kind_of_file(file) in READABLE or not path.name.endswith("*")]
    return sorted(file for file in found if file.is_file() and not _is_beside(file, path))


def _match(pattern: Path) -> list[Path]:
    """The files of a pattern; `**` follows no link to a folder, because it may lead back up."""
    if "**" not in pattern.parts:
        return [Path(name) for name in glob.glob(str(pattern))]
    at = pattern.parts.index("**")
    inner = "/".join(pattern.parts[at:]) + ("/*" if pattern.name == "**" else "")
    roots = [Path(name) for name in glob.glob(str(Path(*pattern.parts[:at])))]
    found = [(root, path) for root in roots for path in root.glob(inner)]
    return [path for root, path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _is_beside(file: Path, folder: Path) -> bool:
    """Whether a file beside rows has none itself: hidden files, manifests and descriptions."""
    inner = file.relative_to(folder).parts if folder in file.parents else (file.name,)
    return any(part.startswith((".", "_")) for part in inner) or file.name.endswith(NO_ROWS)


def _explain_nothing(part: str) -> str:
    path = Path(part)
    if path.is_dir():
        return f"{part}: the folder has no manifest.json (a built dataset) and no file of rows ({', '.join(READABLE)})"
    if _is_pattern(part):
        return f"{part}: no file matches; put the pattern in quotes, and look at the names with ls"
    name, mark, count = part.rpartition("#")
    if mark and Path(name).exists() and count.isdigit():
        return f"{part}: no such file; for {count} rows of it: --data {name} --max_samples {count}"
    if near := nearest_file(path):
        return f"{part}: no such file{near}"
    return (
        f"{part}: no such file or folder; --data takes files, folders and patterns with commas between; data sets of a "
        "registry and built datasets are mixed by a preset (docs/data_sets.md)"
    )
