"""Settings in layers: default < recipe file (--config) < environment (SFT_<FIELD>) < flag.

A script's settings are one flat, frozen class; every field is documented once, with its unit. Nothing unknown is
accepted anywhere: a mistyped flag, recipe key or environment variable is refused with the nearest name.
--help is rendered by sft.config.help.

    settings = load_settings(TrainSettings, ["--config", "recipes/demo.yaml", "--lora_r", "8"])
    settings.lora_r                    # 8
    settings.origins["lora_r"]         # "flag"
"""

import csv
import json
import os
import pkgutil
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import ClassVar, TypeVar, get_args, get_origin

from pydantic import AliasChoices, Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sft.config.help import render_help, wanted_help
from sft.config.other_names import BY_SCRIPT, other_names, translate
from sft.config.yaml_files import read_yaml
from sft.console import say
from sft.console.narration import show_path
from sft.errors import ConfigError, nearest_setting
from sft.files import PROJECT_ROOT

ENV_PREFIX = "SFT_"
NONE_WORD = "None"  # how a flag or a variable says that there is no value; a recipe says null
NONE_WORDS = ("none", "null")  # in capitals or not, wherever a setting may have no value
TRUE_WORDS = ("true", "yes", "on", "1", "t", "y")
FALSE_WORDS = ("false", "no", "off", "0", "f", "n")
LONGEST_SHOWN = 80  # characters of a value that a message repeats
NO_TERMINAL = (100, 24)  # columns and lines assumed without a terminal
UNKNOWN_FLAG = "unrecognized arguments: "  # argparse's wording, as pydantic-settings passes it on

S = TypeVar("S", bound="Settings")


class Settings(BaseSettings):
    """Base class of every script's settings: frozen and flat; unknown keys are errors."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        env_prefix=ENV_PREFIX,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str=NONE_WORD,
        cli_exit_on_error=False,
        protected_namespaces=(),
    )

    prog: ClassVar[str] = ""  # the script's name, for --help
    examples: ClassVar[tuple[str, ...]] = ()  # commands that --help shows
    common: ClassVar[tuple[str, ...]] = ()  # settings that --help shows; (): all
    sections: ClassVar[dict[str, str]] = {}  # first setting of each group of --help -> heading: {"data": "Data"}
    texts: ClassVar[tuple[str, ...]] = ()  # settings that are words for a model, and may be empty
    verbatim: ClassVar[tuple[str, ...]] = ()  # texts for the model, in which "none" is a word like any other

    config: str | None = Field(None, description="recipe: a YAML file with any of these settings")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _notes: list[str] = PrivateAttr(default_factory=list)  # names of other tools that were given, and ours for them

    @property
    def origins(self) -> dict[str, str]:
        """Origin of each value that is not a default: {"lora_r": "flag", "model": "recipes/demo.yaml"}."""
        return dict(self._origins)

    def describe(self) -> list[str]:
        """The values that are not defaults, one line for each origin: `flags: lora_r=8 dry_run=true`.

        Before them, names of other tools are listed with ours: `flags: num_epochs is num_train_epochs here`.
        """
        by_origin: dict[str, list[str]] = {}
        for name, origin in self._origins.items():
            if not (name == "config" and self.config in self._origins.values()):  # its values name it
                by_origin.setdefault(_name_layer(origin), []).append(f"{name}={_show(getattr(self, name))}")
        return [*self._notes, *(f"{origin}: {' '.join(values)}" for origin, values in by_origin.items())]

    def announce(self) -> None:
        """Print the values that are not defaults as one block; called once nothing more is to be refused."""
        width = max(40, shutil.get_terminal_size(NO_TERMINAL).columns)
        for line in self.describe():
            say(textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))

    @classmethod
    def spell_out(cls, values: dict[str, object]) -> dict[str, object]:
        """One layer's values with shorthands written in full; a class that has shorthands overrides this."""
        return values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what load_settings passes in counts; the layers are merged there, where their origin is known."""
        return (init_settings,)


class ResultSettings(Settings):
    """Base of the settings of scripts that end with a result."""

    json_output: bool = Field(
        False, validation_alias=AliasChoices("json"), description="print the result as one JSON object on stdout"
    )


def load_settings(
    cls: type[S], argv: list[str] | None = None, *, below: tuple[str, Mapping[str, object]] | None = None
) -> S:
    """Settings of one script from its command line (`argv`, default sys.argv[1:]) and the layers below it.

    below: one more layer between the defaults and the recipe, and its name: ("outputs/x/run.json", {"lora_r": 8}).
    Raises ConfigError for an unknown name, an ill-typed value or a recipe that cannot be read; prints help and
    raises SystemExit(0) for --help.
    """
    words = sys.argv[1:] if argv is None else argv
    if (topic := wanted_help(words)) is not None:
        print(render_help(cls, topic))
        raise SystemExit(0)
    flags = _read_flags(cls, words)
    environment = _read_environment(cls)
    layers = [below] if below else []
    if config := flags.get("config", environment.get("config")):
        layers.append((str(config), _read_recipe(cls, Path(str(config)))))
    layers += [("environment", environment), ("flag", flags)]
    notes: list[str] = []
    for index, (origin, values) in enumerate(layers):
        try:
            found, said = translate(cls.prog, values, field_names(cls))
        except ConfigError as error:
            raise ConfigError(str(error) if origin == "flag" else f"{origin}: {error}") from None
        layers[index] = (origin, _read_none(cls, found))
        notes += [f"{_name_layer(origin)}: {'; '.join(said)}"] if said else []
    settings = _merge(cls, layers)
    settings._notes.extend(notes)
    return settings


def restore_settings(cls: type[S], values: Mapping[str, object], origin: str) -> S:
    """Settings from values written down earlier, e.g. those of a run.json; every given value has the one origin."""
    return _merge(cls, [(origin, values)])


def read_boolean(value: object) -> bool | None:
    """The truth value of a flag, a variable or a recipe: True, "yes", "1" -> True; "off" -> False; "maybe" -> None."""
    word = str(value).lower()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def write_pairs(value: object) -> object:
    """What a setting of pairs holds, in a recipe perhaps as a mapping: {"text": "review"} -> ["text=review"]."""
    if isinstance(value, dict) and any(isinstance(part, bool) for pair in value.items() for part in pair):
        raise ValueError("holds true or false, which YAML makes of yes and no, too; write them in quotes")
    pairs = [f"{key}={meant}" for key, meant in value.items()] if isinstance(value, dict) else value
    if isinstance(pairs, list | tuple) and (wrong := [str(pair) for pair in pairs if "=" not in str(pair)]):
        raise ValueError(f"{wrong[0]!r} is no pair; write name=value")
    return pairs


def field_names(cls: type[Settings]) -> dict[str, str]:
    """Every accepted name of every field -> the field's own name: {"lora_r": "lora_r", "lora_rank": "lora_r"}."""
    names = {}
    for field, info in cls.model_fields.items():
        names[field] = field
        for alias in getattr(info.validation_alias, "choices", []):
            names[str(alias)] = field
    return names


