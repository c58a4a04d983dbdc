"""Settings in layers: default < recipe file (--config) < environment (SFT_<FIELD>) < flag.

A script's settings are one flat, frozen class; every field is documented once, with its unit. Nothing unknown is
accepted anywhere: a mistyped flag, recipe key or environment variable is refused with the nearest name.

    settings = load_settings(TrainSettings, ["--config", "recipes/demo.yaml", "--lora_r", "8"])
    settings.lora_r                    # 8
    settings.origins["lora_r"]         # "flag"
"""

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sft.errors import ConfigError

ENV_PREFIX = "SFT_"
UNKNOWN_FLAG = "unrecognized arguments: "  # argparse's wording, as pydantic-settings passes it on

S = TypeVar("S", bound="Settings")


class Settings(BaseSettings):
    """Base of every script's settings: frozen, flat, nothing unknown accepted."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        env_prefix=ENV_PREFIX,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        protected_namespaces=(),
    )

    prog: ClassVar[str] = ""  # the script's name, for --help

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def origins(self) -> dict[str, str]:
        """Where each value that is not a default came from: {"lora_r": "flag", "model": "recipes/demo.yaml"}."""
        return dict(self._origins)

    def describe(self) -> list[str]:
        """One line for each value that is not a default: `lora_r = 8 (flag)`."""
        return [f"{name} = {getattr(self, name)!r} ({origin})" for name, origin in self._origins.items()]

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


def load_settings(cls: type[S], argv: list[str] | None = None) -> S:
    """Settings of one script from its command line (`argv`, default sys.argv[1:]) and the layers below it.

    Raises ConfigError for an unknown name, an ill-typed value or a recipe that cannot be read; prints help and
    raises SystemExit(0) for --help.
    """
    flags = _read_flags(cls, sys.argv[1:] if argv is None else argv)
    environment = _read_environment(cls)
    config = flags.get("config", environment.get("config"))
    recipe = _read_recipe(cls, Path(str(config))) if config and "config" in cls.model_fields else {}
    return _merge(cls, [(str(config), recipe), ("environment", environment), ("flag", flags)])


def restore_settings(cls: type[S], values: Mapping[str, object], origin: str) -> S:
    """Settings from values written down earlier, e.g. those of a run.json; every given value has the one origin."""
    return _merge(cls, [(origin, dict(values))])


def nearest_name(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'learning_rate'?"` for 'learning_rte', or the empty string where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def field_names(cls: type[Settings]) -> dict[str, str]:
    """Every accepted name of every field -> the field's own name: {"lora_r": "lora_r", "lora_rank": "lora_r"}."""
    names = {}
    for field, info in cls.model_fields.items():
        names[field] = field
        for alias in getattr(info.validation_alias, "choices", []):
            names[str(alias)] = field
    return names


def _read_flags(cls: type[S], argv: list[str]) -> dict[str, object]:
    try:
        source: CliSettingsSource[S] = CliSettingsSource(
            cls, cli_parse_args=_spell_out_booleans(cls, argv), cli_prog_name=cls.prog or None
        )
        return _canonical(cls, source())
    except SettingsError as error:
        text = str(error).split(": ", 1)[-1]
        if text.startswith(UNKNOWN_FLAG):
            flag = next((word for word in text.removeprefix(UNKNOWN_FLAG).split() if word.startswith("-")), None)
            if flag is None:
                raise ConfigError(f"{text}; {cls.prog} takes flags only, see {cls.prog} --help") from None
            flag = flag.partition("=")[0]
            near = (
                nearest_name(flag.lstrip("-").replace("-", "_"), field_names(cls))
                .replace("'", "--", 1)
                .replace("'", "")
            )
            raise ConfigError(f"{flag}: unknown flag{near or f'; see {cls.prog} --help'}") from None
        raise ConfigError(" ".join(text.split())) from None


def _spell_out_booleans(cls: type[S], argv: list[str]) -> list[str]:
    """`--rouge true` and `--rouge=false`, as Hugging Face's scripts take them, become `--rouge` and `--no-rouge`."""
    booleans = {name for name, field in field_names(cls).items() if _is_boolean(cls, field)}
    words: list[str] = []
    for word in (part for item in argv for part in _split_flag(item, booleans)):
        value = word.lower()
        if words and words[-1].removeprefix("--") in booleans and value in ("true", "false", "1", "0", "yes", "no"):
            if value in ("false", "0", "no"):
                words[-1] = f"--no-{words[-1].removeprefix('--')}"
        else:
            words.append(word)
    return words


def _split_flag(word: str, booleans: set[str]) -> list[str]:
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag.removeprefix("--") in booleans else [word]


def _is_boolean(cls: type[Settings], field: str) -> bool:
    annotation = cls.model_fields[field].annotation
    return annotation is bool or bool in get_args(annotation)


def _read_environment(cls: type[S]) -> dict[str, object]:
    """Values of SFT_<FIELD>; a name no settings class of the project knows is refused, one of another script is not."""
    known = {name.upper() for settings in _all_settings(Settings) for name in field_names(settings)}
    for variable in os.environ:
        name = variable.removeprefix(ENV_PREFIX)
        if variable.startswith(ENV_PREFIX) and name not in known:
            near = nearest_name(name, known).replace("'", ENV_PREFIX, 1).replace("'", "")
            raise ConfigError(f"environment variable {variable}: no such setting{near or '; unset it'}")
    given: dict[str, object] = {}
    for name, field in field_names(cls).items():
        value = os.environ.get(f"{ENV_PREFIX}{name.upper()}")
        if value is not None:
            given[name] = value.split(",") if get_origin(cls.model_fields[field].annotation) is tuple else value
    return _canonical(cls, given)


def _all_settings(base: type[Settings]) -> list[type[Settings]]:
    return [base, *(found for child in base.__subclasses__() for found in _all_settings(child))]


class _RecipeLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file that holds one mapping; raises ConfigError naming file and line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except FileNotFoundError:
        here = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{nearest_name(str(path), here) or f'; there are {here}'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML ({getattr(error, 'problem', None) or error}); mend the line") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no settings; write `name: value` lines")
    return content


def _read_recipe(cls: type[S], path: Path) -> dict[str, object]:
    names = field_names(cls)
    recipe = read_yaml(path)
    for key in recipe:
        if key not in names:
            raise ConfigError(f"{path}: {key!r} is no setting of {cls.prog}{nearest_name(str(key), names)}")
    return _canonical(cls, recipe)


def _canonical(cls: type[S], values: Mapping[str, object]) -> dict[str, object]:
    """Aliases replaced by the field's own name; two names of one field in the same layer are refused."""
    names = field_names(cls)
    result: dict[str, object] = {}
    for key, value in values.items():
        field = names.get(key, names.get(key.lower(), key))
        if field in result and result[field] != value:
            raise ConfigError(f"{key!r} and another name of {field!r} are both given; keep one")
        result[field] = value
    return result


def _merge(cls: type[S], layers: list[tuple[str, dict[str, object]]]) -> S:
    merged: dict[str, object] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        for name, value in values.items():
            merged[name], origins[name] = value, origin
    try:
        settings = cls(**merged)
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
            findings.append(f"{name}: no such setting{nearest_name(name, field_names(cls))}")
        elif name:
            findings.append(f"{name} ({origins.get(name, 'default')}): {finding['input']!r} {message}")
        else:
            findings.append(message)
    return "; ".join(findings)
