"""The READMEs followed command by command, with the words that stand there, and their table of accepted rows.

Variables SFT_<FIELD> make the runs small. What `make demo` runs is not repeated here.
"""

import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.data.files.reader import FoundRow, RowReader
from tests.commands import ROOT
from tests.readme import script_calls

FORM_PAGES = ("docs/own-data.md", "docs/zh/own-data.md")
FORM_ROW = re.compile(r"^\| ([\w/]+).* \| `(\{.*\})` \| (\w+) \|$", re.MULTILINE)


class Newcomer:
    """Somebody in a fresh clone: types a README's commands there, in this process, so that libraries load once."""

    def __init__(self, clone: Path) -> None:
        self.clone = clone
        for name in ("examples", "recipes"):
            (clone / name).symlink_to(ROOT / name)

    def types(self, command: str, *, stdin: str = "", **variables: object) -> None:
        """Run the script of a command: types("python chat.py", stdin="exit", SFT_SEED=1)."""
        ((script, *arguments),) = script_calls(command)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.clone)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            for name, value in variables.items():
                patch.setenv(name, str(value))
            runpy.run_path(str(ROOT / script))["main"](arguments)

    def read_run(self, run: str) -> dict[str, object]:
        """The run.json of a run folder: read_run("outputs/latest")."""
        return json.loads((self.clone / run / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """A newcomer in a clone without data and runs."""
    return Newcomer(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def own_run(newcomer, embedded_folder) -> dict[str, object]:
    """The embedded model tuned for one step on the example rows; its run.json."""
    command = "python train.py --config recipes/demo.yaml --data examples/my_dataset.json"
    newcomer.types(command, SFT_MAX_STEPS=1, SFT_PER_DEVICE_TRAIN_BATCH_SIZE=2)
    return newcomer.read_run("outputs/latest")


@pytest.fixture(scope="module")
def small_run(newcomer, tiny_run) -> dict[str, str]:
    """Variables that name a run of the tiny model in the clone, which commands may write into, and keep them short."""
    shutil.copytree(tiny_run, newcomer.clone / "outputs/small")
    shutil.copytree(tiny_run, newcomer.clone / "outputs/earlier")
    return {"SFT_RUN": "outputs/small", "SFT_MAX_NEW_TOKENS": "4"}


def test_ones_own_file_is_split_and_trained_on(own_run):
    assert (own_run["status"], own_run["base"]["name"]) == ("complete", "embedded")
    assert own_run["data"]["split"] == "by content hash, eval_ratio 0.1, seed 42"
    assert [own_run["data"][split]["kept"] for split in ("train", "validation")] == [11, 1]


def test_a_question_is_answered_by_the_latest_run(newcomer, own_run, capsys):
    newcomer.types('python inference.py --text "What is LoRA?"', SFT_MAX_NEW_TOKENS=3)
    out, said = capsys.readouterr()
    assert out.strip()
    assert "cut off after 3 tokens; raise --max_new_tokens for more" in said


def test_a_task_is_answered_as_json(newcomer, own_run, capsys):
    newcomer.types('python inference.py --task sentiment --text "房间很干净" --json', SFT_MAX_NEW_TOKENS=3)
    result = json.loads(capsys.readouterr().out)
    assert list(result["probabilities"]) == ["负面", "正面"]
    assert result["confidence"] == result["probabilities"][result["label"]] >= 0.5


def test_one_can_talk_with_the_latest_run(newcomer, own_run, capsys):
    newcomer.types("python chat.py", stdin="hello\nexit\n", SFT_MAX_NEW_TOKENS=3)
    out, said = capsys.readouterr()
    assert out.count("\n") >= 1
    assert re.search(r"^\(3 tokens, [\d.]+ tokens/s, cut off: raise it with /set max_new_tokens\)$", said, re.MULTILINE)


def test_a_csv_of_reviews_is_looked_at_trained_on_and_evaluated(newcomer, tiny_model_folder, capsys):
    rows = [
        f"{'good' if number % 2 else 'bad'} room {number},{'good' if number % 2 else 'bad'}" for number in range(60)
    ]
    (newcomer.clone / "reviews.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    small = {"SFT_MODEL": tiny_model_folder, "SFT_LORA_LAYERS": 1, "SFT_MAX_STEPS": 2}
    command = "python inspect_data.py --config recipes/small-data.yaml --data reviews.csv --labels bad,good -n 1"
    newcomer.types(command, SFT_MODEL=tiny_model_folder)
    shown = capsys.readouterr().out
    assert "system\nYou are a helpful assistant." in shown
    assert "«" in shown
    command = "python train.py --config recipes/small-data.yaml --data reviews.csv --labels bad,good"
    newcomer.types(command, **small, SFT_OUTPUT_DIR="outputs/csv")
    run = newcomer.read_run("outputs/csv")
    assert (run["status"], [run["data"][split]["kept"] for split in ("train", "validation")]) == ("complete", [54, 6])
    newcomer.types("python evaluate.py", SFT_RUN="outputs/csv", SFT_MAX_NEW_TOKENS=3)
    assert "accuracy" in capsys.readouterr().out


def test_a_run_is_compared_with_an_earlier_one_and_a_condition_is_checked(newcomer, small_run, capsys):
    newcomer.types("python evaluate.py --baseline outputs/earlier", **small_run)
    newcomer.types("""python evaluate.py --fail_if 'comparison.outcome == "hurt"'""", **small_run)
    newcomer.types("python evaluate.py --rouge --calibrate --robustness", **small_run, SFT_ROBUSTNESS_ROWS=2)
    assert "eval_loss" in capsys.readouterr().out
    assert (newcomer.clone / "outputs/small/evaluation/report.html").is_file()


def test_a_file_is_answered_line_by_line_and_held_out_rows_are_shown(newcomer, small_run, capsys):
    newcomer.types("python inference.py --file examples/my_dataset.json --output answers.jsonl", **small_run)
    answers = (newcomer.clone / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == len(json.loads((ROOT / "examples/my_dataset.json").read_text(encoding="utf-8")))
    newcomer.types("python inference.py --demo", **small_run)
    assert capsys.readouterr().out


def test_a_run_is_merged_written_as_gguf_and_ready_to_push(newcomer, small_run, capsys):
    newcomer.types("python export.py --merge", **small_run)
    newcomer.types("python export.py --gguf q8_0 --modelfile", **small_run)
    exported = newcomer.clone / "outputs/small/export"
    assert {path.name for path in exported.iterdir()} >= {"merged", "gguf"}
    newcomer.types("python export.py --push you/reviews --dry_run", **small_run)
    assert "adapter_model.safetensors" in capsys.readouterr().err


def test_a_row_is_shown_as_the_model_sees_it(newcomer, embedded_folder, capsys):
    newcomer.types("python inspect_data.py --config recipes/demo.yaml -n 1", SFT_DATA="examples/my_dataset.json")
    shown = capsys.readouterr().out
    assert "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n" in shown
    assert shown.count("«") == 2  # the legend and the one row


def test_a_dry_run_of_the_demo_reports_and_writes_nothing(newcomer, tiny_model_folder, rows_file, capsys):
    before = sorted(newcomer.clone.rglob("run.json"))
    small = {"SFT_MODEL": tiny_model_folder, "SFT_DATA": rows_file, "SFT_LORA_LAYERS": 1}
    newcomer.types("python train.py --config recipes/demo.yaml --dry_run", **small)
    figures = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert figures == [
        "steps",
        "micro_batch_tokens",
        "micro_batches_per_step",
        "longest_batch_tokens",
        "recomputed_layers",
        "unpacks",
        "tokens_per_second",
        "peak_gb",
        "step_s",
        "estimated_duration_s",
    ]
    assert sorted(newcomer.clone.rglob("run.json")) == before


def test_a_copied_preset_gives_as_many_rows_as_its_page_says_and_can_be_trained_on(newcomer, tiny_model_folder):
    subprocess.run(["cp", "recipes/data/demo.yaml", "my_mixture.yaml"], cwd=newcomer.clone, check=True)
    newcomer.types("python build_dataset.py --preset my_mixture.yaml --name mine --on_bad_row quarantine")
    dataset = open_dataset(newcomer.clone / "data" / "mine")
    num_rows = [len(dataset.train), len(dataset.validation), len(dataset.test)]
    text = (ROOT / "docs/demo.md").read_text(encoding="utf-8").partition("<!-- demo output begins -->")[0]
    told = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]
    assert told == [sum(num_rows), num_rows[0], num_rows[2]]

    small = {"SFT_MODEL": tiny_model_folder, "SFT_LORA_LAYERS": 1, "SFT_MAX_STEPS": 1, "SFT_OUTPUT_DIR": "outputs/mine"}
    newcomer.types("python train.py --config recipes/demo.yaml --data data/mine", **small)
    run = newcomer.read_run("outputs/mine")
    assert (run["status"], run["data"]["sha256"]) == ("complete", dataset.sha256)


def test_the_reference_recipe_is_tried_and_trained_as_it_is_on_a_small_model(
    newcomer, tiny_model_folder, rows_file, capsys
):
    small = {"SFT_MODEL": tiny_model_folder, "SFT_DATA": rows_file}
    newcomer.types("python train.py --config recipes/qwen2.5-7b-instruct-qlora.yaml --dry_run", **small)
    assert "steps: 15\n" in capsys.readouterr().out  # 36 rows in steps of 8 are 5; three epochs
    newcomer.types(
        "python train.py --config recipes/qwen2.5-coder-1.5b-freeze.yaml --dry_run",
        **small,
        SFT_FREEZE_TRAINABLE_LAYERS=1,
    )
    small |= {"SFT_MAX_STEPS": 1, "SFT_OUTPUT_DIR": "outputs/reference"}
    newcomer.types("python train.py --config recipes/qwen2.5-7b-instruct-qlora.yaml", **small)
    run = newcomer.read_run("outputs/reference")
    kept = ("method", "lora_r", "lora_alpha", "optim", "neftune_noise_alpha", "max_seq_length", "learning_rate", "seed")
    assert [run["settings"][name] for name in kept] == ["qlora", 16, 32, "adamw_8bit", 5.0, 2048, 2e-4, 3407]


def test_a_classifier_is_trained_on_reviews_and_answers_with_a_label(newcomer, tied_model_folder, capsys):
    newcomer.types("python build_dataset.py --preset reviews --name reviews", SFT_TOTAL=90)
    small = {"SFT_MODEL": tied_model_folder, "SFT_LORA_LAYERS": 1, "SFT_MAX_STEPS": 2, "SFT_OUTPUT_DIR": "outputs/head"}
    newcomer.types("python train.py --config recipes/demo-head.yaml", **small)
    run = newcomer.read_run("outputs/head")
    assert (run["status"], run["head"]["label2id"]) == ("complete", {"负面": 0, "正面": 1})
    assert run["data"]["train"]["labels"] == {"负面": 30, "正面": 30}
    capsys.readouterr()
    newcomer.types('python inference.py --text "房间很干净"', SFT_RUN="outputs/head")
    assert capsys.readouterr().out in ("负面\n", "正面\n")


@pytest.mark.parametrize("page", FORM_PAGES)
def test_every_row_of_the_table_of_forms_is_read_as_it_says(page, tmp_path):
    table = FORM_ROW.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(table) == 11
    for columns, example, task in table:
        path = tmp_path / "row.jsonl"
        path.write_text(example + "\n", encoding="utf-8")
        reader = RowReader(path)
        (found,) = reader
        assert isinstance(found, FoundRow), found
        assert (list(reader.dialects), reader.ignored_columns, found.row["task"]) == ([columns], set(), task)
