import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from prompts import PromptError
from sft.errors import ConfigError, DataError, RunError
from sft.files import BusyError, NotWritableError, held, lock_of
from tests.commands import ROOT
from tests.tiny import make_reciting_model

SCRIPT = ROOT / "inference.py"


@pytest.fixture(scope="module")
def reciting_model(tmp_path_factory) -> Path:
    """A model that answers anything with "An\x1b[2J中." and ends there."""
    return make_reciting_model(tmp_path_factory.mktemp("reciting"), "An\x1b[2J中.", ends=True, max_context=512)


@pytest.fixture
def infer(tiny_model_folder, monkeypatch):
    """infer("--task", "ner") runs the script on the tiny model, without standard input."""

    def run(*argv: str, model: Path | None = tiny_model_folder) -> None:
        runpy.run_path(str(SCRIPT))["main"]([*argv, *(["--model", str(model)] if model else [])])

    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield run


def test_an_answer_is_streamed_to_stdout_and_nothing_else_is(infer, reciting_model, capsys):
    infer("--text", "What is LoRA?", "--input", "A paper.", model=reciting_model)
    assert capsys.readouterr().out == "An␛[2J中.\n"


def test_json_holds_a_text_with_what_is_known_about_it(infer, reciting_model, capsys):
    infer("--text", "What is LoRA?", "--json", model=reciting_model)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    result = json.loads(out)
    assert result.pop("duration_s") >= 0
    assert result == {
        "task": "instruct",
        "answer": "An\x1b[2J中.",
        "problem": None,
        "finished": True,
        "num_tokens": 10,
    }


def test_the_answer_to_a_label_task_is_its_likeliest_label_with_confidence(infer, capsys):
    infer("--task", "sentiment", "--text", "房间很干净")
    out, err = capsys.readouterr()
    label = out.removesuffix("\n")
    assert label in ("正面", "负面")
    found = re.search(r"confidence (0\.\d\d) \((.*) 0\.\d\d, .* 0\.\d\d\); all labels together have probability ", err)
    assert found is not None
    assert float(found[1]) >= 0.5
    assert found[2] == label


def test_json_of_a_label_holds_the_probability_of_each(infer, capsys):
    infer("--task", "news", "--text", "三比一", "--category", "Sports,Economy", "--json")
    result = json.loads(capsys.readouterr().out)
    assert list(result["probabilities"]) == ["Sports", "Economy"]
    assert sum(result["probabilities"].values()) == pytest.approx(1.0)
    assert result["confidence"] == max(result["probabilities"].values()) == result["probabilities"][result["label"]]


def test_an_answer_that_names_no_entities_is_shown_as_it_is_with_the_reason(infer, reciting_model, capsys):
    infer("--task", "ner", "--text", "张华在北京", model=reciting_model)
    out, err = capsys.readouterr()
    assert out == "An␛[2J中.\n"
    assert "no valid answer to task ner: no JSON object at 'An\\x1b[2J中.'\n" in err


def test_without_a_text_an_example_of_the_task_is_answered_and_said_to_be_one(infer, capsys):
    infer("--task", "sentiment")
    expected = 'so an example of task sentiment: {"text": "房间很干净，服务态度也好。"}\n'
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("task", ["instruct", "chat", "news", "ner", "moderation", "sentiment_json"])
def test_every_task_has_an_example(infer, task, capsys):
    infer("--task", task, "--max_new_tokens", "4", "--json")
    assert json.loads(capsys.readouterr().out)["task"] == task


def test_a_text_too_long_for_the_model_is_shortened_in_its_document_and_it_is_said(infer, capsys):
    infer("--task", "sentiment", "--text", "x" * 2000)
    assert re.search(r"the text is too long for the model: 1,5\d\d tokens of it were left out", capsys.readouterr().err)


def test_flags_of_another_task_and_missing_ones_are_refused_before_anything_is_loaded(infer):
    nowhere = Path("no/such/model")
    with pytest.raises(ConfigError, match=r"^--category is for task news, this is sentiment; leave it out or pass"):
        infer("--task", "sentiment", "--text", "a", "--category", "b", model=nowhere)
    with pytest.raises(ConfigError, match=r"^task news needs more than a text; give --category too"):
        infer("--task", "news", "--text", "a", model=nowhere)
    with pytest.raises(PromptError, match=r"^there is no task 'sentimnt'"):
        infer("--task", "sentimnt", "--text", "a", model=nowhere)
    with pytest.raises(ConfigError, match=r"--text and --demo are given; keep one of them"):
        infer("--text", "a", "--demo", model=nowhere)
    with pytest.raises(ConfigError, match=r"--file and --output belong together"):
        infer("--file", "a.jsonl", model=nowhere)
    with pytest.raises(DataError, match=r"^a\.jsonl: no such file"):
        infer("--file", "a.jsonl", "--output", "b.jsonl", model=nowhere)


def test_without_a_run_it_says_what_to_do_first(infer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"^no finished run yet; .* talk to an untuned model with --model embedded$"):
        infer("--text", "a", model=None)


@pytest.mark.slow
def test_a_run_answers_a_text_from_a_pipe(tiny_run):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--run", tiny_run, "--max_new_tokens", "20"],
        input="你好".encode(),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.endswith(b"\n")
    assert b"\x1b" not in done.stdout


def test_the_demo_answers_rows_the_run_was_not_trained_on_beside_what_is_expected(infer, tiny_run, capsys):
    infer("--demo", "--run", str(tiny_run), "--max_new_tokens", "4", model=None)
    err = capsys.readouterr().err
    asked = re.findall(r'^instruct: (\{"instruction": .*\})$', err, re.MULTILINE)
    assert len(asked) == len(re.findall(r"^expected: ", err, re.MULTILINE)) == 4  # a tenth of 40 rows is held out


def test_typed_lines_are_answered_one_by_one_until_exit(infer, reciting_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "typed").write_text("hello\n\nagain\nexit\nnever read\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", (tmp_path / "typed").open(encoding="utf-8"))
    infer("--interactive", model=reciting_model)
    assert capsys.readouterr().out == "An␛[2J中.\n" * 2


def test_a_file_is_answered_line_by_line_in_its_order(infer, tmp_path, capsys):
    rows = [{"text": "很好 " * (9 - number), "id": f"r{number}"} for number in range(8)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    infer("--task", "sentiment", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(answer["line"], answer["id"]) for answer in answers] == [(n + 1, f"r{n}") for n in range(8)]
    assert {answer["label"] for answer in answers} <= {"正面", "负面"}
    assert out == f"{tmp_path / 'out.jsonl'}\n"
    assert "8 rows answered, 0 of them without a valid answer\n" in err


def test_a_file_that_another_command_writes_is_refused_before_a_model_is_loaded(infer, rows_file, tmp_path):
    with held(lock_of(tmp_path / "out.jsonl"), "x", "y"), pytest.raises(BusyError) as caught:
        infer("--file", str(rows_file), "--output", str(tmp_path / "out.jsonl"), model=Path("no/such/model"))
    busy, advice = str(caught.value).split(f" (process {os.getpid()} on ")
    assert busy == f"{tmp_path}/out.jsonl: another command is writing it"
    assert advice.endswith("); wait for it, or name another --output")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(infer, rows_file, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritableError, match=r"/file: cannot be written to \(.*\); free it, or name another place$"):
        infer("--file", str(rows_file), "--output", str(tmp_path / "file" / "x"), model=Path("no/such/model"))