def _read_flags(cls: type[S], argv: list[str]) -> Mapping[str, object]:
    own, others = _take_other_names(cls, argv)
    names = field_names(cls)
    try:
        words = _spell_out_booleans(cls, own)
        _refuse_two_names(cls, words)
        words, lists = _take_lists(cls, words)
        flags = CliSettingsSource(cls, cli_parse_args=words, cli_prog_name=cls.prog or None)() | lists
        return dict(sorted(flags.items(), key=lambda item: list(names).index(item[0]))) | others
    except SettingsError as error:
        text = " ".join(str(error).split(": ", 1)[-1].split())
    if not text.startswith(UNKNOWN_FLAG):
        hint = "; a value that begins with - is written --flag=VALUE" if "expected one argument" in text else ""
        raise ConfigError(f"{text}{hint or f'; see {cls.prog} --help'}")
    unknown = text.removeprefix(UNKNOWN_FLAG)
    flag = next((word.partition("=")[0] for word in unknown.split() if word.startswith("-")), None)
    if flag is None:
        raise ConfigError(f"{unknown}: {cls.prog} takes flags only; {_flag_for(cls, unknown)}")
    known = [f"--{name}" if len(name) > 1 else f"-{name}" for name in names]
    near = nearest_setting("--" + flag.lstrip("-").replace("-", "_").lower(), known).replace("'", "")
    raise ConfigError(f"{flag}: unknown flag{near or f'; see {cls.prog} --help all'}")


def _name_layer(origin: str) -> str:
    return "flags" if origin == "flag" else origin


def _take_other_names(cls: type[S], argv: list[str]) -> tuple[list[str], dict[str, object]]:
    """The words of a command line, and apart from them the flags that other tools name so: {"num_epochs": "3"}."""
    own = field_names(cls)
    known = {f"--{name}": meant for name, meant in other_names(cls.prog, own).items() if name not in own}
    words, others = list[str](), dict[str, object]()
    rest = list(argv)
    while rest:
        flag, equals, value = (word := rest.pop(0)).partition("=")
        meant = known.get(flag)
        if meant is None:
            words.append(word)
            continue
        if not equals:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif meant.is_switch:
                value = "true"
            else:
                raise ConfigError(f"argument {flag}: expected one argument")
        others[flag[2:]] = value
    return words, others


