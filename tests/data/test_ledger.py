"""The books of a source: every row that was read is kept or left out, once."""

from collections import Counter

import pytest

from sft.data.ledger import Tally


def test_books_that_do_not_balance_are_a_bug_and_end_the_build():
    Tally(read=3, kept=1, dropped=Counter(duplicate=1), quarantined=Counter(no_text=1)).check_balance("own")
    for tally in (Tally(read=3, kept=2), Tally(read=1, kept=1, dropped=Counter(duplicate=1))):
        with pytest.raises(RuntimeError, match=f"^ledger of own: read {tally.read} rows but counted 2: "):
            tally.check_balance("own")


def test_the_books_of_two_parts_are_their_sum_and_name_the_first_row_left_out():
    first, second = Tally(read=2, kept=1), Tally(read=2, kept=1)
    first.drop("duplicate", "a.csv:2", "same as a-1", "x" * 500)
    first.drop("duplicate", "a.csv:3", "same as a-1", "y")
    second.drop("duplicate", "b.csv:2", "same as b-1", "z")
    second.quarantine("no_text", "b.csv:3", "no 'text'")
    first.add(second)
    assert (first.read, first.kept, first.dropped, first.quarantined) == (4, 2, {"duplicate": 3}, {"no_text": 1})
    assert (first.examples["duplicate"]["where"], first.examples["no_text"]["where"]) == ("a.csv:2", "b.csv:3")
