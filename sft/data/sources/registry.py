"""The registry of data sets: names for sources, so that presets and --data need only the name.

    slimorca:                     # datasets.yaml: a name, and the keys of a preset's source
      kind: hub
      id: Open-Orca/SlimOrca

    sources: {orca: {dataset: slimorca, share: 0.25}}         # a preset: the entry, with additional keys

Names are looked up in recipes/datasets.yaml, then in the user's own: datasets.yaml, dataset_info.json and
data/dataset_info.json (LLaMA-Factory's) in the working folder, and the file given by --registry. The later one counts.

Of LLaMA-Factory's dataset_info.json (data/README.md of hiyouga/LLaMA-Factory) these are read: file_name, file_sha1,
hf_hub_url, subset, split, folder, num_samples, formatting, columns, tags. An entry that cannot be used is refused by
name when that data set is used:

    {"mine": {"file_name": "mine.json", "formatting": "alpaca", "columns": {"response": "answer"}},
     "talks": {"hf_hub_url": "owner/talks", "formatting": "sharegpt", "tags": {"role_tag": "role"}}}
"""

from pathlib import Path

from sft.config.layers import read_yaml
from sft.errors import ConfigError, nearest_name
from sft.files import PROJECT_ROOT, parse_json
from sft.modelscope import PREFIX

SHIPPED = PROJECT_ROOT / "recipes" / "datasets.yaml"
OWN = (Path("datasets.yaml"), Path("dataset_info.json"), Path("data/dataset_info.json"))
Entry = dict[str, object]  # keys of a source: {"kind": "hub", "id": "Open-Orca/SlimOrca"}
OTHER_HUBS = {"om_hub_url": "Openmind", "script_url": "a script", "cloud_file_name": "S3"}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
ALPACA |= {name: name for name in ("system", "history", "tools")}
IGNORED_COLUMNS = ("images", "videos", "audios")
PREFERENCES = ("chosen", "rejected", "kto_tag")
KNOWN = {"file_name", "file_sha1", "hf_hub_url", "subset", "split", "folder", "num_samples", "formatting", "columns",
         "tags", "ranking", "ms_hub_url", *OTHER_HUBS}  # fmt: skip
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag", "observation_tag", "function_tag")


def find_registries(given: Path | None = None) -> list[Path]:
    """The existing registry files; raises ConfigError if the given one does not exist."""
    if given is not None and not given.is_file():
        raise ConfigError(f"--registry {given}: no such file; give a datasets.yaml or a dataset_info.json")
    return [path for path in (SHIPPED, *OWN) if path.is_file()] + ([given] if given else [])


def find_entry(name: str, given: Path | None = None) -> Entry:
    """The entry of a name in the registries; raises ConfigError with the nearest name if none has it."""
    known: dict[str, Entry | ConfigError] = {}
    for path in find_registries(given):
        known |= _read_registry(path)
    if name not in known:
        read = ["recipes/datasets.yaml" if path == SHIPPED else str(path) for path in find_registries(given)]
        raise ConfigError(
            f"no data set {name!r} in {', '.join(read)}{nearest_name(name, known)}; known: {', '.join(known)}; "
            "another one is named in a datasets.yaml of your own"
        )
    entry = known[name]
    if isinstance(entry, ConfigError):
        raise entry
    return entry


def known_names() -> list[str]:
    """Every name that a registry has."""
    return list(dict.fromkeys(name for path in find_registries() for name in _read_registry(path)))


def insert_named(preset: dict[str, object], given: Path | None, shown: str) -> dict[str, object]:
    """A preset's YAML with every `dataset: NAME` replaced by the entry of that name; the preset's own keys win."""
    sources = preset.get("sources")
    if not isinstance(sources, dict):
        return preset
    full = dict(sources)
    for key, source in sources.items():
        if isinstance(source, dict) and "dataset" in source:
            try:
                entry = find_entry(str(source["dataset"]), given)
            except ConfigError as error:
                raise ConfigError(f"{shown}: sources.{key}.dataset: {error}") from None
            full[key] = entry | {name: value for name, value in source.items() if name != "dataset"}
    return preset | {"sources": full}


def _read_registry(path: Path) -> dict[str, Entry | ConfigError]:
    """The entries of one file, or why an entry cannot be used, which is an error only when it is used."""
    if path.suffix == ".json":
        return read_dataset_info(path)
    entries: dict[str, Entry | ConfigError] = {}
    for name, entry in read_yaml(path).items():
        if not isinstance(entry, dict) or "kind" not in entry:
            entries[name] = ConfigError(f"{path}: {name}: no 'kind'; write what the source is, as in a preset")
            continue
        entries[name] = entry | _place_file(path, entry.get("path"))
    return entries


def _place_file(registry: Path, name: object) -> Entry:
    """Resolve a file relative to its registry, from any working folder."""
    if isinstance(name, str) and (registry.parent / name).is_file():
        return {"path": str(registry.parent / name)}
    return {}


def read_dataset_info(path: Path) -> dict[str, Entry | ConfigError]:
    """The entries of one file; an unusable one is its error. Raises ConfigError for an invalid file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not a JSON file of data sets ({error}); fix it") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no object of data sets; fix it")
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
    if preferred := [column for column in PREFERENCES if columns.get(column)]:
        raise ConfigError(f"columns.{preferred[0]} is of preference data (KTO, DPO), which is not supported")
    for column in IGNORED_COLUMNS:
        if columns.get(column):
            raise ConfigError(f"columns.{column} is not supported; only text is trained on here")
    if formatting == "alpaca":
        renamed = {ALPACA[key]: column for key, column in columns.items() if key in ALPACA and column}
        if renamed.keys() == {"instruction"}:  # without a response: LLaMA-Factory's stage pt
            return entry | {"task": "text", "columns": {"text": renamed["instruction"]}}
        return entry | ({"columns": renamed} if renamed else {})
    if formatting not in ("sharegpt", "openai"):
        raise ConfigError(f"formatting {formatting!r} is unknown; expected alpaca, sharegpt or openai")
    tags = {key: value for key, value in _read_mapping(info, "tags").items() if key in TAGS and value}
    if formatting == "openai":
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"} | tags
    mapped = {"messages": columns.get("messages") or "conversations"}
    mapped |= {name: columns[name] for name in ("system", "tools") if columns.get(name)}
    return entry | {"columns": mapped, "tags": tags}


def _find_place(folder: Path, info: dict[str, object]) -> Entry:
    """Location of the rows; the hub takes precedence over a file, as in LLaMA-Factory."""
    if info.get("hf_hub_url"):
        entry: Entry = {"kind": "hub", "id": info["hf_hub_url"], "hub_split": info.get("split") or "train"}
        if info.get("subset"):
            entry["config"] = info["subset"]
        if info.get("folder"):
            entry["files"] = f"{str(info['folder']).rstrip('/')}/*"
        return entry | ({"limit": info["num_samples"]} if info.get("num_samples") else {})
    if info.get("ms_hub_url"):
        if info.get("subset") or info.get("split", "train") != "train":
            raise ConfigError("subset and split of ms_hub_url are not read; name its files: path: modelscope:a/b/*.csv")
        inside = f"/{str(info['folder']).rstrip('/')}/*" if info.get("folder") else ""
        entry = {"kind": "file", "path": f"{PREFIX}{info['ms_hub_url']}{inside}"}
        return entry | ({"num_samples": info["num_samples"]} if info.get("num_samples") else {})
    if isinstance(info.get("file_name"), str):
        path = folder / str(info["file_name"])
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
