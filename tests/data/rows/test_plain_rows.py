"""Plain rows take a shorter way through the reader, and come out as the long way has them."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.rows import pairs, turns
from sft.data.rows.canonical import RowError
from sft.data.rows.dialects import Context, convert_record
from sft.data.rows.pairs import Pair
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised

TEXTS = st.sampled_from(["Hi", " a ", "", " ", "\u200b", "<think>x</think>y", "a < b", "<image>", "think>", "答"])
VALUES = st.one_of(TEXTS, st.none(), st.just(7), st.just(["a"]), st.just([["a", "b"]]), st.just({}))
RECORDS = st.dictionaries(
    st.sampled_from(["question", "answer", "input", "context", "system", "history", "label", "reasoning", "other"]),
    VALUES,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "human", "tool", 7]),
            "from": st.sampled_from(["human", "gpt"]),
            "content": st.one_of(TEXTS, st.none()),
            "value": TEXTS,
            "weight": st.sampled_from([0, 1]),
        },
    ),
    max_size=5,
)


def outcome(make):
    """What comes out and what is noted of it, or the reason why nothing does."""
    notes: Counter[str] = Counter()
    try:
        return make(notes), +notes
    except RowError as error:
        return error.reason


@settings(max_examples=500, deadline=None)
@given(RECORDS)
def test_a_plain_pair_is_what_the_long_way_makes_of_it(record):
    pair = Pair("question", "answer")

    short = outcome(lambda notes: pairs.make_pair_row(record, pair, notes))
    assert short == outcome(lambda notes: pairs._read_pair(record, pair, notes))


@settings(max_examples=500, deadline=None)
@given(TURNS)
def test_plain_turns_are_what_the_long_way_makes_of_them(said):
    short = outcome(lambda notes: turns.make_chat_row(said, None, notes))
    plain = turns.read_plain_turns(said)

    long = outcome(lambda notes: turns.make_chat_row([{"role": "system", "content": ""}, *said], None, notes))
    if plain:
        assert short == long == ({"id": "", "source": "", "task": "chat", "messages": plain}, {})


@given(st.lists(st.sampled_from([0, 1, True, False, "0", "1", "true", "正面", "positive", 1.0]), max_size=12))
def test_labels_that_were_read_before_are_read_the_same_again(labels):
    def read(context: Context, label: object) -> object:
        return convert_record({"text": "很好", "label": label}, context)["label"]

    once = Context(Reading(), Recognised())
    assert [read(once, label) for label in labels] == [read(Context(Reading(), Recognised()), one) for one in labels]
