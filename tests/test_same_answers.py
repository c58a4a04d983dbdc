"""One run, one row, one answer: what evaluate.py measures is what every other door of the project says."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from prompts import conversation_of
from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.config.serve import ServeSettings
from sft.evaluation import evaluate_run
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.serve.protocol import ChatRequest
from sft.serve.replies import decide_decoding
from sft.serve.served import Asked
from tests.commands import ROOT
from tests.conftest import train_tiny
from tests.serve.conftest import run_server

JSON_ANSWER = '[{"k": 1}, {"k": 1}, {"k": 1}]'  # repeats itself for a reason, as JSON does


@pytest.fixture(scope="module")
def json_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run that has learned to answer questions with rows of JSON; of its entities it is not sure yet."""
    folder = tmp_path_factory.mktemp("json_run")
    rows = [{"instruction": "List.", "input": f"number {n}", "output": JSON_ANSWER} for n in range(40)]
    person = {"start_idx": 0, "end_idx": 2, "entity_text": "张华", "entity_label": "人名"}
    rows += [{"text": f"张华{n}在北京", "entities": [person]} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ("--max_steps", "90", "--eval_steps", "90", "--learning_rate", "1e-2", "--neftune_noise_alpha", "0")
    return train_tiny(folder / "run", "full", tiny_model_folder, folder / "rows.jsonl", *flags)


@pytest.fixture(scope="module")
def measured(json_run) -> list[dict]:
    """What evaluate.py measures of the run, each prediction with the row it answers, which holds no answer."""
    torch.set_num_threads(1)
    rows = (json_run.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = evaluate_run(open_run(json_run), EvaluateSettings(no_baseline=True)).predictions
    for line in predictions:
        row = json.loads(rows[int(line["id"].removeprefix("rows-")) - 1])
        line["row"] = {
            "task": line["task"],
            **{name: row[name] for name in ("instruction", "input", "text") if name in row},
        }
    return predictions


@pytest.fixture
def infer(monkeypatch, capsys, json_run):
    """Run inference.py on the run and return what it prints."""

    def call(*flags: object) -> str:
        monkeypatch.setattr(sys, "argv", ["inference.py", "--run", str(json_run), *map(str, flags)])
        runpy.run_path(str(ROOT / "inference.py"))["main"]()
        return capsys.readouterr().out

    return call


def agrees(answer: str, line: dict) -> bool:
    """An answer is the one measured; of one that evaluate.py cut at its limit, the beginning is."""
    return answer == line["prediction"] if line["finished"] else answer.startswith(line["prediction"])


def test_the_run_under_test_says_rows_of_json_and_is_measured_so(measured):
    assert [line["prediction"] for line in measured if line["task"] == "instruct"].count(JSON_ANSWER) >= 2
    assert {line["task"] for line in measured} == {"instruct", "ner"}


def test_a_file_is_answered_as_was_measured(infer, measured, tmp_path):
    rows = "".join(json.dumps(line["row"]) + "\n" for line in measured)
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    infer("--file", tmp_path / "rows.jsonl", "--output", tmp_path / "answers.jsonl")
    answers = [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [agrees(answer, line) for answer, line in zip(answers, measured, strict=True)] == [True] * len(measured)


@pytest.mark.parametrize("flags", [(), ("--temperature", "0"), ("--json",)])
def test_a_text_is_answered_as_was_measured_streamed_and_whole(infer, measured, flags):
    line = next(line for line in measured if line["prediction"] == JSON_ANSWER)
    out = infer("--task", "instruct", "--text", line["row"]["instruction"], "--input", line["row"]["input"], *flags)
    assert (json.loads(out)["answer"] if flags == ("--json",) else out.removesuffix("\n")) == JSON_ANSWER


@pytest.mark.parametrize("settings", [{}, {"decoding": "chat"}])
def test_a_request_with_temperature_0_is_answered_as_was_measured_whatever_the_server_does_otherwise(
    json_run, measured, settings
):
    run = open_run(json_run)
    with run_server(load_run(run), run, **{"max_new_tokens": 512, **settings}) as server:
        for line in measured:
            *_, turn = conversation_of(line["row"], run.system_prompt, with_answer=False)
            name = "tiny:ner" if line["task"] == "ner" else "tiny"
            turns = [{"role": "user", "content": line["row"].get("text", turn["content"])}]
            found = server.client().chat.completions.create(model=name, messages=turns, temperature=0)
            assert agrees(found.choices[0].message.content, line)


def decoding_of(request: dict, *flags: str) -> dict:
    """How serve.py with these flags answers a request; only what is not greedy without penalties."""
    asked = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **request})
    decided = decide_decoding(load_settings(ServeSettings, list(flags)), asked, Asked([]))
    return decided.model_dump(exclude_defaults=True)


def test_a_request_that_does_not_say_how_to_draw_gets_what_was_measured_and_others_openais_defaults():
    drawn = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    chat = ("--decoding", "chat")
    assert decoding_of({}) == {}
    assert decoding_of({}, *chat) == drawn  # asked for
    assert decoding_of({"temperature": 0}, *chat) == decoding_of({"temperature": 0}) == {}
    assert decoding_of({"temperature": 0.7}, *chat) == decoding_of({"temperature": 0.7}) == {"temperature": 0.7}
    assert decoding_of({"top_p": 0.5}) == {"temperature": 1.0, "top_p": 0.5}
    assert decoding_of({"seed": 7}) == {"temperature": 1.0, "seed": 7}
    assert decoding_of({"top_p": 0.5}, "--temperature", "0.2") == {"temperature": 0.2, "top_p": 0.5}
    assert decoding_of({"temperature": 0, "repetition_penalty": 1.1}) == {"repetition_penalty": 1.1}
