"""`--help` of a script: usage, examples and its common flags; `--help all` has every flag by group, `--help data` one.

A settings class gives what is shown: its docstring, `examples`, `common` and, where it has many flags, `sections`.
"""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from sft.errors import ConfigError, nearest_name

if TYPE_CHECKING:
    from sft.config.layers import Settings

HELP_FLAGS = ("--help", "-h")
EVERYTHING = "all"
WIDEST = 110  # columns; longer lines of help are hard to read
COLUMN = 27  # of descriptions
LONGEST_DEFAULT = 40  # characters of a default that are shown
# Placeholders of values, by the last word of the setting's name: --chats_dir FOLDER.
PLACEHOLDERS = {
    "config": "FILE", "data": "PATH", "dir": "FOLDER", "run": "FOLDER", "file": "FILE", "output": "FILE",
    "html": "FILE", "registry": "FILE", "checkpoint": "PATH", "prompt": "TEXT", "text": "TEXT", "input": "TEXT",
    "if": "CONDITION", "uri": "URI",
}  # fmt: skip


def wanted_help(argv: Sequence[str]) -> str | None:
    """The topic of --help: "" if it has none, "all" or a group; None without --help."""
    for index, word in enumerate(argv):
        flag, _, topic = word.partition("=")
        if flag in HELP_FLAGS:
            following = argv[index + 1] if index + 1 < len(argv) else ""
            return topic or ("" if following.startswith("-") else following)
    return None


def render_help(cls: "type[Settings]", topic: str = "") -> str:
    """The text of --help; raises ConfigError for a topic that is neither "all" nor a group nor a setting."""
    groups = group_fields(cls)
    by_name = {heading.lower(): heading for heading in groups}
    topic = topic.lstrip("-").lower()
    shown: dict[str, list[str]]
    if topic in cls.model_fields:
        shown = {"": [topic]}
    elif topic in by_name:
        shown = {by_name[topic]: groups[by_name[topic]]}
    elif topic not in ("", EVERYTHING):
        known = [EVERYTHING, *by_name, *cls.model_fields]
        listed = ", ".join([EVERYTHING, *by_name])
        raise ConfigError(f"--help {topic}: no such topic{nearest_name(topic, known) or f'; there are {listed}'}")
    elif topic == EVERYTHING or not cls.common:
        shown = groups
    else:
        shown = {"Common flags": list(cls.common)}
    parts = [*_introduction(cls)] if topic in ("", EVERYTHING) else []
    parts += ["\n".join(_render_group(cls, heading, names)) for heading, names in shown.items()]
    if topic in ("", EVERYTHING):
        parts.append(_ending(cls, list(by_name), is_all=shown is groups))
    return "\n\n".join(parts)


def group_fields(cls: "type[Settings]") -> dict[str, list[str]]:
    """Settings by group, in the order of the class: {"Data": ["data", "validation_data", ...], ...}."""
    begins: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        begins |= vars(base).get("sections", {})
    groups: dict[str, list[str]] = {}
    heading = "General" if begins else "Flags"
    for name in cls.model_fields:
        heading = begins.get(name, heading)
        groups.setdefault(heading, []).append(name)
    return groups


def _introduction(cls: "type[Settings]") -> Iterator[str]:
    yield f"usage: python {cls.prog} [--flag VALUE ...]"
    yield "\n".join(_wrap(" ".join((cls.__doc__ or "").split())))
    if cls.examples:
        yield "\n".join(["Examples", *(f"  {example}" for example in cls.examples)])


def _ending(cls: "type[Settings]", groups: list[str], *, is_all: bool) -> str:
    example = next(name for name in cls.common or cls.model_fields if name != "config")
    more = "" if is_all else f"Every flag: --help all\nOne group:  --help {' | '.join(groups)}\n"
    layers = (
        f"A setting may also be in the recipe of --config ({example}: ...) or the environment (SFT_{example.upper()})"
    )
    return more + "\n".join(_wrap(f"{layers}; flags win."))


def _render_group(cls: "type[Settings]", heading: str, names: list[str]) -> Iterator[str]:
    """A heading and a line or more for each setting."""
    if heading:
        yield heading
    for name in names:
        info = cls.model_fields[name]
        flag = spell_flag(name, info)
        lines = _wrap(_describe(name, info), indent=COLUMN)
        if len(flag) + 4 > COLUMN:
            yield f"  {flag}"
        else:
            lines[0] = f"  {flag}".ljust(COLUMN) + lines[0].lstrip()
        yield from lines


def spell_flag(name: str, info: FieldInfo) -> str:
    """A flag as it is typed: `--lora_r N`, `--method lora|qlora|freeze|full`, `--[no-]markdown`, `--use_dora`."""
    choices = [str(choice) for choice in getattr(info.validation_alias, "choices", [])]
    if name not in choices and choices:
        name = choices[0]  # json_output is typed --json
    types = [kind for kind in (get_args(info.annotation) or (info.annotation,)) if kind is not NoneType]
    if bool in types:
        return f"--{name}" if info.default is False else f"--[no-]{name}"
    return f"--{name} {_placeholder(name, info.annotation)}"


def _placeholder(name: str, annotation: object) -> str:
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType and kind is not Ellipsis]
    if get_origin(annotation) is Literal:
        return "|".join(map(str, kinds))
    if get_origin(annotation) is tuple:
        inner = kinds[0]
        return f"{_placeholder(name, inner)},..." if get_origin(inner) is Literal else "A,B,..."
    if get_origin(annotation) is list or len(kinds) == 1:
        return _placeholder(name, kinds[0])
    if annotation is int:
        return "N"
    if annotation is float:
        return "X"
    default = "FILE" if annotation is Path else "NAME"
    return PLACEHOLDERS.get(name.rpartition("_")[2], default)


def _describe(name: str, info: FieldInfo) -> str:
    """The description with the default, if there is one worth showing, and the setting's other names."""
    aliases = [str(choice) for choice in getattr(info.validation_alias, "choices", [])]
    others = [alias for alias in aliases if alias.replace("-", "_") != name]
    others = others if name in aliases else others[1:]
    notes = [f"also {'--' if len(alias) > 1 else '-'}{alias}" for alias in others[:2]]
    default = info.get_default(call_default_factory=True)
    if default is not None and default is not False and default != () and default != []:
        text = ",".join(map(str, default)) if isinstance(default, tuple | list) else _show(default)
        notes.insert(0, f"default {text if len(text) <= LONGEST_DEFAULT else text[:LONGEST_DEFAULT] + '…'}")
    return f"{info.description} ({'; '.join(notes)})" if notes else str(info.description)


def _show(default: object) -> str:
    return "on" if default is True else f"{default:g}" if isinstance(default, float) else str(default)


def _wrap(text: str, *, indent: int = 0) -> list[str]:
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    space = " " * indent
    return textwrap.wrap(
        text,
        max(width, indent + 30),
        initial_indent=space,
        subsequent_indent=space,
        break_on_hyphens=False,
        break_long_words=False,
    )
