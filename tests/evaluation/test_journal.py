import json

import pytest

from sft.evaluation.journal import PARTIAL_FILE, Journal
from sft.generation import Generated

SETTINGS = {"adapter": "sha256 1", "decoding": "greedy"}
IDS = {0: "a", 1: "b", 2: "c"}
YES, NO = Generated("正面", [7, 8], True), Generated("\u2028no\n", [9], False)


def fill(folder) -> Journal:
    journal = Journal(folder, SETTINGS)
    journal.add("tuned", IDS, {0: YES, 2: NO})
    journal.add("base", IDS, {0: NO})
    journal.close()
    return journal


def test_what_was_written_is_there_after_an_interruption(tmp_path, capsys):
    fill(tmp_path)
    later = Journal(tmp_path, SETTINGS)
    assert later.answers("tuned", IDS) == {0: YES, 2: NO}
    assert later.answers("base", IDS) == {0: NO}
    assert later.answers("base", {2: "c"}) == {}
    assert capsys.readouterr().err == "predictions.partial.jsonl: resumes after the 3 answers that exist\n"


def test_lines_are_on_the_disk_as_they_are_added_and_name_their_rows(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    journal.add("tuned", IDS, {1: YES})
    lines = [json.loads(line) for line in (tmp_path / PARTIAL_FILE).read_text().splitlines()]
    assert lines == [
        {"depends_on": SETTINGS},
        {"model": "tuned", "row": 1, "id": "b", "prediction": "正面", "token_ids": [7, 8], "finished": True},
    ]


def test_answers_of_other_settings_are_not_taken_over_and_a_line_says_so(tmp_path, capsys):
    fill(tmp_path)
    later = Journal(tmp_path, {**SETTINGS, "decoding": "chat, seed 1"})
    assert later.answers("tuned", IDS) == {}
    assert capsys.readouterr().err == (
        "predictions.partial.jsonl: of another evaluation (differing: decoding), so it starts anew\n"
    )
    assert len((tmp_path / PARTIAL_FILE).read_text().splitlines()) == 1


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_torn_by_a_crash_is_left_out_and_later_lines_are_intact(tmp_path, cut):
    fill(tmp_path)
    path = tmp_path / PARTIAL_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    later = Journal(tmp_path, SETTINGS)
    assert (later.answers("tuned", IDS), later.answers("base", IDS)) == ({0: YES, 2: NO}, {})
    later.add("base", IDS, {0: NO})
    later.close()
    assert Journal(tmp_path, SETTINGS).answers("base", IDS) == {0: NO}


def test_a_damaged_file_starts_anew(tmp_path, capsys):
    (tmp_path / PARTIAL_FILE).write_text("not json\n")
    assert Journal(tmp_path, SETTINGS).answers("tuned", IDS) == {}
    assert capsys.readouterr().err == "predictions.partial.jsonl: damaged, so the answers are generated anew\n"
