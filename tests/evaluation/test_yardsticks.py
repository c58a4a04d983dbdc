import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from prompts.tasks import get_task
from sft.evaluation import yardsticks
from sft.evaluation.model_answers import Outcome, class_of
from sft.evaluation.rows import EvalRow
from sft.evaluation.yardsticks import apply_yardsticks, match_names, summarise_yardsticks
from sft.metrics.entities import Span, count_entities

GOOD, BAD = "干净舒服很好满意喜欢", "肮脏吵闹很差失望讨厌"
FILLER = "房间服务早餐酒店位置前台的了是在也都"


def make_reviews(number: int, seed: int, task: str = "sentiment") -> list[dict]:
    """Reviews of 12 characters, three of which lean towards their label four times of five."""
    rng = random.Random(seed)
    rows = []
    for index in range(number):
        is_good = rng.random() < 0.6
        leaning = [rng.choice(GOOD if is_good == (rng.random() < 0.8) else BAD) for _ in range(3)]
        text = "".join(rng.sample(leaning + [rng.choice(FILLER) for _ in range(9)], 12))
        label = ("正面" if is_good else "负面") if task == "sentiment" else int(is_good)
        rows.append({"id": f"{seed}-{index}", "source": "reviews", "task": task, "text": text, "label": label})
    return rows


def make_mail(number: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    words = {"正面": "lovely great clean I", "负面": "awful dirty noisy a"}
    rows = []
    for index in range(number):
        label = rng.choice(["正面", "负面"])
        text = " ".join(rng.choices((words[label] + " the room was and Hotel").split(), k=6))
        rows.append({"id": f"{seed}-{index}", "source": "mail", "task": "sentiment", "text": text, "label": label})
    return rows


def as_asked(rows: list[dict]) -> list[EvalRow]:
    """Rows as an evaluation holds them, but for the tokens, which no yardstick reads."""
    made = []
    for row in rows:
        task = get_task(row["task"])
        labels = task.allowed_labels(row)
        made.append(EvalRow(row, task, row["text"], task.answer_of(row), (), [], labels))
    return made


def answers_of(rows: list[EvalRow], chosen: list[str]) -> list[Outcome]:
    return [
        Outcome(reference=class_of(row, row.reference), scored=name) for row, name in zip(rows, chosen, strict=True)
    ]


def chosen_by(kind: str, found: yardsticks.Yardsticks | None) -> list[str | None]:
    (yardstick,) = [one for one in found.found if one.kind == kind]
    return [outcome.scored for outcome in yardstick.outcomes.values()]


@pytest.mark.parametrize(
    ("training", "asked", "units"),
    [
        (make_reviews(200, 1), make_reviews(80, 2), {"analyzer": "char", "ngram_range": (1, 3)}),
        (make_mail(100, 1), make_mail(60, 2), {"analyzer": "word", "token_pattern": r"\w+"}),
    ],
)
def test_the_bag_of_words_is_a_plain_pipeline_of_scikit_learn(training, asked, units):
    pipeline = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, **units), LogisticRegression(C=10, max_iter=1000, random_state=0)
    )
    pipeline.fit([row["text"] for row in training], [row["label"] for row in training])
    found = apply_yardsticks(as_asked(asked), training)
    assert chosen_by("bag_of_words", found) == pipeline.predict([row["text"] for row in asked]).tolist()
    assert found.found[1].signature.startswith(
        "tfidf:words" if units["analyzer"] == "word" else "tfidf:characters 1-3,sublinear|logistic regression:C=10|"
    )


def test_a_label_written_as_json_is_learned_as_its_class():
    words, numbers = (make_reviews(200, 1, task) for task in ("sentiment", "sentiment_json"))
    asked = make_reviews(50, 2), make_reviews(50, 2, "sentiment_json")
    found = [apply_yardsticks(as_asked(rows), training) for rows, training in zip(asked, (words, numbers), strict=True)]
    assert chosen_by("bag_of_words", found[0]) == chosen_by("bag_of_words", found[1])


