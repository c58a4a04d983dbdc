import math

import pytest

from prompts.tasks import get_task
from sft.errors import ModelError
from sft.inference.predictor import Prediction, read_scores, read_text

SENTIMENT, NER, JSON = get_task("sentiment"), get_task("ner"), get_task("sentiment_json")
ROW = {"task": "sentiment", "text": "很好"}


def test_scores_become_probabilities_among_the_labels_and_the_mass_of_all():
    found = read_scores(SENTIMENT, ROW, [math.log(0.1), math.log(0.4)], num_tokens=[2, 3], num_cut=0)
    assert (found.label, found.answer, found.num_tokens) == ("正面", "正面", 3)
    assert found.probabilities == {"负面": pytest.approx(0.2), "正面": pytest.approx(0.8)}
    assert (found.confidence, found.label_mass) == (pytest.approx(0.8), pytest.approx(0.5))
    assert found.show() == "正面"


def test_labels_whose_probability_rounds_to_zero_are_still_ranked():
    found = read_scores(SENTIMENT, ROW, [-2000.0, -2001.0], num_tokens=[1, 1], num_cut=0)
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-1)))
    assert found.label_mass == 0.0


def test_a_label_is_named_by_its_class_and_answered_as_the_task_writes_it():
    found = read_scores(JSON, {"text": "很好"}, [-3.0, -0.1], num_tokens=[9, 9], num_cut=0)
    assert (found.label, found.answer) == ("正面", '```json\n{\n  "sentiment": 1\n}\n```')


@pytest.mark.parametrize("scores", [[math.nan, -1.0], [-1.0, math.nan], [-math.inf, -math.inf]])
def test_scores_that_are_no_numbers_are_an_error_and_no_answer(scores):
    with pytest.raises(ModelError, match="not finite"):
        read_scores(SENTIMENT, ROW, scores, num_tokens=[1, 1], num_cut=0)


def test_entities_have_offsets_if_the_text_contains_them():
    row = {"task": "ner", "text": "北京人爱北京"}
    answer = "".join(f'{{"entity_text": "{name}", "entity_label": "GPE"}}' for name in ("北京", "北京", "上海"))
    found = read_text(NER, row, {"role": "assistant", "content": answer}, finished=True, num_tokens=9, num_cut=0)
    assert found.entities == (
        {"entity_text": "北京", "entity_label": "GPE", "start_idx": 0, "end_idx": 2},
        {"entity_text": "北京", "entity_label": "GPE", "start_idx": 4, "end_idx": 6},
        {"entity_text": "上海", "entity_label": "GPE"},
    )
    assert found.show().splitlines()[2] == '{"entity_text": "上海", "entity_label": "GPE"}'


def test_fields_hold_what_there_is_and_always_the_problem():
    assert Prediction("instruct", "hi", num_tokens=1, reasoning="hm").to_fields() == {
        "task": "instruct",
        "answer": "hi",
        "reasoning": "hm",
        "problem": None,
        "finished": True,
        "num_tokens": 1,
    }
