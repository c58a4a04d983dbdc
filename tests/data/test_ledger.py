"""The books of a source: every row that was read is kept or left out, once."""

import json
from collections import Counter

import pytest

from sft.data.ledger import EXCERPT_CHARACTERS, Ledger, Tally, make_line


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
    assert EXCERPT_CHARACTERS == 80
    assert first.examples == {
        "duplicate": {"where": "a.csv:2", "detail": "same as a-1", "text": "x" * 80},
        "no_text": {"where": "b.csv:3", "detail": "no 'text'", "text": ""},
    }
    first.quarantine("no_text", "b.csv:9", "another")
    assert first.examples["no_text"]["where"] == "b.csv:3"


def test_the_ledger_takes_over_the_lines_of_a_source_and_adds_what_is_left_out_later(tmp_path):
    lines = tmp_path / "lines"
    lines.write_bytes(make_line("own", "own.jsonl:3", "quarantined", "no_text", "no 'text'"))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.open_source("own", Tally(read=3, kept=2), lines)
        ledger.drop("own", "own.jsonl:17", "duplicate", "same as own-3", "row-17")
        assert ledger.tallies["own"].dropped == {"duplicate": 1}
    written = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == [
        {"source": "own", "where": "own.jsonl:3", "bucket": "quarantined", "reason": "no_text", "detail": "no 'text'"},
        {
            "source": "own",
            "where": "own.jsonl:17",
            "bucket": "dropped",
            "reason": "duplicate",
            "detail": "same as own-3",
            "id": "row-17",
        },
    ]


def test_a_new_ledger_is_empty():
    assert Tally() == Tally(0, 0, Counter(), Counter(), {})
