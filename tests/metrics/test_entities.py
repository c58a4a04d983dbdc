import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator

from prompts.tasks import get_task
from sft.metrics.entities import Span, count_entities, place_mentions, summarise_entities

TYPES = ("GPE", "ORG", "PER", "LOC")


def test_an_answer_equal_to_the_reference_scores_one_even_where_earlier_occurrences_are_unlabelled():
    text, gold = "北京人爱北京", [Span(4, 6, "GPE")]
    assert place_mentions(text, [("北京", "GPE")], gold) == gold


def test_a_mention_inside_a_longer_name_is_not_mistaken_for_it():
    text = "北京大学的他去了北京"
    gold = [Span(0, 4, "ORG"), Span(8, 10, "GPE")]
    assert place_mentions(text, [("北京", "GPE"), ("北京大学", "ORG")], gold) == [gold[1], gold[0]]


def test_a_mention_takes_the_gold_occurrence_of_its_own_type_even_after_another_type():
    text, gold = "北京队在北京赢了", [Span(0, 2, "ORG"), Span(4, 6, "GPE")]
    placed = place_mentions(text, [("北京", "GPE"), ("北京", "ORG")], gold)
    assert placed == [Span(4, 6, "GPE"), Span(0, 2, "ORG")]
    assert count_entities(gold, placed).totals == (2, 2, 2)


def test_a_span_with_two_labels_takes_two_mentions_and_no_third():
    gold = [Span(0, 2, "GPE"), Span(0, 2, "ORG")]
    placed = place_mentions("北京赢了", [("北京", "ORG"), ("北京", "GPE"), ("北京", "PER")], gold)
    assert placed == [Span(0, 2, "ORG"), Span(0, 2, "GPE"), Span(-1, -1, "PER")]
    assert place_mentions("北京赢了", [("北京", "PER"), ("北京", "LOC")], gold) == [
        Span(0, 2, "PER"),
        Span(-1, -1, "LOC"),
    ]


@given(st.data())
def test_the_reference_scored_against_itself_is_always_1(data):
    text = data.draw(st.text("甲乙丙", min_size=1, max_size=12))
    place = st.integers(0, len(text) - 1).flatmap(
        lambda start: st.tuples(st.just(start), st.integers(start + 1, len(text)))
    )
    spans = data.draw(st.lists(st.tuples(place, st.sampled_from(TYPES)), max_size=8))  # nested, doubled, of two labels
    listed = [
        {"start_idx": start, "end_idx": end, "entity_text": text[start:end], "entity_label": label}
        for (start, end), label in spans
    ]
    row = {"task": "ner", "text": text, "entities": listed}
    task, gold = get_task("ner"), [Span(start, end, label) for (start, end), label in spans]
    answer = task.parse_answer(task.answer_of(row), row)
    counts = count_entities(gold, place_mentions(text, answer, gold))
    assert counts.row_f1 == 1.0
    assert (counts.nowhere, counts.totals) == (0, (len(set(gold)),) * 3)
    if gold:
        figures = summarise_entities([counts])
        assert (figures["f1"], figures["partial"]["f1"]) == (1.0, 1.0)
        assert {one["f1"] for one in figures["by_type"].values()} == {1.0}
        assert {one["f1"] for one in figures["partial"]["by_type"].values()} == {1.0}


def test_a_row_is_judged_by_its_own_f1_and_an_unreadable_answer_is_the_worst():
    gold = [Span(0, 2, "GPE")]
    judged = {
        "right": count_entities(gold, gold),
        "half": count_entities(gold, [*gold, Span(3, 5, "PER")]),
        "wrong": count_entities(gold, [Span(3, 5, "PER")]),
        "silent": count_entities(gold, []),
        "unreadable": count_entities(gold, None),
        "nothing to find": count_entities([], []),
        "made up": count_entities([], [Span(-1, -1, "PER")]),
        "nothing to find, unreadable": count_entities([], None),
    }
    assert {name: counts.row_f1 for name, counts in judged.items()} == {
        "right": 1.0,
        "half": pytest.approx(2 / 3),
        "wrong": 0.0,
        "silent": 0.0,
        "unreadable": 0.0,
        "nothing to find": 1.0,
        "made up": 0.0,
        "nothing to find, unreadable": 0.0,
    }


