"""What settings refuse: unknown names, ill-typed values, recipes that cannot be meant; each in one line."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.config.build import BuildSettings
from sft.config.evaluate import EvaluateSettings
from sft.config.extract_mongo import ExtractSettings
from sft.config.layers import Settings, load_settings
from sft.config.talk import InferenceSettings
from sft.config.train import TrainSettings
from sft.errors import ConfigError
from tests.commands import ROOT


def refusal(cls: type[Settings], *argv: str) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(ConfigError) as caught:
        load_settings(cls, list(argv))
    line = str(caught.value)
    assert line.splitlines() == [line]
    return line


# Names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning_rte 1e-4", "--learning_rte: unknown flag; did you mean --learning_rate?"),
        ("--learning_rte=1e-4", "--learning_rte: unknown flag; did you mean --learning_rate?"),
        ("--learning-rate 1e-4", "--learning-rate: unknown flag; did you mean --learning_rate?"),
        ("--Lora_R 8", "--Lora_R: unknown flag; did you mean --lora_r?"),
        ("--lora_alph 8", "--lora_alph: unknown flag; did you mean --lora_alpha?"),  # no abbreviations
        ("--lora_r 8 --sede 3 --x", "--sede: unknown flag; did you mean --seed?"),
        ("--zzz", "--zzz: unknown flag; see train.py --help all"),
        ("rows.csv", "rows.csv: train.py takes flags only; write --data rows.csv"),
        ("recipes/demo.yaml", "recipes/demo.yaml: train.py takes flags only; write --config recipes/demo.yaml"),
        ("hello", "hello: train.py takes flags only; see train.py --help"),
    ],
)
def test_a_mistyped_flag_gets_the_nearest_name(words, message):
    assert refusal(TrainSettings, *words.split()) == message


def test_a_mistyped_recipe_key_gets_the_nearest_name_and_the_file(recipe):
    path = recipe("learning_rte: 1e-4")
    expected = f"{path}: 'learning_rte' is no setting of train.py; did you mean 'learning_rate'?"
    assert refusal(TrainSettings, "--config", path) == expected
    path = recipe("LORA_R: 4")
    assert refusal(TrainSettings, "--config", path).endswith("did you mean 'lora_r'?")
    path = recipe("rouge: true")
    assert refusal(TrainSettings, "--config", path) == f"{path}: 'rouge' is no setting of train.py"


@pytest.mark.parametrize("name", ["SFT_LEARNING_RTE", "SFT_learning_rate"])
def test_a_mistyped_variable_gets_the_nearest_name(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    expected = f"environment variable {name}: no such setting; did you mean SFT_LEARNING_RATE?"
    assert refusal(TrainSettings) == expected


# Values and files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lora_r abc", "lora_r (flag): 'abc' should be a valid integer, unable to parse string as an integer"),
        ("--lora_rank 0", "lora_r (flag): '0' should be greater than or equal to 1"),
        ("--method frieze", "method (flag): 'frieze' should be 'lora', 'qlora', 'freeze' or 'full'"),
        ("--learning_rate inf", "learning_rate (flag): 'inf' should be a finite number"),
        ("--num_train_epochs nan", "num_train_epochs (flag): 'nan' should be a finite number"),
        ("--seed -1", "seed (flag): '-1' should be greater than or equal to 0"),
        ("--dry_run maybe", "--dry_run maybe: should be true or false; --dry_run alone means true"),
        (
            "--max_steps",
            "argument --max_steps: expected one argument; a value that begins with - is written --flag=VALUE",
        ),
    ],
)
def test_an_ill_typed_value_is_one_line_with_name_origin_and_value(words, message):
    assert refusal(TrainSettings, *words.split()) == message


def test_an_empty_list_where_one_is_needed_is_refused():
    assert refusal(TrainSettings, "--target_modules", "").startswith("target_modules (flag): []")


def test_all_ill_typed_values_are_reported_at_once_each_with_its_origin(recipe, monkeypatch):
    monkeypatch.setenv("SFT_EVAL_RATIO", "1.5")
    path = recipe("seed: many")
    line = refusal(TrainSettings, "--config", path, "--lora_r", "x")
    origins = ["lora_r (flag): 'x' ", "eval_ratio (environment): '1.5' ", f"seed ({path}): 'many' "]
    assert [part for part in origins if part not in line] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lora_r: 4\nseed: 1\nlora_r: 5\n", "{}:3: not YAML (key 'lora_r' is given twice); fix the line"),
        ("lora_r: 4\nlora_rank: 5\n", "{}: lora_r and lora_rank are two names of lora_r; keep one"),
        ("lora_r: [\n", "{}:2: not YAML (expected the node content, but found '<stream end>'); fix the line"),
        (
            "lora_r: !!python/object:os.system x",
            "{}:1: not YAML (could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'); fix the line",
        ),
        ("- lora_r", "{}: has no settings; write `name: value` lines"),
        ("", "{}: has no settings; write `name: value` lines"),
        ("config: a.yaml", "{}: a recipe cannot name another recipe; write the settings of a.yaml here"),
        ("model: 5", "model ({}): 5 should be a valid string"),
        ("seed: 1\nmodel: 2024-13-45", "{}:2: not YAML ('2024-13-45' is no date); fix the line"),
        ("seed: !!timestamp abc", "{}:1: not YAML ('abc' is no date); fix the line"),
        ("seed: 1\nlora_r: 0x_", "{}:2: not YAML ('0x_' is no number); fix the line"),
        ("lora_r: 0b", "lora_r ({}): '0b' should be a valid integer, unable to parse string as an integer"),
        ("lora_r: !!int abc", "{}:1: not YAML ('abc' is no number); fix the line"),
        ("lora_r: !!int ", "{}:1: not YAML ('' is no number); fix the line"),
        ("lora_r: !!float abc", "{}:1: not YAML ('abc' is no number); fix the line"),
        ("use_dora: !!bool foo", "{}:1: not YAML ('foo' is no truth value); fix the line"),
        (f"seed: {'9' * 5000}", "{}:1: not YAML ('" + "9" * 40 + "' is no number); fix the line"),
        (f"model: {'[' * 5000}", "{}:1: not YAML (nested more than 50 deep); fix the line"),
        ("model: &a [*a]", "{}:1: not YAML (a value contains itself); fix the line"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
            "{}:1: not YAML (its aliases expand to more than 100,000 values); fix the line",
        ),
        ("model: ''", "model ({}): is empty; give a value, or leave it out"),
        (
            f"lora_r: {'x' * 200}",
            "lora_r ({}): '" + "x" * 79 + "... should be a valid integer, unable to parse string as an integer",
        ),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_with_file_and_line(content, message, recipe):
    path = recipe(content)
    assert refusal(TrainSettings, "--config", path) == message.format(path)


@given(st.text(alphabet="ab019xo:_.-+&*[]{}!<>|'\"#, \n?%@", max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_a_recipe_holds_it_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(content, encoding="utf-8")
        with contextlib.suppress(ConfigError):
            load_settings(TrainSettings, ["--config", str(path)])


def test_two_names_of_one_setting_are_a_conflict_and_one_name_given_twice_is_not():
    line = "lora_r and lora_rank are two names of lora_r; keep one"
    assert refusal(TrainSettings, "--lora_rank", "8", "--lora_r", "9") == line
    assert refusal(TrainSettings, "--lora_rank=8", "--lora_r=9") == line
    assert load_settings(TrainSettings, ["--lora_r", "8", "--lora_r", "9"]).lora_r == 9


@pytest.mark.parametrize("flag", ["--model", "--data", "--output_dir", "--revision"])
def test_an_empty_value_is_not_a_name(flag):
    for value in ("", "  "):
        assert refusal(TrainSettings, flag, value) == f"{flag[2:]} (flag): is empty; give a value, or leave it out"


def test_words_for_a_model_may_be_empty():
    assert load_settings(TrainSettings, ["--system_prompt", ""]).system_prompt == ""
    assert load_settings(InferenceSettings, ["--text", "", "--input", ""]).text == ""


@pytest.mark.parametrize(
    "words", ["--host ada:lovelace@db", "--host lovelace@db", "--mongo_uri ada:lovelace@db", "--host=ada:lovelace@db"]
)
def test_a_password_in_a_servers_name_is_refused_and_not_repeated(words):
    assert "lovelace" not in refusal(ExtractSettings, *words.split())


def test_a_recipe_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(recipe):
    path = recipe("model: 中文".encode("gb18030"))
    line = refusal(TrainSettings, "--config", path)
    assert line.startswith(f"{path}: cannot be read (")
    assert line.endswith("; give a YAML file in UTF-8")
    assert load_settings(TrainSettings, ["--config", recipe(b"\xef\xbb\xbflora_r: 4")]).lora_r == 4


def test_a_recipe_may_merge_an_anchor(recipe):
    assert load_settings(TrainSettings, ["--config", recipe("<<: &small {lora_r: 4, seed: 1}\nseed: 2")]).seed == 2


def test_a_missing_recipe_gets_the_list_of_existing_ones(recipe, tmp_path):
    path = recipe("lora_r: 4")
    near = path.replace("recipe.yaml", "recpe.yaml")
    assert refusal(TrainSettings, "--config", near) == f"{near}: no such file; did you mean {path!r}?"
    (tmp_path / "empty").mkdir()
    missing = str(tmp_path / "empty" / "x.yaml")
    assert refusal(TrainSettings, "--config", missing) == f"{missing}: no such file; {tmp_path}/empty has no *.yaml"


@pytest.mark.parametrize(
    ("cls", "words", "advice"),
    [
        (InferenceSettings, ["What is LoRA?"], "write --text 'What is LoRA?'"),
        (InferenceSettings, ["reviews.csv"], "write --file reviews.csv --output answers.jsonl"),
        (EvaluateSettings, ["outputs/gone"], "write --run outputs/gone"),
        (BuildSettings, ["demo"], "write --preset demo"),
        (BuildSettings, ["my_mixture.yaml"], "write --preset my_mixture.yaml"),
    ],
)
def test_a_word_without_a_flag_gets_the_flag_it_needs(cls, words, advice):
    assert refusal(cls, *words).endswith(f"takes flags only; {advice}")


def test_a_run_folder_without_a_flag_gets_the_flag_it_needs(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    assert refusal(InferenceSettings, str(tmp_path)).endswith(f"; write --run {tmp_path}")


def test_a_recipe_named_without_folder_and_ending_gets_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(TrainSettings, "--config", "demo") == "--config demo: no such file; did you mean recipes/demo.yaml?"
    monkeypatch.chdir(tmp_path)
    assert refusal(TrainSettings, "--config", "demo").endswith(f"did you mean {ROOT}/recipes/demo.yaml?")


def test_use_qlora_and_method_in_one_layer_must_agree(recipe):
    message = "use_qlora: True contradicts method: lora; keep one of them"
    assert refusal(TrainSettings, "--use_qlora", "--method", "lora") == message
    assert refusal(TrainSettings, "--config", recipe("use_qlora: yes\nmethod: lora")) == message
    assert load_settings(TrainSettings, ["--use_qlora", "--method", "qlora"]).method == "qlora"
