import random
import threading
from queue import Queue

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from sft.config.decoding import choose_decoding
from sft.generation import generate_batch
from sft.label_scoring import score_labels
from sft.serve.batch import can_batch
from sft.serve.engine import Engine, EngineError, QueueFull
from tests.serve.conftest import wait_until

GREEDY = choose_decoding("precise", max_new_tokens=12)


@pytest.fixture
def engine(loaded):
    made = Engine(loaded, max_batch=4, max_waiting=2)
    yield made
    made.close()


def collect(engine, prompt, decoding, max_new_tokens):
    received = Queue()
    return engine.submit(prompt, decoding, max_new_tokens, received.put), received


def read(received):
    items = []
    while (item := received.get(timeout=30)) is not None:
        items.append(item)
    return items


def prompts_of(loaded, count):
    return [
        loaded.chat.encode_prompt([{"role": "user", "content": f"question {n} " + "很长" * (n * 5 % 17)}])
        for n in range(count)
    ]


def test_answers_that_come_and_go_in_one_batch_are_those_each_would_get_alone(loaded):
    rng = random.Random(1)
    prompts = prompts_of(loaded, 12)
    decodings = [rng.choice([GREEDY, choose_decoding("chat", seed=n)]) for n in range(12)]
    lengths = [rng.randint(1, 16) for _ in prompts]
    engine = Engine(loaded, max_batch=4, max_waiting=100)
    asked = [collect(engine, *given)[1] for given in zip(prompts, decodings, lengths, strict=True)]
    found = [read(received) for received in asked]
    engine.close()
    for prompt, decoding, length, answer in zip(prompts, decodings, lengths, found, strict=True):
        alone = generate_batch(loaded, [prompt], decoding.model_copy(update={"max_new_tokens": length}))[0]
        assert [token for token in answer if token not in loaded.chat.end_ids] == alone.token_ids


def test_labels_are_scored_as_evaluation_scores_them(loaded, engine):
    prompts, labels = prompts_of(loaded, 3), ("正面", "负面")
    found = [engine.score(prompt, labels) for prompt in prompts]
    expected = score_labels(loaded, prompts, [labels] * 3, shown=False)
    for future, scores in zip(found, expected, strict=True):
        assert future.result(30) == pytest.approx(scores, abs=1e-4)


def test_a_request_too_many_is_refused_and_room_comes_back(loaded, engine):
    prompt = prompts_of(loaded, 1)[0]
    blocked, may_go = threading.Event(), threading.Event()

    def hold(item):
        blocked.set()
        may_go.wait(30)

    engine.submit(prompt, GREEDY, 1, hold)
    blocked.wait(30)
    asked = [collect(engine, prompt, GREEDY, 2)[1] for _ in range(6)]  # four places, two may wait
    with pytest.raises(QueueFull):
        engine.submit(prompt, GREEDY, 2, lambda _: None)
    with pytest.raises(QueueFull):
        engine.score(prompt, ("a", "b"))
    may_go.set()
    assert {len(read(received)) for received in asked} <= {1, 2}
    assert read(collect(engine, prompt, GREEDY, 2)[1])


def test_a_cancelled_answer_leaves_the_batch_and_the_others_go_on(loaded, engine):
    first, second = prompts_of(loaded, 2)
    never_ends = choose_decoding("chat", max_new_tokens=400, seed=3)
    ticket, received = collect(engine, first, never_ends, 400)
    received.get(timeout=30)
    other = collect(engine, second, GREEDY, 12)[1]
    ticket.cancel()
    assert len(read(received)) < 399
    alone = generate_batch(loaded, [second], GREEDY)[0].token_ids
    assert [token for token in read(other) if token not in loaded.chat.end_ids] == alone
    wait_until(lambda: engine.num_running == 0)


def test_a_fault_of_the_model_is_told_to_its_requests_and_the_next_ones_are_answered(loaded, monkeypatch, capsys):
    engine = Engine(loaded, max_batch=2, max_waiting=2)
    prompt = prompts_of(loaded, 1)[0]
    with monkeypatch.context() as broken:
        broken.setattr(loaded.model, "forward", lambda *args, **kwargs: 1 / 0)
        received = collect(engine, prompt, GREEDY, 3)[1]
        assert isinstance(received.get(timeout=30), EngineError)
    assert read(collect(engine, prompt, GREEDY, 3)[1])
    engine.close()
    assert "error while answering: ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_closing_finishes_what_was_asked_and_takes_no_more(loaded):
    engine = Engine(loaded, max_batch=1, max_waiting=5)
    asked = [collect(engine, prompt, GREEDY, 5)[1] for prompt in prompts_of(loaded, 3)]
    engine.close()
    assert all(read(received) for received in asked)
    with pytest.raises(QueueFull):
        engine.submit([1], GREEDY, 1, lambda _: None)


def test_a_model_with_a_sliding_window_answers_one_after_another(loaded):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(**sizes, num_key_value_heads=1, vocab_size=300, sliding_window=8)
    sliding = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert can_batch(loaded)
    assert not can_batch(type(loaded)(sliding, loaded.tokenizer, loaded.chat, loaded.source, loaded.precision))
