from concurrent.futures import ThreadPoolExecutor

import pytest

from sft.batches import plan_batches
from sft.config.decoding import DECODING
from sft.errors import ModelError
from sft.generation import Generated, generate_batch, stream
from sft.generation.stock import cut_at_end

TEXTS = ["hello", "中文 and more text", "x", "the rain in spain " * 4, "b", "hello"]
SHORT = {name: preset.model_copy(update={"max_new_tokens": 12}) for name, preset in DECODING.items()}


def prompts_of(loaded, texts: list[str]) -> list[list[int]]:
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]


@pytest.mark.parametrize("preset", ["precise", "chat"])
def test_a_prompts_answer_is_the_same_alone_in_a_batch_in_any_order_and_streamed(tiny, preset):
    prompts, decoding = prompts_of(tiny, TEXTS), SHORT[preset]
    answers = generate_batch(tiny, prompts, decoding)
    assert answers == [generate_batch(tiny, [prompt], decoding)[0] for prompt in prompts]
    assert answers == generate_batch(tiny, prompts[::-1], decoding)[::-1]
    assert [answer.text for answer in answers] == ["".join(stream(tiny, prompt, decoding)) for prompt in prompts]
    assert answers[0] == answers[-1]
    assert len({answer.text for answer in answers}) == 5


def test_threads_give_the_same_drawn_answers_as_one_after_another(tiny):
    prompts, decoding = prompts_of(tiny, TEXTS), SHORT["chat"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda prompt: generate_batch(tiny, [prompt], decoding)[0], prompts))
    assert answers == generate_batch(tiny, prompts, decoding)


def test_another_seed_draws_another_answer(tiny):
    prompts = prompts_of(tiny, ["hello"])
    answers = [
        generate_batch(tiny, prompts, SHORT["chat"].model_copy(update={"seed": seed}))[0].text for seed in range(4)
    ]
    assert len(set(answers)) == 4


def test_an_answer_ends_at_any_end_token_and_says_whether_it_ended(tiny, say_with):
    hello = tiny.chat.encode_text("hello")  # one token a byte
    endoftext, im_end = tiny.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    say_with([[*hello, im_end], [*hello[:1], endoftext], hello])
    decoding = DECODING["precise"].model_copy(update={"max_new_tokens": len(hello) + 2})
    answers = generate_batch(tiny, prompts_of(tiny, ["a", "b", "c"]), decoding)
    assert answers == [
        Generated("hello", hello, finished=True),
        Generated("h", hello[:1], finished=True),
        Generated("hellohe", hello + hello[:2], finished=False),
    ]


def test_an_end_token_in_the_last_position_still_ends_the_answer(tiny, say_with):
    hello, im_end = tiny.chat.encode_text("hello"), tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")
    say_with([[*hello, im_end]])
    decoding = DECODING["precise"].model_copy(update={"max_new_tokens": len(hello) + 1})
    assert generate_batch(tiny, prompts_of(tiny, ["a"]), decoding) == [Generated("hello", hello, finished=True)]


def test_no_token_is_computed_behind_the_end(tiny, say_with):
    head = say_with([[*tiny.chat.encode_text("h"), tiny.tokenizer.convert_tokens_to_ids("<|endoftext|>")]])
    generate_batch(tiny, prompts_of(tiny, ["a"]), SHORT["precise"])
    assert head.num_calls == 2


def test_control_tokens_that_a_model_writes_are_not_in_the_text(tiny, say_with):
    hello = tiny.chat.encode_text("hello")
    im_start, im_end = tiny.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    say_with([[*hello, im_start, *hello, im_end]])
    (answer,) = generate_batch(tiny, prompts_of(tiny, ["a"]), SHORT["precise"])
    assert (answer.text, answer.finished) == ("hellohello", True)


def test_words_of_the_question_and_padding_are_not_penalised(tiny, say_with):
    hello, im_end = tiny.chat.encode_text("hello"), tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")
    say_with([[*hello, im_end]] * 2)
    decoding = SHORT["precise"].model_copy(update={"repetition_penalty": 9.0, "no_repeat_ngram_size": 2})
    answers = generate_batch(tiny, prompts_of(tiny, ["hello hello hello", "say hello"]), decoding)
    assert [answer.text for answer in answers] == ["hello", "hello"]


def test_a_phrase_of_the_answer_is_not_said_twice(tiny, say_with):
    say_with([tiny.chat.encode_text("hello")])
    decoding = SHORT["precise"].model_copy(update={"no_repeat_ngram_size": 3})
    (answer,) = generate_batch(tiny, prompts_of(tiny, ["a"]), decoding)
    assert answer.text == "hellohe"  # the next l would complete h-e-l for the second time
    say_with([tiny.chat.encode_text("hello")])
    assert generate_batch(tiny, prompts_of(tiny, ["a"]), SHORT["precise"])[0].text == "hellohellohe"