def _flag_for(cls: type[Settings], word: str) -> str:
    """The advice for a word without a flag: `write --data reviews.csv` for a file of rows."""
    path, fields = Path(word), cls.model_fields
    if path.suffix in (".yaml", ".yml"):
        flag = "preset" if "preset" in fields else "config"
    elif ((path / "run.json").exists() or word.startswith("outputs/")) and "run" in fields:
        flag = "run"
    elif path.exists() or path.suffix or "/" in word:
        flag = next((name for name in ("data", "file") if name in fields), "")
    else:
        flag = next((name for name in ("text", "preset") if name in fields), "")
    more = " --output answers.jsonl" if flag == "file" else ""
    return f"write --{flag} {shlex.quote(word)}{more}" if flag else f"see {cls.prog} --help"


def _refuse_two_names(cls: type[S], words: list[str]) -> None:
    """Raise ConfigError if one setting is given by two of its names; if one name is given twice, the last counts."""
    names, used = field_names(cls), dict[str, str]()
    for flag in (word.partition("=")[0] for word in words if word.startswith("-")):
        field = names.get(flag.lstrip("-"))
        if field and used.setdefault(field, flag) != flag:
            raise ConfigError(f"{used[field]} and {flag} are two names of one setting; keep one")


def _spell_out_booleans(cls: type[S], argv: list[str]) -> list[str]:
    """What Hugging Face's scripts take as well: `--rouge true`, `--rouge=false` (`--no-rouge` here), `--no_rouge`."""
    booleans = {f"--{name}" for name, field in field_names(cls).items() if _is_boolean(cls, field)}
    negated = {f"--no_{flag[2:]}": f"--no-{flag[2:]}" for flag in booleans}
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        words += [flag, value] if equals and flag in booleans else [negated.get(word, word)]
    result: list[str] = []
    for word in words:
        if not result or result[-1] not in booleans or word.startswith("-"):
            result.append(word)
        elif (wanted := read_boolean(word)) is None:
            raise ConfigError(f"{result[-1]} {word}: should be true or false; --{result[-1][2:]} alone means true")
        elif not wanted:
            result[-1] = f"--no-{result[-1][2:]}"
    return result


def _take_lists(cls: type[S], argv: list[str]) -> tuple[list[str], dict[str, object]]:
    """The words of a command line, and apart from them its lists: pydantic-settings takes `null`, `[a]` for JSON."""
    names = {f"--{name}": field for name, field in field_names(cls).items() if _is_list(cls, field)}
    words, lists = list[str](), dict[str, object]()
    rest = list(argv)
    while rest:
        flag, equals, value = (word := rest.pop(0)).partition("=")
        if flag not in names or (not equals and (not rest or rest[0].startswith("--"))):
            words.append(word)  # without a value: argparse says so
            continue
        value = value if equals else rest.pop(0)
        before = lists.get(names[flag])
        lists[names[flag]] = f"{before},{value}" if before else value
    return words, lists


def _is_list(cls: type[Settings], field: str) -> bool:
    return field in cls.model_fields and get_origin(cls.model_fields[field].annotation) is tuple


def _is_boolean(cls: type[Settings], field: str) -> bool:
    annotation = cls.model_fields[field].annotation
    return annotation is bool or bool in get_args(annotation)


