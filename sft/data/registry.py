"""The registry of data sets: names for sources, so that presets and --data need only the name.

    slimorca:                     # datasets.yaml: a name, and under it what a preset would say of the source
      kind: hub
      id: Open-Orca/SlimOrca

    sources: {orca: {dataset: slimorca, share: 0.25}}         # a preset: the entry, and what is said here beside it

Names are looked up in recipes/datasets.yaml, then in the user's own: datasets.yaml, dataset_info.json and
data/dataset_info.json (LLaMA-Factory's) in the working folder, and the file given by --registry. The later one counts.
"""

from pathlib import Path

from sft.config.layers import read_yaml
from sft.data.llama_factory import read_dataset_info
from sft.data.places import PROJECT_ROOT
from sft.errors import ConfigError, nearest_name

SHIPPED = PROJECT_ROOT / "recipes" / "datasets.yaml"
OWN = (Path("datasets.yaml"), Path("dataset_info.json"), Path("data/dataset_info.json"))

Entry = dict[str, object]  # keys of a source: {"kind": "hub", "id": "Open-Orca/SlimOrca"}


def find_registries(given: Path | None = None) -> list[Path]:
    """The files that name data sets, those that are there; raises ConfigError where the one given is not."""
    if given is not None and not given.is_file():
        raise ConfigError(f"--registry {given}: no such file; give a datasets.yaml or a dataset_info.json")
    return [path for path in (SHIPPED, *OWN) if path.is_file()] + ([given] if given else [])


def find_entry(name: str, given: Path | None = None) -> Entry:
    """What the registries say of a name; raises ConfigError with the nearest name where none has it."""
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
    """The entries of one file, or why an entry cannot be used: that is only said to who asks for it."""
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
    """A file that lies beside its registry is found from wherever the registry is used."""
    if isinstance(name, str) and (registry.parent / name).is_file():
        return {"path": str(registry.parent / name)}
    return {}
