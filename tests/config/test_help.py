"""`--help`: short by default, everything on request, and written for people instead of a parser."""

import re
import shlex

import pytest
from pydantic import Field

from sft.config.help import group_fields
from sft.config.layers import Settings, load_settings
from sft.errors import ConfigError
from tests.commands import ROOT, SCRIPTS, settings_class_of

CLASSES = [settings_class_of(script) for script in SCRIPTS]
by_script = pytest.mark.parametrize("cls", CLASSES, ids=SCRIPTS)


@pytest.fixture
def help_of(capsys, monkeypatch):
    """help_of(TrainSettings, "--help", "all") -> what is printed."""

    def show(cls: type[Settings], *words: str, columns: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            load_settings(cls, list(words))
        assert ended.value.code == 0
        return capsys.readouterr().out

    return show


@by_script
def test_help_has_one_line_of_usage_examples_and_about_ten_flags(cls, help_of):
    shown = help_of(cls, "--help")
    lines = shown.splitlines()
    assert lines[0] == f"usage: python {cls.prog} [--flag VALUE ...]"
    assert 2 <= len(cls.examples) <= 3
    assert all(f"  {example}" in lines for example in cls.examples)
    assert 8 <= len(re.findall(r"^  -", shown, re.MULTILINE)) <= 16
    assert max(map(len, lines)) <= 120


@by_script
def test_the_examples_of_help_are_accepted_by_the_script(cls):
    for example in cls.examples:
        words = shlex.split(example.rpartition(" | ")[2])
        assert words[:2] == ["python", cls.prog]
        assert (ROOT / words[1]).is_file()
        load_settings(cls, words[2:])


@by_script
def test_help_all_describes_every_setting_once(cls, help_of):
    shown = help_of(cls, "--help", "all")
    words = " ".join(shown.split())
    for name, info in cls.model_fields.items():
        assert str(info.description) in words, name
    flags = re.findall(r"^  --(?:\[no-\])?([\w-]+)", shown, re.MULTILINE)
    assert (len(flags), len(set(flags))) == (len(cls.model_fields), len(cls.model_fields))


@by_script
def test_help_names_values_and_no_types_of_python_nor_empty_defaults(cls, help_of):
    shown = help_of(cls, "--help", "all")
    flags = " ".join(re.findall(r"^  --.*?(?=  |$)", shown, re.MULTILINE))
    assert re.findall(r"\b(?:str|int|float|bool|tuple|list|Path)\b", flags) == []
    assert [text for text in ("default None", "default: None", "default ()", "no-json") if text in shown] == []


@by_script
def test_common_settings_and_first_ones_of_groups_exist(cls):
    known = set(cls.model_fields)
    assert set(cls.common) - known == set()
    groups = group_fields(cls)
    assert [name for names in groups.values() for name in names]
    assert set().union(*groups.values()) == known
    assert set(cls.sections) - known == set()


def test_help_of_a_group_or_a_setting_shows_that_alone(help_of):
    train = settings_class_of("train.py")
    adapter = help_of(train, "--help", "adapter")
    assert adapter.startswith("Adapter\n  --method lora|qlora|freeze|full\n")
    assert "--learning_rate" not in adapter
    expected = "  --lora_r N               rank of the adapter (default 16)\n"
    assert help_of(train, "--help=lora_r", columns=200) == expected
    assert help_of(train, "-h") == help_of(train, "--dry_run", "--help")


def test_an_unknown_help_topic_gets_the_nearest_one_or_the_whole_list():
    train = settings_class_of("train.py")
    with pytest.raises(ConfigError, match="--help adapte: no such topic; did you mean 'adapter'"):
        load_settings(train, ["--help", "adapte"])
    with pytest.raises(ConfigError, match="there are all, general, data, model, adapter, schedule, memory, output"):
        load_settings(train, ["--help", "zzz"])


def test_help_shows_a_percent_sign_as_it_is(help_of):
    class Shares(Settings):
        """Takes 90 % and %s of it."""

        prog = "shares.py"
        share: float = Field(0.5, description="50 % or 100%, %(default)s, %d")

    shown = help_of(Shares, "--help")
    assert "50 % or 100%, %(default)s, %d (default 0.5)" in shown
    assert "Takes 90 % and %s" in shown
