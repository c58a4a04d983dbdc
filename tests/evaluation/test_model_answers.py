from dataclasses import replace

import pytest
import torch

from sft.config.decoding import choose_decoding
from sft.errors import ModelError
from sft.evaluation.model_answers import answer_rows, plan_budgets
from sft.evaluation.rows import prepare_rows, select_rows
from sft.generation import generate_batch
from tests.evaluation.conftest import settings_of


@pytest.fixture(scope="module")
def rows(run, loaded, mixed_file):
    selected = select_rows(run, settings_of("--data", mixed_file)).rows
    return prepare_rows(selected, loaded.chat, run.system_prompt, run.train_settings(), 512).rows


def _nll(model: torch.nn.Module, ids: list[int], mask: list[int]) -> float:
    """One row by itself in float64: the summed negative log-probability of its supervised tokens."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    logps = logits.log_softmax(-1)
    return -sum(float(logps[place - 1, token]) for place, token in enumerate(ids) if mask[place])


def test_losses_equal_those_of_each_row_alone_whether_scored_as_label_or_as_text(loaded, rows):
    answers = answer_rows(loaded, rows, {row.task.name: 1 for row in rows}, "tuned")
    alone = [sum(_nll(loaded.model, piece.input_ids, piece.loss_mask) for piece in row.encoded) for row in rows]
    assert answers.nll == pytest.approx(alone, abs=1e-4)
    assert answers.num_tokens == [sum(piece.num_supervised for piece in row.encoded) for row in rows]


def test_a_row_in_several_pieces_has_the_loss_of_all_of_them(loaded, rows):
    whole = rows[7]
    [once] = answer_rows(loaded, [whole], {"instruct": 1}, "tuned").nll
    twice = replace(whole, encoded=whole.encoded * 2)
    answers = answer_rows(loaded, [twice], {"instruct": 1}, "tuned")
    assert answers.nll == [pytest.approx(2 * once, abs=1e-4)]
    assert answers.num_tokens == [2 * whole.encoded[0].num_supervised]


def test_labels_are_scored_with_their_end_token(loaded, rows):
    answers = answer_rows(loaded, rows, {row.task.name: 1 for row in rows}, "tuned")
    for row, scores in zip(rows, answers.label_scores, strict=True):
        expected = []
        for label in row.labels:
            answer = loaded.chat.encode_answer(label)
            assert answer[-1] in loaded.chat.end_ids
            ids = [*row.prompt_ids, *answer]
            expected.append(-_nll(loaded.model, ids, [0] * len(row.prompt_ids) + [1] * len(answer)))
        assert scores == pytest.approx(expected, abs=1e-4)


def test_answers_are_greedy_and_in_the_order_of_the_rows(loaded, rows):
    some = [rows[0], rows[6], rows[1], rows[9]]
    answers = answer_rows(loaded, some, {row.task.name: 6 for row in some}, "tuned")
    for row, text, finished in zip(some, answers.texts, answers.finished, strict=True):
        [alone] = generate_batch(loaded, [row.prompt_ids], choose_decoding("precise", max_new_tokens=6))
        assert (text, finished) == (alone.text, alone.finished)


def test_budgets_follow_the_longest_reference_of_each_task(loaded, rows):
    budgets = plan_budgets(rows, loaded, 512)
    longest_entities = max(len(loaded.chat.encode_answer(row.reference)) for row in rows if row.task.name == "ner")
    assert list(budgets) == ["sentiment", "sentiment_json", "news", "ner", "instruct", "chat"]
    assert budgets["sentiment"] == len("正面".encode()) + 1 + 8  # a quarter of 7 tokens is less than the margin of 8
    assert budgets["ner"] == longest_entities + -(-longest_entities // 4)
    assert plan_budgets(rows, loaded, 5) == dict.fromkeys(budgets, 5)


def test_weights_that_are_not_finite_are_named_instead_of_averaged(run, rows):
    from sft.models.loading import load_run

    broken = load_run(run)
    broken.causal_lm.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"tuned: the loss of 10 of 10 rows is not finite, first s1, s2, s3; .* NaN"):
        answer_rows(broken, rows, {row.task.name: 1 for row in rows}, "tuned")