def test_repeated_mentions_take_one_occurrence_each_and_surplus_ones_have_none():
    text, gold = "小王和小王", [Span(0, 2, "PER"), Span(3, 5, "PER")]
    placed = place_mentions(text, [("小王", "PER")] * 3, gold)
    assert placed == [*gold, Span(-1, -1, "PER")]
    counts = count_entities(gold, placed)
    assert (counts.totals, counts.nowhere) == ((2, 3, 2), 1)


def test_a_mention_of_another_type_on_the_gold_span_is_not_found():
    placed = place_mentions("去北京", [("北京", "ORG")], [Span(1, 3, "GPE")])
    assert placed == [Span(1, 3, "ORG")]
    assert count_entities([Span(1, 3, "GPE")], placed).totals == (0, 1, 1)


def test_mentions_that_gold_does_not_have_are_placed_in_the_order_of_the_answer():
    assert place_mentions("甲乙甲", [("乙", "PER"), ("甲", "PER"), ("甲", "PER")], []) == [
        Span(1, 2, "PER"),
        Span(2, 3, "PER"),
        Span(0, 1, "PER"),
    ]


def test_empty_and_made_up_mentions_are_nowhere():
    assert place_mentions("你好", [("", "PER"), ("上海", "GPE")], []) == [
        Span(-1, -1, "PER"),
        Span(-1, -1, "GPE"),
    ]


def test_all_figures_of_three_rows_one_of_them_unparseable():
    rows = [
        count_entities([Span(0, 2, "GPE"), Span(3, 5, "PER")], [Span(0, 2, "GPE"), Span(3, 5, "ORG")]),
        count_entities([Span(0, 2, "GPE")], None),
        count_entities([], [Span(-1, -1, "GPE")]),
    ]
    assert summarise_entities(rows) == {
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(1 / 3),
        "found": 1,
        "predicted": 3,
        "support": 3,
        "unparseable_rate": pytest.approx(1 / 3),
        "not_in_text_rate": pytest.approx(1 / 3),
        "num_rows": 3,
        "by_type": {
            "GPE": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "found": 1, "predicted": 2, "support": 2},
            "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "found": 0, "predicted": 0, "support": 1},
            "ORG": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "found": 0, "predicted": 1, "support": 0},
        },
        "partial": {
            **_overlaps(2 / 3, exact=2, partial=0, predicted=3, support=3),  # over all types, whatever they are
            "by_type": {
                "GPE": _overlaps(0.5, exact=1, partial=0, predicted=2, support=2),
                "PER": _overlaps(0.0, exact=0, partial=0, predicted=0, support=1),
                "ORG": _overlaps(0.0, exact=0, partial=0, predicted=1, support=0),
            },
        },
    }


def _overlaps(value: float, **counts: int) -> dict[str, float]:
    """Figures whose precision, recall and F1 are all the same."""
    return {"precision": pytest.approx(value), "recall": pytest.approx(value), "f1": pytest.approx(value), **counts}


def test_a_name_found_with_a_character_too_few_is_half_found():
    partial = summarise_entities([count_entities([Span(0, 4, "ORG")], [Span(0, 3, "ORG")])])["partial"]
    assert partial == {
        **_overlaps(0.5, exact=0, partial=1, predicted=1, support=1),
        "by_type": {"ORG": _overlaps(0.5, exact=0, partial=1, predicted=1, support=1)},
    }


def test_an_exact_match_is_not_lost_to_an_overlapping_claim_that_comes_first():
    counts = count_entities([Span(0, 4, "ORG")], [Span(0, 2, "ORG"), Span(0, 4, "ORG")])
    assert (counts.overlaps["ORG"].exact, counts.overlaps["ORG"].partial) == (1, 0)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows with entities"):
        summarise_entities([])