def test_the_figures_do_not_depend_on_the_number_of_threads():
    training, asked = make_reviews(1500, 1), make_reviews(200, 2)
    texts, classes = [row["text"] for row in training], [row["label"] for row in training]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(yardsticks._fit_bag(texts, classes, [row["text"] for row in asked]))
    assert found[0] == found[1]


def test_a_model_worse_than_the_bag_of_words_is_reported_as_worse():
    training, rows = make_reviews(400, 1), as_asked(make_reviews(300, 2))
    found = apply_yardsticks(rows, training)
    always = answers_of(rows, ["正面"] * len(rows))
    group = summarise_yardsticks(found, rows, always, seed=0)
    bag, majority = (group["by_task"]["sentiment"][kind] for kind in ("bag_of_words", "majority"))
    assert (bag["comparison"]["finding"], majority["comparison"]["difference"]) == ("worse", 0.0)
    assert majority["value"] == np.mean([row.reference == "正面" for row in rows])
    difference, low, high = (100 * abs(bag["comparison"][key]) for key in ("difference", "high", "low"))
    assert group["verdict"] == (
        f"Tuned does not beat a bag of words and is worse by {difference:.1f} points ({low:.1f} to {high:.1f}): "
        f"sentiment accuracy {majority['value']:.3f} against {bag['value']:.3f}."
    )
    assert group["verdict_zh"].startswith(f"微调后的模型不如词袋模型，低 {difference:.1f} 个百分点")


def test_a_better_model_is_reported_with_its_margin_and_an_unclear_one_is_not_called_better():
    training, rows = make_reviews(400, 1), as_asked(make_reviews(300, 2))
    found = apply_yardsticks(rows, training)
    right = summarise_yardsticks(found, rows, answers_of(rows, [row.reference for row in rows]), seed=0, name="mine")
    assert right["verdict"].startswith("mine beats a bag of words by ")
    same = answers_of(rows, [str(name) for name in chosen_by("bag_of_words", found)])
    assert summarise_yardsticks(found, rows, same, seed=0)["verdict"].startswith("Tuned does not beat a bag of words: ")
    few = summarise_yardsticks(found, rows[:20], same[:20], seed=0)
    assert few["verdict"].startswith("Too few rows to tell tuned from a bag of words: ")


def test_a_part_of_the_rows_is_judged_by_the_answers_given_to_all():
    training, rows = make_reviews(300, 1), as_asked(make_reviews(100, 2))
    found = apply_yardsticks(rows, training)
    tuned = answers_of(rows, [row.reference for row in rows])
    part = summarise_yardsticks(found, rows[:40], tuned[:40], seed=0)["by_task"]["sentiment"]["bag_of_words"]
    hits = [name == row.reference for name, row in zip(chosen_by("bag_of_words", found), rows, strict=True)]
    assert (part["value"], part["comparison"]["num_rows"]) == (np.mean(hits[:40]), 40)


def make_news(text: str, options: list[str], output: str, name: str) -> dict:
    return {"id": name, "source": "press", "task": "news", "text": text, "category": options, "output": output}


def test_where_rows_bring_their_own_options_a_class_outside_them_is_never_chosen():
    topics = {"体育": "比赛进球球队", "经济": "股市银行利率", "文化": "电影音乐展览"}
    training = [
        make_news(words + str(index), [*topics], topic, f"t{topic}{index}")
        for topic, words in topics.items()
        for index in range(5 + (topic == "体育"))
    ]
    asked = as_asked(
        [
            make_news("球队比赛", ["经济", "文化"], "文化", "n1"),
            make_news("银行利率", ["体育", "经济"], "经济", "n2"),
            make_news("股市", ["天气", "军事"], "天气", "n3"),
        ]
    )
    found = apply_yardsticks(asked, training)
    first, second, unknown = chosen_by("bag_of_words", found)
    assert (first in ("经济", "文化"), second, unknown) == (True, "经济", None)
    assert chosen_by("majority", found) == ["经济", "体育", None]


def test_training_rows_of_one_class_leave_a_majority_and_no_bag():
    training = [row for row in make_reviews(100, 1) if row["label"] == "正面"]
    found = apply_yardsticks(as_asked(make_reviews(20, 2)), training)
    assert [one.kind for one in found.found] == ["majority"]
    assert found.left_out == {"sentiment, bag of words": "all training rows are 正面"}


