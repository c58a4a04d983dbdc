"""The untuned model beside the run, under names of its own."""

from queue import Queue

import pytest
import torch

from sft.config.decoding import choose_decoding
from sft.generation import generate_batch
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.scoring import score_labels
from sft.serve.engine import Engine
from sft.serve.served import list_served
from tests.serve.conftest import run_server
from tests.serve.test_engine import GREEDY, collect, prompts_of, read


@pytest.fixture(scope="module")
def far(tiny_run):
    """The tiny run with an adapter that says something else than its base."""
    loaded = load_run(open_run(tiny_run))
    torch.manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.5)
    return loaded


def alone(loaded, prompts, untuned):
    if untuned:
        with loaded.adapter_off() as base:
            return [answer.token_ids for answer in generate_batch(base, prompts, GREEDY)]
    return [answer.token_ids for answer in generate_batch(loaded, prompts, GREEDY)]


def test_tuned_and_untuned_answers_written_at_the_same_time_are_those_each_would_get_alone(far):
    prompts = prompts_of(far, 6)
    tuned, base = alone(far, prompts, untuned=False), alone(far, prompts, untuned=True)
    assert all(one != other for one, other in zip(tuned, base, strict=True))
    labels, ends = ("正面", "负面"), far.chat.end_ids
    expected = {False: score_labels(far, prompts[:1], [labels], shown=False)[0]}
    with far.adapter_off() as model:
        expected[True] = score_labels(model, prompts[:1], [labels], shown=False)[0]
    engine = Engine(far, max_batch=8, max_waiting=20)
    asked = [(collect(engine, prompt, GREEDY, 12)[1], collect_base(engine, prompt)) for prompt in prompts]
    scorings = [(untuned, engine.score(prompts[0], labels, untuned=untuned)) for untuned in (True, False, True)]
    found = [[[token for token in read(each) if token not in ends] for each in pair] for pair in asked]
    assert found == [list(pair) for pair in zip(tuned, base, strict=True)]
    for untuned, scores in scorings:
        assert scores.result(30) == pytest.approx(expected[untuned], abs=1e-4)
    engine.close()


def collect_base(engine, prompt):
    received = Queue()
    engine.submit(prompt, GREEDY, 12, received.put, untuned=True)
    return received


def test_a_base_that_needs_no_second_model_in_memory_is_listed_and_answers_like_the_run(far, tiny_run):
    assert far.holds_base
    system, text = {"role": "system", "content": "Be brief."}, [{"role": "user", "content": "房间很干净"}]
    prompt = far.chat.encode_prompt([system, *text])
    # Before the server starts: the engine's thread switches the same adapter.
    expected = {name: far.chat.decode(alone(far, [prompt], name != "tiny")[0]) for name in ("tiny", "tiny:base")}
    with run_server(far, open_run(tiny_run), with_base=True) as server:
        client = server.client()
        listed = {model.id: model for model in client.models.list()}
        assert list(listed) == ["tiny", "tiny:base"]
        assert (listed["tiny"].base, listed["tiny"].is_base, listed["tiny:base"].is_base) == ("tiny:base", False, True)
        assert listed["tiny"].prompt == [system, {"role": "user", "content": "…"}]
        assert listed["tiny"].decoding == choose_decoding("precise", max_new_tokens=16).model_dump()
        for name, said in expected.items():
            answer = client.chat.completions.create(model=name, messages=text, max_tokens=12)
            assert answer.choices[0].message.content == said


def test_tasks_have_their_untuned_twins_and_models_without_a_base_in_memory_have_none(tiny_run, full_run):
    run = open_run(tiny_run)
    run.data = {**run.data, "tasks": ["sentiment", "ner"]}
    served = list_served("demo", run, with_base=True)
    assert {name: entry.base for name, entry in served.items()} == {
        "demo": "demo:base",
        "demo:sentiment": "demo:base:sentiment",
        "demo:ner": "demo:base:ner",
        "demo:base": None,
        "demo:base:sentiment": None,
        "demo:base:ner": None,
    }
    assert served["demo:base:ner"].task is served["demo:ner"].task
    assert served["demo:sentiment"].build_prompt("Be brief.")[-1]["content"].count("…") == 1
    assert not load_run(open_run(full_run)).holds_base
