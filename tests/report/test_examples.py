import re

from hypothesis import given
from hypothesis import strategies as st

from sft.report.figures import (
    answers_of,
    changed_rows,
    histories_of,
    mark_differences,
    random_rows,
    shorten,
    worst_rows,
)
from tests.report.conftest import make_prediction

TEXT = st.text(alphabet="我用写代码 python<b>&.\n", max_size=40)


def test_words_that_differ_are_marked_and_what_is_missing_is_struck_through():
    assert mark_differences("我用 python 写代码", "我用 java 写码") == (
        "我用 <del>python</del><ins>java</ins> 写<del>代</del>码"
    )
    assert mark_differences("正面", "正面") == "正面"
    assert mark_differences("", "<b>") == "<ins>&lt;b&gt;</ins>"


@given(TEXT, TEXT)
def test_without_the_marks_the_answer_and_without_the_additions_the_reference_are_left(reference, answer):
    marked = mark_differences(reference, answer)
    unescape = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}

    def plain(text: str) -> str:
        return re.sub("&lt;|&gt;|&amp;", lambda found: unescape[found[0]], re.sub("</?(ins|del)>", "", text))

    assert plain(re.sub("<del>.*?</del>", "", marked, flags=re.DOTALL)) == answer
    assert plain(re.sub("<ins>.*?</ins>", "", marked, flags=re.DOTALL)) == reference


def test_long_texts_are_cut_and_say_by_how_much():
    assert shorten("abcde", 3) == ("abc", " … (+2)")
    assert shorten("abc", 3) == ("abc", "")
    assert mark_differences("x", "y" * 900).endswith("y</ins> … (+200)")


def test_the_worst_rows_are_those_broken_then_those_whose_reference_became_less_likely():
    broken = make_prediction("broken", changes={"ner f1": "broken"}, nll=1.0)
    less, least = make_prediction("less", nll=2.5), make_prediction("least", nll=5.0)
    fixed = make_prediction("fixed", changes={"ner f1": "fixed"}, nll=9.0)
    assert [row["id"] for row in worst_rows([make_prediction("fine"), less, fixed, least, broken])] == [
        "broken",
        "least",
        "less",
    ]
    assert len(worst_rows([least] * 50)) == 20


def test_without_a_baseline_the_least_likely_references_are_the_worst():
    rows = [make_prediction(str(nll), nll=float(nll), reference_tokens=1) for nll in (3, 1, 2)]
    for row in rows:
        del row["base_nll"]
    assert [row["id"] for row in worst_rows(rows, 2)] == ["3", "2"]


def test_random_rows_depend_on_the_seed_alone_and_keep_their_order():
    rows = [make_prediction(str(number)) for number in range(100)]
    chosen = [int(row["id"]) for row in random_rows(rows, 1)]
    assert chosen == sorted(chosen) == [int(row["id"]) for row in random_rows(rows, 1)]
    assert len(set(chosen)) == 20
    assert chosen != [int(row["id"]) for row in random_rows(rows, 2)]
    assert random_rows(rows[:3], 1) == rows[:3]


def test_a_row_that_went_both_ways_counts_as_neither():
    both = make_prediction("both", changes={"a": "fixed", "b": "broken"})
    rows = [make_prediction("none"), both, make_prediction("better", changes={"a": "fixed"})]
    assert [row["id"] for row in changed_rows(rows, "fixed")] == ["better"]
    assert changed_rows(rows, "broken") == []


def test_of_a_row_with_a_label_the_label_is_shown_and_what_was_written_where_it_says_more():
    row = make_prediction("a", label="正面", base_label="负面", prediction="正面", base_prediction="我认为<b>")
    assert answers_of(row) == [
        ("question", "房间很干净，服务也好。"),
        ("reference", "正面"),
        ("label, base", "负面"),
        ("written, base", "我认为&lt;b&gt;"),
        ("label, tuned", "正面"),
    ]


def test_of_a_row_without_labels_both_answers_are_shown_and_the_tuned_one_with_its_differences():
    row = make_prediction("a", reference="在北京", prediction="在上海", base_prediction="不知道")
    assert answers_of(row)[2:] == [("base", "不知道"), ("tuned", "在<del>北京</del><ins>上海</ins>")]


def test_of_a_conversation_everything_before_the_question_is_shown():
    turns = [
        make_prediction("c", turn=1, instruction="Hi", reference="Hello"),
        make_prediction("c", turn=2, instruction="Why?", history=[{"role": "user", "content": "..."}]),
        make_prediction("d", history=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
    ]
    assert histories_of(turns) == {
        ("c", 1): [],
        ("c", 2): [("user", "Hi"), ("assistant", "Hello"), ("user", "...")],
        ("d", None): [("user", "x"), ("assistant", "y")],
    }