def test_what_the_models_folder_recommends_has_no_say(tiny, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("transformers.generation.utils.logger.warning", lambda text, *_: warnings.append(text))
    prompts = prompts_of(tiny, TEXTS)
    expected = generate_batch(tiny, prompts, SHORT["precise"])
    recommended = tiny.model.generation_config
    recommended.do_sample, recommended.temperature, recommended.top_k = True, 5.0, 3
    recommended.repetition_penalty, recommended.no_repeat_ngram_size = 5.0, 1
    recommended.suppress_tokens, recommended.bad_words_ids = list(range(100)), [[150]]
    recommended.max_length, recommended.min_new_tokens, recommended.eos_token_id = 5, 20, 77
    recommended.num_beams, recommended.forced_eos_token_id, recommended.stop_strings = 3, 9, ["e"]
    assert generate_batch(tiny, prompts, SHORT["precise"]) == expected
    assert recommended.repetition_penalty == 5.0
    assert warnings == []


def test_an_adapter_speaks_in_batches_and_streams_and_is_silent_when_off(tiny, tiny_adapted):
    prompts, decoding = prompts_of(tiny, TEXTS), SHORT["precise"]
    tuned = generate_batch(tiny_adapted, prompts, decoding)
    with tiny_adapted.adapter_off() as base:
        untuned = generate_batch(base, prompts, decoding)
        assert "".join(stream(base, prompts[0], decoding)) == untuned[0].text
    assert "".join(stream(tiny_adapted, prompts[0], decoding)) == tuned[0].text
    assert all(one.text != other.text for one, other in zip(tuned, untuned, strict=True))
    assert generate_batch(tiny_adapted, prompts, decoding) == tuned


def test_generating_in_the_middle_of_a_training_uses_no_dropout_and_trains_on_after(tiny_adapted):
    prompts = prompts_of(tiny_adapted, TEXTS[:3])
    expected = generate_batch(tiny_adapted, prompts, SHORT["precise"])
    tiny_adapted.model.train()
    for module in tiny_adapted.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.9
    assert generate_batch(tiny_adapted, prompts, SHORT["precise"]) == expected
    assert tiny_adapted.model.training


def test_an_answer_is_cut_off_where_the_context_ends(tiny):
    (prompt,) = prompts_of(tiny, ["x" * 450])
    room = tiny.max_context - len(prompt)
    (answer,) = generate_batch(tiny, [prompt], DECODING["precise"].model_copy(update={"repetition_penalty": 1.0}))
    assert 0 < room < 60
    assert (len(answer.token_ids), answer.finished) == (room, False)


def test_a_prompt_without_room_for_an_answer_is_refused_in_one_line(tiny):
    prompts = prompts_of(tiny, ["x" * 600])
    message = r"the prompt takes 6\d\d tokens, the model reads 512, question and answer together; shorten the text"
    with pytest.raises(ModelError, match=message):
        generate_batch(tiny, prompts, DECODING["precise"])
    with pytest.raises(ModelError, match=message):
        stream(tiny, prompts[0], DECODING["precise"])


@pytest.mark.slow
def test_two_hundred_left_padded_prompts_are_answered_as_each_alone(tiny):
    texts = [f"{'很好 ' * (number % 17)}question {number} {'x' * (number % 23)}" for number in range(208)]
    prompts = prompts_of(tiny, texts)
    answers = generate_batch(tiny, prompts, SHORT["precise"])
    assert answers == [generate_batch(tiny, [prompt], SHORT["precise"])[0] for prompt in prompts]
    assert len({answer.text for answer in answers}) > 150


def test_an_interrupted_run_generates_only_the_batches_that_are_missing(tiny, monkeypatch):
    monkeypatch.setattr("sft.generation.batch.MAX_BATCH_ROWS", 2)
    prompts, kept = prompts_of(tiny, TEXTS), {}
    whole = generate_batch(tiny, prompts, SHORT["precise"], on_answers=kept.update)
    assert [kept[place] for place in range(len(prompts))] == whole
    first, second, third = plan_batches(
        [len(prompt) for prompt in prompts], 10_000, 2, padded=True, growing_by=[12] * 6
    )
    known = {place: Generated("known", [], True) for place in (*first, second[0])}  # of the second batch one is missing
    new: dict[int, Generated] = {}
    again = generate_batch(tiny, prompts, SHORT["precise"], known=known, on_answers=new.update)
    assert sorted(new) == sorted((*second, *third))
    assert [again[place].text for place in first] == ["known", "known"]
    assert [again[place] for place in (*second, *third)] == [whole[place] for place in (*second, *third)]


def test_no_prompts_have_no_answers(tiny):
    assert generate_batch(tiny, [], DECODING["precise"]) == []


def test_progress_counts_the_rows_under_its_name(tiny, capsys):
    generate_batch(tiny, prompts_of(tiny, ["a", "b"]), SHORT["precise"], progress="base: answers")
    assert capsys.readouterr().err.splitlines()[-1].startswith("base: answers: 100% 2/2 rows, ")


def test_ids_end_with_the_first_end_token():
    assert cut_at_end([7, 8, 2, 0, 0], (2, 0)) == [7, 8, 2]
    assert cut_at_end([7, 8], (2, 0)) == [7, 8]
    assert cut_at_end([2], (2,)) == [2]