def _draw_spans(rng: random.Random, length: int) -> list[Span]:
    """Spans that do not overlap each other; nervaluate's greedy matching is ambiguous where they do."""
    spans, start = [], 0
    while start < length:
        end = start + rng.randrange(1, 4)
        if rng.random() < 0.4 and end <= length:
            spans.append(Span(start, end, rng.choice(TYPES)))
        start = end
    return spans


def _as_nervaluate(rows: list[list[Span]]) -> list[list[dict[str, str | int]]]:
    return [[{"label": s.label, "start": s.start, "end": s.end - 1} for s in row] for row in rows]  # ends inclusive


def test_strict_figures_equal_nervaluate_on_250_generated_corpora():
    rng = random.Random(5)
    for _ in range(250):
        lengths = [rng.randrange(1, 15) for _ in range(rng.randrange(1, 6))]
        gold, predicted = ([_draw_spans(rng, length) for length in lengths] for _ in range(2))
        ours = summarise_entities([count_entities(*pair) for pair in zip(gold, predicted, strict=True)])
        evaluator = Evaluator(_as_nervaluate(gold), _as_nervaluate(predicted), list(TYPES), loader="dict")
        theirs = evaluator.evaluate()
        for figures, reference in [
            (ours, theirs["overall"]["strict"]),
            *((figures, theirs["entities"][label]["strict"]) for label, figures in ours["by_type"].items()),
        ]:
            assert (figures["found"], figures["predicted"], figures["support"]) == (
                reference.correct,
                reference.actual,
                reference.possible,
            )
            assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx(
                (reference.precision, reference.recall, reference.f1), abs=1e-9
            )


def test_partial_figures_equal_nervaluate_on_250_generated_corpora():
    rng = random.Random(7)
    num_partial = 0
    for _ in range(250):
        lengths = [rng.randrange(1, 15) for _ in range(rng.randrange(1, 6))]
        gold, predicted = ([_draw_spans(rng, length) for length in lengths] for _ in range(2))
        ours = summarise_entities([count_entities(*pair) for pair in zip(gold, predicted, strict=True)])["partial"]
        first = [
            sorted(row, key=lambda s, g=g: (s[:2] not in {p[:2] for p in g}, s))
            for row, g in zip(predicted, gold, strict=True)
        ]
        theirs = Evaluator(_as_nervaluate(gold), _as_nervaluate(first), list(TYPES), loader="dict").evaluate()
        for figures, reference in [
            (ours, theirs["overall"]["partial"]),
            *((figures, theirs["entities"][label]["partial"]) for label, figures in ours["by_type"].items()),
        ]:
            num_partial += reference.partial
            assert (figures["exact"], figures["partial"], figures["predicted"], figures["support"]) == (
                reference.correct,
                reference.partial,
                reference.actual,
                reference.possible,
            )
            assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx(
                (reference.precision, reference.recall, reference.f1), abs=1e-9
            )
    assert num_partial > 500  # the cases do hold what is tested


def test_answers_without_offsets_score_as_nervaluate_scores_their_spans_on_250_generated_rows():
    rng = random.Random(6)
    for _ in range(250):
        text = "".join(rng.choices("甲乙丙", k=rng.randrange(1, 15)))
        gold = _draw_spans(rng, len(text))
        mentions = [(text[s.start : s.end], s.label) for s in rng.sample(gold, rng.randrange(0, len(gold) + 1))]
        mentions += [("丁", rng.choice(TYPES))] * rng.randrange(0, 3)
        placed = place_mentions(text, mentions, gold)
        ours = summarise_entities([count_entities(gold, placed)])
        theirs = Evaluator(_as_nervaluate([gold]), _as_nervaluate([placed]), list(TYPES), loader="dict").evaluate()
        reference = theirs["overall"]["strict"]
        assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(
            (reference.precision, reference.recall, reference.f1), abs=1e-9
        )
