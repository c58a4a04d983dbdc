"""LLaMA-Factory's dataset_info.json as entries of the registry.

{"mine": {"file_name": "mine.json", "formatting": "alpaca", "columns": {"prompt": "question", "response": "answer"}},
 "talks": {"hf_hub_url": "owner/talks", "formatting": "sharegpt", "tags": {"role_tag": "role", "content_tag": "text"}}}

Source of the format: data/README.md of hiyouga/LLaMA-Factory. Read: file_name, file_sha1, hf_hub_url, subset, split,
folder, num_samples, formatting, columns, tags. What cannot be used is refused by name when the data set is asked for.
"""

import json
from pathlib import Path

from sft.errors import ConfigError, nearest_name

OTHER_HUBS = {"ms_hub_url": "ModelScope", "om_hub_url": "Openmind", "script_url": "a script", "cloud_file_name": "S3"}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
IGNORED_COLUMNS = ("images", "videos", "audios", "tools", "chosen", "rejected", "kto_tag")
KNOWN = {"file_name", "file_sha1", "hf_hub_url", "subset", "split", "folder", "num_samples", "formatting", "columns",
         "tags", "ranking", *OTHER_HUBS}  # fmt: skip
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")

Entry = dict[str, object]


def read_dataset_info(path: Path) -> dict[str, Entry | ConfigError]:
    """The entries of one file; one that cannot be used is its error. Raises ConfigError where the file is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not a JSON file of data sets ({error}); mend it") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no object of data sets; mend it")
    return {name: _try_entry(path, name, info) for name, info in content.items()}


def _try_entry(path: Path, name: str, info: object) -> Entry | ConfigError:
    try:
        if not isinstance(info, dict):
            raise ConfigError("expected an object")
        return make_entry(path.parent, info)
    except ConfigError as error:
        return ConfigError(f"{path}: {name}: {error}")


def make_entry(folder: Path, info: dict[str, object]) -> Entry:
    """One data set's description as keys of a source; raises ConfigError for what is not supported here."""
    for key in info:
        if key not in KNOWN:
            raise ConfigError(f"{key!r} is unknown{nearest_name(key, KNOWN)}")
    if info.get("ranking"):
        raise ConfigError("'ranking' is for preference training, which is not supported; use an SFT data set")
    entry = _find_place(folder, info)
    formatting = info.get("formatting", "alpaca")
    columns = _read_mapping(info, "columns")
    for column in IGNORED_COLUMNS:
        if columns.get(column):
            raise ConfigError(f"columns.{column} is not supported; only text is trained on here")
    if formatting == "alpaca":
        renamed = {ALPACA[key]: column for key, column in columns.items() if key in ALPACA and column}
        return entry | ({"columns": renamed} if renamed else {})
    if formatting not in ("sharegpt", "openai"):
        raise ConfigError(f"formatting {formatting!r} is unknown; expected alpaca, sharegpt or openai")
    tags = {key: value for key, value in _read_mapping(info, "tags").items() if key in TAGS and value}
    if formatting == "openai":
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"} | tags
    mapped = {"messages": columns.get("messages") or "conversations"}
    if columns.get("system"):
        mapped["system"] = columns["system"]
    return entry | {"columns": mapped, "tags": tags}


def _find_place(folder: Path, info: dict[str, object]) -> Entry:
    """Where the rows are. As LLaMA-Factory does, the hub goes before the file."""
    if info.get("hf_hub_url"):
        entry: Entry = {"kind": "hub", "id": info["hf_hub_url"], "hub_split": info.get("split") or "train"}
        if info.get("subset"):
            entry["config"] = info["subset"]
        if info.get("folder"):
            entry["files"] = f"{str(info['folder']).rstrip('/')}/*"
        return entry | ({"limit": info["num_samples"]} if info.get("num_samples") else {})
    if isinstance(info.get("file_name"), str):
        path = folder / str(info["file_name"])
        if path.is_dir():
            raise ConfigError(f"file_name {info['file_name']!r} is a folder; name one file")
        entry = {"kind": "file", "path": str(path)}
        entry |= {"num_samples": info["num_samples"]} if info.get("num_samples") else {}
        return entry | ({"sha1": info["file_sha1"]} if info.get("file_sha1") else {})
    for key, place in OTHER_HUBS.items():
        if info.get(key):
            raise ConfigError(f"{key} ({place}) is not supported; give hf_hub_url, or file_name of a downloaded file")
    raise ConfigError("neither file_name nor hf_hub_url; say where the rows are")


def _read_mapping(info: dict[str, object], key: str) -> dict[str, str]:
    value = info.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key!r} must be an object")
    return {str(name): str(column) for name, column in value.items() if column}
