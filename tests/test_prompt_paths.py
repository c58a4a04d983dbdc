"""One question is one prompt, id for id, wherever it is asked and whatever the right answer is."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from prompts import Rules
from prompts.tasks import get_task
from sft.config.decoding import DECODING
from sft.config.serve import ServeSettings
from sft.conversation import Conversation, limits_of
from sft.encoding import encode_rows
from sft.evaluation.rows import prepare_rows
from sft.inference import Predictor
from sft.inference.files import describe_source
from sft.runs.run import open_run
from sft.serve.protocol import ChatRequest
from sft.serve.replies import prepare_answer
from sft.serve.served import ask, list_served
from sft.talk.session import Session
from sft.training.objective import LabelMeasure

LONG = "".join(f"sentence {number} of a long text. " for number in range(40))
NEWS = {"task": "news", "category": ["Sci/Tech", "World", "the day before yesterday"]}
QUESTIONS = [  # each with all its answers
    *([{**NEWS, "text": text, "output": right} for right in NEWS["category"]] for text in (LONG, "short")),
    [{"task": "sentiment", "text": LONG, "label": right} for right in ("负面", "正面")],
    [{"task": "sentiment_json", "text": LONG, "label": right} for right in (0, 1)],
    [{"task": "moderation", "text": LONG, "label": right} for right in ("正常", "歧视", "色情低俗")],
    [
        {"task": "instruct", "instruction": "Why?", "input": LONG, "output": right}
        for right in ("Because.", "b" * 30, "c" * 60)
    ],
    [{"task": "ner", "text": "Bonn", "entities": found} for found in (
        [], [{"start_idx": 0, "end_idx": 4, "entity_text": "Bonn", "entity_label": "GPE"}])],
    [{"task": "chat", "messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        {"role": "user", "content": LONG}, {"role": "assistant", "content": right}]} for right in ("a", "b" * 60)],
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_run):
    """The tiny run, as if it had been trained on rows of 400 tokens, a byte each."""
    run = open_run(tiny_run)
    return replace(run, settings={**run.settings, "max_seq_length": 400})


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run)


@pytest.mark.parametrize("answers", QUESTIONS, ids=lambda answers: answers[0]["task"])
def test_training_evaluation_inference_and_server_ask_the_same_whatever_is_right(answers, run, predictor):
    trained, loaded, prompt = run.train_settings(), predictor.loaded, run.system_prompt
    rows = [{"id": f"r{n}", "source": "s", **row} for n, row in enumerate(answers)]
    task = get_task(rows[0]["task"])
    encoded = encode_rows(rows, loaded.chat, prompt, Rules(max_length=trained.max_seq_length))
    last = {row["id"]: example.prompt_ids for row, example in zip(encoded.rows, encoded.encoded, strict=True)}
    assert len(last) == len(rows)
    prompts = list(last.values())
    prompts += LabelMeasure(encoded).prompts
    for turns in ("all", "last"):
        found = prepare_rows(rows, loaded.chat, prompt, trained, trained.max_seq_length, turns=turns)
        prompts += [row.prompt_ids for row in found.last_turns]
    unanswered = [{name: value for name, value in row.items() if name not in task.answer_fields} for row in rows]
    prompts += [predictor._ask(row).ids for row in unanswered]
    if task.kind != "text":
        prompts.append(ids_of_server(unanswered[0], run, predictor))
    assert all(ids == prompts[0] for ids in prompts)


def ids_of_server(row: dict, run, predictor) -> list[int]:
    served = list_served("tiny", None)[f"tiny:{row['task']}"]
    turns = [{"role": "user", "content": row["text"]}]
    asked = ask(served, turns, run.system_prompt, row.get("category"))
    request = ChatRequest(model=served.name, messages=turns)
    limits = limits_of(run, predictor.loaded.max_context)
    return prepare_answer(predictor.loaded, ServeSettings(), request, asked, limits).prompt_ids


def test_a_chat_and_its_server_ask_what_evaluation_asks_as_long_as_it_fits(run, predictor):
    loaded = predictor.loaded
    messages = [{"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "hello"))]
    messages += [{"role": "user", "content": "bye"}]
    row = {"id": "a", "source": "s", "task": "chat", "messages": [*messages, {"role": "assistant", "content": "."}]}
    [evaluated] = prepare_rows([row], loaded.chat, run.system_prompt, run.train_settings(), 400).rows

    chat = Conversation(run.system_prompt)
    chat.ask("hi")
    chat.keep_answer("hello")
    session = Session(loaded, chat, DECODING["chat"], None, None)
    asked = ask(list_served("tiny", run)["tiny"], messages, run.system_prompt, None)
    limits = limits_of(run, loaded.max_context)
    served = prepare_answer(loaded, ServeSettings(), ChatRequest(model="tiny", messages=messages), asked, limits)

    assert session.fit(chat.ask("bye")).ids == served.prompt_ids == evaluated.prompt_ids


def test_a_head_reads_the_same_in_training_and_inference(head_run):
    predictor = Predictor(open_run(head_run))
    loaded, trained = predictor.loaded, predictor.run.train_settings()
    rows = [
        {"id": right, "source": "s", "task": "sentiment", "text": LONG, "label": right} for right in loaded.head.labels
    ]
    prompt = predictor.run.system_prompt
    encoded = encode_rows(rows, loaded.chat, prompt, Rules(max_length=trained.max_seq_length), head=loaded.head)
    asked = predictor._ask({"task": "sentiment", "text": LONG})
    assert [example.input_ids for example in encoded.encoded] == [asked.ids] * len(rows)
    assert asked.num_cut > 0
    assert len(asked.ids) == trained.max_seq_length


def test_inference_reads_more_than_the_run_on_request(run, predictor):
    row = {"task": "instruct", "instruction": "Why?", "input": LONG}
    longer = Predictor(run, max_seq_length=500)
    as_trained, more = predictor._ask(row), longer._ask(row)
    assert more.num_cut < as_trained.num_cut
    assert len(as_trained.ids) < len(more.ids) < 500
    made_from = [describe_source(Path(__file__), which, {}) for which in (predictor, longer)]
    assert made_from[0] != made_from[1]  # a file of answers begun by one is not gone on with by the other


@pytest.mark.slow
def test_coin_flips_are_learned_by_no_model_and_evaluate_and_inference_agree(tiny_model_folder, tmp_path):
    """Labels of unlike lengths, drawn by a coin, of texts that are all cut: at chance, .5, within 4 standard errors.

    Where a prompt was cut until its right answer fitted, 400 such steps made it 1.0 in evaluation and .47 in inference.
    """
    from sft.config.evaluate import EvaluateSettings
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.evaluation import evaluate_run
    from sft.training.fit import fit

    rng, path = random.Random(5), tmp_path / "coins.jsonl"
    rows = [
        {
            "text": "".join(rng.choice("abcdefghij ") for _ in range(rng.randint(80, 200))),
            "category": ["Sci/Tech", "World"],
            "output": rng.choice(["Sci/Tech", "World"]),
        }
        for _ in range(600)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--model", tiny_model_folder, "--data", path, "--output_dir", tmp_path / "run", "--method", "full"]
    flags += ["--dtype", "fp32", "--max_seq_length", 96, "--system_prompt", "none", "--max_steps", 400]
    flags += ["--learning_rate", "3e-3", "--eval_steps", 400, "--eval_ratio", 0.3, "--neftune_noise_alpha", 0]
    settings = load_settings(TrainSettings, [str(flag) for flag in flags])
    dataset = open_dataset(path, eval_ratio=settings.eval_ratio, seed=settings.split_seed)
    run = open_run(fit(settings, dataset).run_dir)

    evaluation = evaluate_run(run, load_settings(EvaluateSettings, ["--no-baseline", "--max_new_tokens", "12"]))
    answers = Predictor(run).predict_batch([dict(row) for row in dataset.validation])

    count = len(dataset.validation)
    assert evaluation.metrics["data_stats"]["truncation_rate"] == 1.0
    accuracy = evaluation.metrics["classification"]["by_task"]["news"]["label_scoring"]["accuracy"]
    assert abs(accuracy - 0.5) < 4 * (0.25 / count) ** 0.5
    assert [line["label"] for line in evaluation.predictions] == [answer.label for answer in answers]
