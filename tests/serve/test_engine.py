import random
import threading
from queue import Queue

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from sft.config.decoding import choose_decoding
from sft.generation import generate_batch
from sft.generation.decode import can_batch
from sft.scoring import score_labels
from sft.serve.engine import Engine, EngineEnded, EngineError, QueueFull
from sft.serve.log import one_line_per_kind
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


def test_answers_joining_and_leaving_a_batch_equal_those_given_alone(loaded):
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


def test_a_cancelled_answer_leaves_the_batch_and_the_others_continue(loaded, engine):
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


def test_a_fault_of_the_model_fails_its_own_requests_and_the_next_ones_are_answered(loaded, monkeypatch, capsys):
    engine = Engine(loaded, max_batch=2, max_waiting=2)
    prompt = prompts_of(loaded, 1)[0]
    with one_line_per_kind(), monkeypatch.context() as broken:
        broken.setattr(loaded.causal_lm.base_model, "forward", lambda *args, **kwargs: 1 / 0)
        received = collect(engine, prompt, GREEDY, 3)[1]
        assert isinstance(received.get(timeout=30), EngineError)
    assert read(collect(engine, prompt, GREEDY, 3)[1])
    engine.close()
    assert "error while answering: ZeroDivisionError: division by zero" in capsys.readouterr().err


def hold_the_engine(engine, prompt):
    """Keep the engine's thread at its work until the event that is returned is set."""
    blocked, may_go = threading.Event(), threading.Event()
    engine.submit(prompt, GREEDY, 1, lambda _: (blocked.set(), may_go.wait(30)))
    blocked.wait(30)
    return may_go


def fail(*args, **kwargs):
    raise RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_scoring_that_fails_when_its_client_is_gone_does_not_end_the_engine(loaded, engine, monkeypatch, when):
    prompt = prompts_of(loaded, 1)[0]
    may_go, future = hold_the_engine(engine, prompt), None

    def score(*args, **kwargs):
        future.cancel()
        fail()

    with monkeypatch.context() as broken:
        broken.setattr("sft.serve.engine.score_choices", score)
        future = engine.score(prompt, ("a", "b"))
        if when == "before":
            future.cancel()
        may_go.set()
        wait_until(lambda: future.cancelled() or future.done())
        wait_until(lambda: engine.num_waiting == 0)
    assert len(engine.score(prompt, ("a", "b")).result(30)) == 2
    assert read(collect(engine, prompt, GREEDY, 3)[1])


def test_a_text_that_cannot_be_scored_fails_alone(loaded, engine, monkeypatch):
    from sft.scoring import score_choices

    good, bad = prompts_of(loaded, 2)
    alone = engine.score(good, ("a", "b")).result(30)
    may_go = hold_the_engine(engine, good)
    monkeypatch.setattr(
        "sft.serve.engine.score_choices",
        lambda model, prompts, *rest, **more: (
            fail() if bad in prompts else score_choices(model, prompts, *rest, **more)
        ),
    )
    futures = [engine.score(prompt, ("a", "b")) for prompt in (good, bad, good)]
    may_go.set()
    assert [futures[index].result(30) == pytest.approx(alone, abs=1e-4) for index in (0, 2)] == [True, True]
    with pytest.raises(EngineError):
        futures[1].result(30)


def test_an_answer_that_cannot_be_delivered_does_not_end_the_engine(loaded, engine):
    prompt = prompts_of(loaded, 1)[0]
    engine.submit(prompt, GREEDY, 3, fail)  # as call_soon_threadsafe fails where the event loop has ended
    assert read(collect(engine, prompt, GREEDY, 3)[1])


def test_a_row_that_fails_while_it_joins_takes_no_half_joined_cache_into_the_next_step(loaded, monkeypatch):
    engine, (first, second) = Engine(loaded, max_batch=2, max_waiting=2), prompts_of(loaded, 2)
    never_ends = choose_decoding("chat", max_new_tokens=400, seed=3)
    with monkeypatch.context() as broken:
        running = collect(engine, first, never_ends, 400)[1]
        running.get(timeout=30)
        join = engine._batch._join
        broken.setattr(engine._batch, "_join", lambda *given: (join(*given), fail()))
        joining = collect(engine, second, GREEDY, 12)[1]
        assert all(isinstance(_first_end(received), EngineError) for received in (running, joining))
        assert engine.num_running == 0
    alone = generate_batch(loaded, [second], GREEDY)[0].token_ids
    found = read(collect(engine, second, GREEDY, 12)[1])
    assert [token for token in found if token not in loaded.chat.end_ids] == alone
    engine.close()


def _first_end(received):
    while isinstance(item := received.get(timeout=30), int):
        pass
    return item


def test_who_gives_up_while_waiting_leaves_the_queue_to_others(loaded, engine):
    prompt = prompts_of(loaded, 1)[0]
    may_go = hold_the_engine(engine, prompt)
    waiting = [collect(engine, prompt, GREEDY, 2) for _ in range(6)]
    with pytest.raises(QueueFull):
        engine.submit(prompt, GREEDY, 2, lambda _: None)
    for ticket, _ in waiting:
        ticket.cancel()
        ticket.cancel()
    assert engine.num_waiting == 0
    later = collect(engine, prompt, GREEDY, 2)[1]
    may_go.set()
    assert [read(received) for _, received in waiting] == [[]] * 6
    assert read(later)


def test_an_engine_that_ends_all_the_same_leaves_nobody_waiting(loaded, monkeypatch, capsys):
    engine, prompt = Engine(loaded, max_batch=1, max_waiting=4), prompts_of(loaded, 1)[0]
    may_go = hold_the_engine(engine, prompt)
    monkeypatch.setattr(engine, "_score", fail)
    future, received = engine.score(prompt, ("a", "b")), collect(engine, prompt, GREEDY, 2)[1]
    later = collect(engine, prompt, GREEDY, 2)[1]
    with one_line_per_kind():
        may_go.set()
        engine._thread.join(30)
    assert not engine.is_alive
    assert isinstance(_first_end(later), EngineError)
    assert isinstance(_first_end(received), EngineError)
    with pytest.raises(EngineError):
        future.result(30)
    for ask in (lambda: engine.score(prompt, ("a", "b")), lambda: engine.submit(prompt, GREEDY, 1, lambda _: None)):
        with pytest.raises(EngineEnded):
            ask()
    assert "error: the engine has ended, restart the server: RuntimeError: CUDA" in capsys.readouterr().err


def test_the_age_of_a_step_grows_while_it_runs(loaded, engine):
    prompt = prompts_of(loaded, 1)[0]
    assert engine.step_age_s == 0
    may_go = hold_the_engine(engine, prompt)
    wait_until(lambda: engine.step_age_s > 0.05)
    may_go.set()
    wait_until(lambda: engine.step_age_s == 0)


def test_closing_finishes_accepted_requests_and_takes_no_more(loaded):
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
