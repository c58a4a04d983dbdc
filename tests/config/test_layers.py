"""Settings in layers: which layer wins, where a value came from, and what a value may look like."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.config.build import BuildSettings
from sft.config.evaluate import EvaluateSettings
from sft.config.inspect_data import InspectSettings
from sft.config.layers import field_names, load_settings, restore_settings
from sft.config.talk import ChatSettings, InferenceSettings
from sft.config.train import TrainSettings
from sft.errors import ConfigError

ROOT = Path(__file__).parents[2]
ALL = (BuildSettings, ChatSettings, EvaluateSettings, InferenceSettings, InspectSettings, TrainSettings)


# Which layer wins


def test_a_flag_wins_over_the_environment_that_over_the_recipe_and_that_over_the_default(recipe, monkeypatch):
    path = recipe("lora_r: 2\nlora_alpha: 2\nlearning_rate: 2\nmodel: a")
    monkeypatch.setenv("SFT_LORA_R", "3")
    monkeypatch.setenv("SFT_LORA_ALPHA", "3")
    settings = load_settings(TrainSettings, ["--config", path, "--lora_r", "4"])
    values = (settings.lora_r, settings.lora_alpha, settings.learning_rate, settings.model, settings.max_seq_length)
    assert values == (4, 3, 2.0, "a", 2048)
    assert settings.origins == {
        "config": "flag",
        "lora_r": "flag",
        "lora_alpha": "environment",
        "learning_rate": path,
        "model": path,
    }


def test_only_values_that_differ_from_the_default_have_an_origin_and_print_as_one_would_write_them(recipe):
    path = recipe("lora_r: 16\nlora_rank: 16\nsystem_prompt: |\n  a\n  b\n")
    flags = ["--config", path, "--target_modules", "q_proj, v_proj", "--learning_rate", "0.0002", "--dry_run"]
    assert load_settings(TrainSettings, flags).describe() == [
        f"{path}: lora_rank is lora_r here",
        f'{path}: system_prompt="a\\nb\\n"',
        "flags: target_modules=q_proj,v_proj dry_run=true",
    ]
    assert load_settings(TrainSettings, ["--config", recipe("lora_r: 16")]).describe() == [f"flags: config={path}"]


def test_paths_print_plainly():
    assert load_settings(BuildSettings, ["--data_dir", "my/data"]).describe() == ["flags: data_dir=my/data"]
    assert load_settings(EvaluateSettings, ["--metric", "a", "--metric", "b.py"]).describe() == ["flags: metric=a,b.py"]


def test_the_recipe_may_be_named_in_the_environment_and_a_flag_names_another(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("SFT_CONFIG", recipe("lora_r: 2"))
    assert load_settings(TrainSettings, []).lora_r == 2
    (tmp_path / "other.yaml").write_text("lora_r: 3")
    assert load_settings(TrainSettings, ["--config", str(tmp_path / "other.yaml")]).lora_r == 3


def test_saved_values_come_between_default_and_recipe(recipe):
    saved = {"lora_r": 2, "lora_alpha": 2, "use_qlora": None, "target_modules": ["q_proj"]}
    settings = load_settings(TrainSettings, ["--config", recipe("lora_r: 3")], below=("x/run.json", saved))
    assert (settings.lora_r, settings.lora_alpha, settings.target_modules) == (3, 2, ("q_proj",))
    assert settings.origins["lora_alpha"] == "x/run.json"


@pytest.mark.parametrize("cls", ALL)
def test_settings_that_were_written_down_come_back_equal(cls):
    settings = load_settings(cls, ["--seed", "7"])
    restored = restore_settings(cls, settings.model_dump(mode="json"), "run.json")
    assert (restored.model_dump(), restored.origins) == (settings.model_dump(), {"seed": "run.json"})


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_settings(TrainSettings, []).lora_r = 3


@pytest.mark.parametrize("cls", ALL)
def test_a_variable_of_another_script_is_left_to_that_script(cls, monkeypatch):
    for other in ALL:
        for name in field_names(other):
            if name not in field_names(cls):
                monkeypatch.setenv(f"SFT_{name.upper()}", "none of this script's")
    assert load_settings(cls, []).origins == {}


def test_the_variable_of_another_script_is_known_before_its_settings_were_ever_imported():
    code = (
        "from sft.config.layers import load_settings\nfrom sft.config.build import BuildSettings\n"
        "print(load_settings(BuildSettings, ['--seed', '3']).describe())"
    )
    environment = {**os.environ, "SFT_LORA_R": "8", "SFT_ROUGE": "1", "SFT_TEMPERATURE": "1", "SFT_NUM_ROWS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['flags: seed=3']\n", "")


# Values


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "0.00002", "2.0e-05"])
def test_a_number_is_a_number_wherever_it_stands(text, recipe, monkeypatch):
    assert load_settings(TrainSettings, ["--learning_rate", text]).learning_rate == 2e-5
    assert load_settings(TrainSettings, [f"--learning_rate={text}"]).learning_rate == 2e-5
    assert load_settings(TrainSettings, ["--config", recipe(f"learning_rate: {text}")]).learning_rate == 2e-5
    monkeypatch.setenv("SFT_LEARNING_RATE", text)
    assert load_settings(TrainSettings, []).learning_rate == 2e-5


@pytest.mark.parametrize("name", ["lora_rank", "lora_r"])
def test_an_alias_works_in_every_layer(name, recipe, monkeypatch):
    assert load_settings(TrainSettings, [f"--{name}", "4"]).lora_r == 4
    assert load_settings(TrainSettings, ["--config", recipe(f"{name}: 4")]).lora_r == 4
    monkeypatch.setenv(f"SFT_{name.upper()}", "4")
    settings = load_settings(TrainSettings, [])
    assert (settings.lora_r, settings.origins) == (4, {"lora_r": "environment"})
    assert load_settings(TrainSettings, ["--lora_rank", "5"]).lora_r == 5  # a flag, whichever of the names it has


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rouge"], True),
        (["--no-rouge"], False),
        (["--no_rouge"], False),
        (["--rouge", "true"], True),
        (["--rouge", "False"], False),
        (["--rouge=yes"], True),
        (["--rouge=0"], False),
        (["--rouge", "off", "--seed", "1"], False),
        (["--seed", "1", "--rouge", "--no-baseline"], True),
    ],
)
def test_a_boolean_is_a_flag_alone_negated_or_with_a_word(words, expected):
    assert load_settings(EvaluateSettings, words).rouge is expected


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("no", False), ("false", False)])
def test_a_boolean_of_recipe_and_environment_takes_the_same_words(text, expected, recipe, monkeypatch):
    assert load_settings(TrainSettings, ["--config", recipe(f"dry_run: {text}")]).dry_run is expected
    monkeypatch.setenv("SFT_DRY_RUN", text)
    assert load_settings(TrainSettings, []).dry_run is expected


def test_a_list_is_separated_by_commas_in_every_layer_and_a_recipe_may_write_yaml(recipe, monkeypatch):
    expected = ("q_proj", "v_proj")
    assert load_settings(TrainSettings, []).target_modules == ("auto",)
    for text in ("q_proj,v_proj", "q_proj, v_proj"):
        assert load_settings(TrainSettings, ["--target_modules", text]).target_modules == expected
        assert load_settings(TrainSettings, ["--config", recipe(f"target_modules: {text}")]).target_modules == expected
        monkeypatch.setenv("SFT_TARGET_MODULES", text)
        assert load_settings(TrainSettings, []).target_modules == expected
    monkeypatch.delenv("SFT_TARGET_MODULES")
    path = recipe("target_modules: [q_proj, v_proj]")
    assert load_settings(TrainSettings, ["--config", path]).target_modules == expected
    assert load_settings(TrainSettings, ["--target_modules", "q_proj"]).target_modules == ("q_proj",)


def test_text_is_taken_literally():
    for text in ('{"a": 1}', "[1, 2]", "a, b", "true", "null", '"quoted"', "- x", "你好，世界"):
        assert load_settings(InferenceSettings, ["--text", text]).text == text
    assert load_settings(InferenceSettings, ["--text=--rouge"]).text == "--rouge"


def test_none_is_written_as_none_in_flag_and_environment_and_as_null_in_a_recipe(recipe, monkeypatch):
    for word in ("None", "none", "null", "NULL"):
        assert load_settings(TrainSettings, ["--system_prompt", word]).system_prompt is None
        assert load_settings(TrainSettings, ["--max_steps", word]).max_steps is None
    assert load_settings(TrainSettings, ["--config", recipe("system_prompt: null")]).system_prompt is None
    monkeypatch.setenv("SFT_SYSTEM_PROMPT", "None")
    assert load_settings(TrainSettings, []).system_prompt is None


# use_qlora, the short form of method


def test_use_qlora_is_short_for_method():
    methods = {
        words: load_settings(TrainSettings, words.split()).method
        for words in ("--use_qlora", "--no-use_qlora", "--use_qlora false", "--use_qlora=true", "--method lora")
    }
    assert methods == {
        "--use_qlora": "qlora",
        "--no-use_qlora": "lora",
        "--use_qlora false": "lora",
        "--use_qlora=true": "qlora",
        "--method lora": "lora",
    }


def test_use_qlora_as_a_flag_wins_over_the_method_of_a_recipe_and_the_other_way_round(recipe):
    settings = load_settings(TrainSettings, ["--config", recipe("method: lora"), "--use_qlora"])
    assert settings.method == "qlora"
    settings = load_settings(TrainSettings, ["--config", recipe("use_qlora: true"), "--method", "lora"])
    assert (settings.method, settings.origins["method"]) == ("lora", "flag")
    assert restore_settings(TrainSettings, settings.model_dump(mode="json"), "run.json").method == "lora"


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("null,true,none", ("null", "true", "none")),
        ('"food, drink",rooms', ("food, drink", "rooms")),
        ('["food, drink", "rooms"]', ("food, drink", "rooms")),
        ("[a],{b}", ("[a]", "{b}")),
        ('a"b,c', ('a"b', "c")),
        ("-1,1", ("-1", "1")),
        ("a\nb,c", ("a\nb", "c")),
    ],
)
def test_a_list_is_the_words_that_were_written_as_a_flag_and_in_the_environment(written, labels, monkeypatch):
    assert load_settings(TrainSettings, ["--labels", written]).labels == labels
    assert load_settings(TrainSettings, [f"--labels={written}"]).labels == labels
    monkeypatch.setenv("SFT_LABELS", written)
    assert load_settings(TrainSettings, []).labels == labels


@pytest.mark.parametrize("line", ["labels: [yes, no]", "labels: [good, null]", "label_map: {yes: good, no: bad}"])
def test_what_yaml_makes_of_yes_no_and_null_is_no_label(recipe, line):
    with pytest.raises(ConfigError, match=r"YAML .* write .* in quotes"):
        load_settings(TrainSettings, ["--config", recipe(line)])
