"""Predictor and inference.py on a run with a classification head: labels with their probabilities, nothing written."""

import io
import json
import runpy
import sys
from pathlib import Path

import pytest

from prompts import PromptError
from sft.errors import ConfigError, RunError
from sft.inference import Predictor
from sft.runs.run import open_run
from sft.scoring import score_classes
from tests.commands import ROOT

TEXTS = ["第1间房很好", "第2间房太差，住了一晚", "很好" * 9, {"task": "sentiment", "text": "太差"}]


@pytest.fixture(scope="module")
def predictor(head_run) -> Predictor:
    return Predictor(head_run)


def test_an_answer_is_a_label_with_the_probability_of_every_label(predictor):
    found = predictor.predict("第1间房很好")
    prompt = predictor._ask("第1间房很好").ids
    (shares,) = score_classes(predictor.loaded, [prompt], shown=False).double().exp().tolist()
    assert found.probabilities == pytest.approx({"负面": shares[0], "正面": shares[1]}, abs=1e-6)
    assert found.label == max(found.probabilities, key=found.probabilities.get)
    assert found.confidence == found.probabilities[found.label]
    assert found.to_fields() == {
        "task": "sentiment",
        "answer": found.label,
        "label": found.label,
        "confidence": found.confidence,
        "probabilities": found.probabilities,
        "label_mass": pytest.approx(1.0),
        "problem": None,
        "finished": True,
        "num_tokens": 0,
    }


def test_a_batch_answers_as_each_text_alone_does(predictor):
    batch = predictor.predict_batch(TEXTS)
    for text, found in zip(TEXTS, batch, strict=True):
        alone = predictor.predict(text)
        assert (found.label, found.task) == (alone.label, "sentiment")
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert len({found.confidence for found in batch}) == 4


def test_a_long_text_is_shortened_to_what_it_was_trained_on(predictor, head_run):
    found = predictor.predict("住了一晚，" * 40)
    assert open_run(head_run).train_settings().max_seq_length == 192
    assert len(predictor._ask("住了一晚，" * 40).ids) <= 192
    assert found.num_cut > 100


def test_it_writes_nothing_and_knows_no_task_but_its_own(predictor, head_run):
    with pytest.raises(
        RunError, match=r"^stream: run has a classification head, which says labels and writes nothing; "
    ):
        predictor.stream("很好")
    with pytest.raises(ConfigError, match=r"^--task instruct: the run's classification head knows sentiment; leave it"):
        Predictor(head_run, task="instruct")
    with pytest.raises(
        PromptError, match=r"^the row: task instruct has no label in common with the head's, 负面, 正面$"
    ):
        predictor.predict({"task": "instruct", "instruction": "What is LoRA?"})


# The command


@pytest.fixture
def infer(head_run, monkeypatch):
    """infer("--text", "x") runs the script on the run."""

    def run(*argv: str, typed: str = "") -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8"))
        runpy.run_path(str(ROOT / "inference.py"))["main"]([*argv, "--run", str(head_run)])

    return run


def test_a_text_is_answered_with_its_label_and_what_it_rests_on(infer, predictor, capsys):
    infer("--text", "第1间房很好")
    out, err = capsys.readouterr()
    expected = predictor.predict("第1间房很好")
    assert out == f"{expected.label}\n"
    assert f"confidence {expected.confidence:.2f} (" in err
    infer("--text", "第1间房很好", "--json")
    fields = json.loads(capsys.readouterr().out)
    assert fields.pop("duration_s") >= 0
    assert fields["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert set(fields) == set(expected.to_fields())


def test_typed_lines_are_answered_one_by_one(infer, predictor, capsys):
    infer("--interactive", typed="第1间房很好\n\n太差\nexit\nnever\n")
    assert capsys.readouterr().out.split() == [predictor.predict(text).label for text in ("第1间房很好", "太差")]


def test_a_file_is_answered_in_its_order_and_a_row_it_cannot_answer_says_why(infer, predictor, tmp_path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"text": "第1间房很好"}, {"task": "ner", "text": "张华在北京"}, {"text_cn": "太差"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    infer("--file", str(source), "--output", str(target))
    lines = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line.get("label") for line in lines] == [
        predictor.predict("第1间房很好").label,
        None,
        predictor.predict("太差").label,
    ]
    assert lines[1]["problem"] == "the row: task ner has no label in common with the head's, 负面, 正面"
    assert "3 rows answered, 1 of them without a valid answer" in capsys.readouterr().err


def test_held_out_rows_are_shown_as_examples(infer, capsys):
    infer("--demo")
    out, err = capsys.readouterr()
    assert set(out.split()) <= {"负面", "正面"}
    assert "expected: " in err


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("chat.py", [], "chat.py: run has a classification head, which says labels and writes nothing; ask it with "),
        ("serve.py", ["--backend", "vllm"], "--backend vllm: run has a classification head, which says labels and "),
        (
            "export.py",
            ["--gguf", "q8_0"],
            "--gguf: run has a classification head, which says labels and writes nothing",
        ),
        (
            "inference.py",
            ["--text", "x", "--task", "ner"],
            "--task ner: the run's classification head knows sentiment; ",
        ),
    ],
)
def test_what_needs_a_model_that_writes_is_refused_in_one_line(script, flags, message, head_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RunError, ConfigError)) as caught:
        runpy.run_path(str(ROOT / script))["main"]([*flags, "--run", str(head_run)])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert list(Path(tmp_path).iterdir()) == []