def test_more_training_rows_than_fit_in_seconds_are_fitted_on_request(monkeypatch, capsys):
    training, asked = make_reviews(60, 1), as_asked(make_reviews(40, 2))
    for name, limit in (("MAX_ROWS", 59), ("MAX_CHARACTERS", 719)):
        with monkeypatch.context() as patched:
            patched.setattr(yardsticks, name, limit)
            found = apply_yardsticks(asked, training)
            assert found.found == []
            assert "--yardsticks fits all the same" in found.left_out["sentiment"]
            assert "no yardstick for sentiment: fitting on 60 training rows of 720" in capsys.readouterr().err
            assert len(apply_yardsticks(asked, training, asked=True).found) == 2
    assert apply_yardsticks(asked, training, asked=False) is None
    assert len(apply_yardsticks(asked, training).found) == 2


def test_rows_without_training_rows_say_why_they_have_no_yardstick(capsys):
    rows = as_asked(make_reviews(40, 2))
    found = apply_yardsticks(rows, [], why_untrained="rows.jsonl: what the run was trained on is not found from here")
    group = summarise_yardsticks(found, rows, answers_of(rows, ["正面"] * 40), seed=0)
    assert group["by_task"] == {}
    reason = "no yardstick for sentiment: rows.jsonl: what the run was trained on is not found from here"
    assert reason in capsys.readouterr().err
    assert group["verdict"] == f"N{reason[1:]}."
    other = [{**row, "task": "sentiment_json", "label": 1} for row in make_reviews(5, 1)]
    assert apply_yardsticks(rows, other).left_out == {"sentiment": "none of the training rows is of this task"}


def make_entities(text: str, names: dict[str, str], name: str) -> dict:
    entities = [
        {
            "start_idx": text.index(one),
            "end_idx": text.index(one) + len(one),
            "entity_text": one,
            "entity_label": label,
        }
        for one, label in names.items()
    ]
    return {"id": name, "source": "press", "task": "ner", "text": text, "entities": entities}


def test_the_dictionary_finds_the_longest_names_of_the_training_rows_with_their_commonest_type():
    training = [
        make_entities("张华在北京大学", {"张华": "PER", "北京大学": "ORG"}, "t1"),
        make_entities("北京", {"北京": "LOC"}, "t2"),
        make_entities("在北京", {"北京": "GPE"}, "t3"),
        make_entities("去北京", {"北京": "GPE"}, "t4"),
    ]
    rows = as_asked([make_entities("李明在北京大学，不在北京", {"李明": "PER", "北京大学": "ORG"}, "n1")])
    found = apply_yardsticks(rows, training)
    (dictionary,) = found.found
    gold = [Span(0, 2, "PER"), Span(3, 7, "ORG")]
    assert dictionary.outcomes["n1"].entities == count_entities(gold, [Span(3, 7, "ORG"), Span(10, 12, "GPE")])
    group = summarise_yardsticks(found, rows, [Outcome(entities=count_entities(gold, gold))], seed=0)
    assert group["by_task"]["ner"]["dictionary"]["value"] == pytest.approx(0.5)
    assert group["by_task"]["ner"]["dictionary"]["comparison"]["tuned"] == 1.0


def test_a_name_is_no_part_of_a_latin_word():
    assert match_names("USA, use US or 美US国", {"US": "GPE", "us": "X", "or": "Y"}) == [
        Span(9, 11, "GPE"),
        Span(12, 14, "Y"),
        Span(16, 18, "GPE"),
    ]


@given(st.text("甲乙丙", max_size=12), st.sets(st.text("甲乙丙", min_size=1, max_size=4), max_size=6))
def test_matches_are_what_a_regular_expression_of_the_longest_name_first_finds(text, names):
    pattern = "|".join(sorted(names, key=len, reverse=True))
    expected = [Span(*match.span(), "X") for match in re.finditer(pattern, text)] if names else []
    assert match_names(text, dict.fromkeys(names, "X")) == expected