def _read_environment(cls: type[S]) -> Mapping[str, object]:
    """Values of SFT_<FIELD>. Another script's setting is ignored; an unknown name is refused."""
    given = {name.removeprefix(ENV_PREFIX): value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
    own = {name.upper(): name for name in field_names(cls)}
    if not given.keys() <= own.keys():
        known = _names_of_all_scripts()
        others = other_names(cls.prog, field_names(cls))
        for name in given.keys() - known:
            if name.lower() in others:
                own[name] = name.lower()
            elif not any(name.lower() in names for names in BY_SCRIPT.values()):
                near = nearest_setting(name.upper(), known).replace("'", ENV_PREFIX, 1).replace("'", "")
                raise ConfigError(f"environment variable {ENV_PREFIX}{name}: no such setting{near or '; unset it'}")
    return {own[name]: value for name, value in given.items() if name in own}


def _read_none(cls: type[S], values: Mapping[str, object]) -> Mapping[str, object]:
    """`--system_prompt null` names no value, as `null` in a recipe does: it is not the word."""
    names = field_names(cls)

    def may_be_none(name: str) -> bool:
        field = names.get(name, name)
        known = field in cls.model_fields and field not in cls.verbatim
        return known and NoneType in get_args(cls.model_fields[field].annotation)

    return {
        name: None if isinstance(value, str) and value.lower() in NONE_WORDS and may_be_none(name) else value
        for name, value in values.items()
    }


def _names_of_all_scripts() -> set[str]:
    """{"LORA_R", "ROUGE", ...}: of every settings class in this folder, whichever script imported it."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"sft.config.{module.name}")
    return {name.upper() for settings in _subclasses(Settings) for name in field_names(settings)}


def _subclasses(base: type[Settings]) -> list[type[Settings]]:
    return [base, *(found for child in base.__subclasses__() for found in _subclasses(child))]


def _read_recipe(cls: type[S], path: Path) -> Mapping[str, object]:
    names = field_names(cls)
    shipped = PROJECT_ROOT / "recipes" / f"{path}.yaml"
    if not path.exists() and shipped.is_file():
        raise ConfigError(f"--config {path}: no such file; did you mean {show_path(shipped)}?")
    recipe = read_yaml(path)
    known = {*names, *other_names(cls.prog, names)}
    for key in recipe:
        if key not in known:
            raise ConfigError(f"{path}: {key!r} is no setting of {cls.prog}{nearest_setting(str(key).lower(), names)}")
    if "config" in recipe:
        raise ConfigError(f"{path}: a recipe cannot name another recipe; write the settings of {recipe['config']} here")
    return recipe


def _canonical(cls: type[S], values: Mapping[str, object], origin: str) -> dict[str, object]:
    """Aliases replaced by the field's own name; two names of one field in the same layer are refused."""
    names = field_names(cls)
    result: dict[str, object] = {}
    for key, value in values.items():
        field = names.get(key, key)
        if field in result and result[field] != value:
            raise ConfigError(f"{key!r} and another name of {field!r} are both given ({origin}); keep one")
        result[field] = _split_list(value) if _is_list(cls, field) else value
        if result[field] == [] and value not in ("", [], [""]):  # ","; which lists may be empty their fields say
            raise ConfigError(f"{field} ({origin}): is empty; give a value, or leave it out")
    return result


def _split_list(value: object) -> object:
    """`q_proj, v_proj` -> ["q_proj", "v_proj"], in every layer; a part with a comma in it is in double quotes.

    A recipe may also hold a list, and so may JSON in any layer. Raises ConfigError for what YAML made of yes and null.
    """
    parts = value
    if isinstance(value, str):
        try:
            parts = json.loads(value)
        except ValueError:
            parts = None
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            parts = next(csv.reader([value], skipinitialspace=True), []) if "\n" not in value else value.split(",")
    if not isinstance(parts, list):
        return value
    if wrong := [part for part in parts if part is None or isinstance(part, bool)]:
        raise ConfigError(f"{wrong[0]!r} in a list is no text (YAML reads yes, on and null so); write it in quotes")
    return [str(part).strip() for part in parts if part != ""]


def _merge(cls: type[S], layers: list[tuple[str, Mapping[str, object]]]) -> S:
    merged: dict[str, object] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        for name, value in cls.spell_out(_canonical(cls, values, origin)).items():
            if isinstance(value, str) and not value.strip() and name not in cls.texts:
                raise ConfigError(f"{name} ({origin}): is empty; give a value, or leave it out")
            if isinstance(value, str) and "\0" in value and name not in cls.texts:
                raise ConfigError(f"{name} ({origin}): {_shorten(value)} contains a NUL character; leave it out")
            merged[name], origins[name] = value, origin
    try:
        settings = cls.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, origins)) from None
    defaults = {name: info.get_default(call_default_factory=True) for name, info in cls.model_fields.items()}
    settings._origins.update(
        {name: origin for name, origin in origins.items() if getattr(settings, name) != defaults[name]}
    )
    return settings


def _explain(cls: type[S], error: ValidationError, origins: dict[str, str]) -> str:
    """All of pydantic's findings as one line: `lora_r (flag): 'abc' is not valid: should be a valid integer`."""
    findings = []
    for finding in error.errors():
        name = str(finding["loc"][0]) if finding["loc"] else ""
        name = field_names(cls).get(name, name)
        message = finding["msg"].removeprefix("Input ").removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            findings.append(f"{name}: no such setting{nearest_setting(name, field_names(cls))}")
        elif name:
            findings.append(f"{name} ({origins.get(name, 'default')}): {_shorten(finding['input'])} {message}")
        else:
            findings.append(message)
    return "; ".join(findings)


def _shorten(value: object) -> str:
    """A value as a message repeats it: 'abc'; of a long one the first characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _show(value: object) -> str:
    """A value as one would write it: `q_proj,v_proj`, `true`, `data/mixed`; text that breaks a line in quotes."""
    if isinstance(value, tuple | list):
        return ",".join(_show(part) for part in value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if text and text.isprintable() and text == text.strip() else json.dumps(text, ensure_ascii=False)
