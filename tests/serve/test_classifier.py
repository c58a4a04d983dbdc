"""A run with a classification head, served: it answers with labels under its plain name, too, and cannot chat."""

import openai
import pytest

from sft.inference import Predictor
from sft.models.loading import load_run
from sft.runs.run import open_run
from tests.serve.conftest import run_server

TEXT = "第1间房很好"


@pytest.fixture(scope="module")
def server(head_run):
    with run_server(load_run(open_run(head_run)), open_run(head_run)) as running:
        yield running


def ask(server, text: str = TEXT, model: str = "tiny", **more):
    turns = [{"role": "user", "content": text}]
    return server.client().chat.completions.create(model=model, messages=turns, **more)


def test_it_is_offered_under_its_plain_name_and_its_tasks(server):
    assert [model.id for model in server.client().models.list()] == ["tiny", "tiny:sentiment"]


def test_it_answers_with_the_label_that_the_predictor_says_and_its_probabilities(server, head_run):
    expected = Predictor(head_run).predict(TEXT)
    for name in ("tiny", "tiny:sentiment"):
        choice = ask(server, model=name, max_tokens=5).choices[0]
        assert (choice.message.content, choice.finish_reason) == (expected.label, "stop")
        fields = choice.message.model_extra
        assert fields["parsed"] == expected.label
        assert fields["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
        assert fields["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert ask(server).usage.completion_tokens == 0  # it says a class, and writes nothing


def test_a_stream_brings_the_label_in_one_piece(server, head_run):
    chunks = list(ask(server, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == Predictor(head_run).predict(TEXT).label
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_text_longer_than_it_was_trained_on_is_shortened_as_in_training_and_it_is_said(server, head_run):
    found, expected = ask(server, "住了一晚" * 40), Predictor(head_run).predict("住了一晚" * 40)
    fields = found.choices[0].message.model_extra
    assert found.choices[0].message.content == expected.label
    assert fields["num_cut"] == expected.num_cut > 0
    assert fields["confidence"] == pytest.approx(expected.confidence, abs=1e-6)


def test_a_classifier_refuses_a_conversation(server):
    turns = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    with pytest.raises(openai.BadRequestError, match="tiny answers one text: send one user message"):
        server.client().chat.completions.create(model="tiny", messages=turns)
