import json
from pathlib import Path

import pytest

from prompts.tasks import get_task
from sft.errors import DataError
from sft.inference import Predictor
from sft.inference.files import answer_rows, count_lines, describe_source, open_target
from sft.inference.questions import FileRow, read_rows

SENTIMENT = get_task("sentiment")


@pytest.fixture(scope="module")
def predictor(tiny_model_folder) -> Predictor:
    return Predictor(model=str(tiny_model_folder), task="sentiment")


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [{"text": f"房间 {number} 很干净", "label": "正面"} for number in range(40)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(predictor: Predictor, source: Path, target: Path, **settings: object):
    rows = read_rows(source, predictor.task, keep_bad=True)
    return answer_rows(predictor, rows, target, describe_source(source, predictor, settings))


@pytest.mark.parametrize("num_bytes_lost", [0, 1, 60])
def test_a_file_that_was_cut_off_anywhere_ends_as_if_nothing_had_happened(predictor, source, tmp_path, num_bytes_lost):
    answer(predictor, source, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    target = tmp_path / "out.jsonl"
    answer(predictor, source, target)
    half = b"".join(whole.splitlines(keepends=True)[:20])
    target.write_bytes(half[: len(half) - num_bytes_lost])
    summary = answer(predictor, source, target)
    assert summary.answered_before == (20 if num_bytes_lost == 0 else 19)
    assert [json.loads(line)["line"] for line in target.read_bytes().splitlines()] == list(range(1, 41))
    for old, new in zip(whole.splitlines(), target.read_bytes().splitlines(), strict=True):
        old_fields, new_fields = json.loads(old), json.loads(new)
        assert old_fields.pop("probabilities") == pytest.approx(new_fields.pop("probabilities"), abs=1e-5)
        for fields in (old_fields, new_fields):
            del fields["confidence"], fields["label_mass"]
        assert old_fields == new_fields


def test_a_finished_file_is_left_as_it_is(predictor, source, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    answer(predictor, source, target)
    before = target.read_bytes()
    assert answer(predictor, source, target).answered_before == 40
    assert target.read_bytes() == before
    assert "40 of 40 rows were answered before\n" in capsys.readouterr().err


def test_going_on_with_other_settings_or_another_input_is_refused(predictor, source, tmp_path):
    target = tmp_path / "out.jsonl"
    answer(predictor, source, target, temperature=0.0)
    with pytest.raises(DataError, match=r"out\.jsonl was begun with temperature 0\.0, now it is 0\.5; name another"):
        answer(predictor, source, target, temperature=0.5)
    source.write_text('{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"out\.jsonl was begun with input sha256 "):
        answer(predictor, source, target, temperature=0.0)


def test_a_file_that_is_not_ours_is_never_touched(predictor, source, tmp_path):
    target = tmp_path / "notes.jsonl"
    target.write_text("precious\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes\.jsonl is there already and not from this command; name another"):
        answer(predictor, source, target)
    assert target.read_text(encoding="utf-8") == "precious\n"


def test_bad_rows_end_the_command_or_get_a_line_that_says_why(predictor, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "好"}\n{"text": ""}\n{broken\n{"title": "x"}\n{"text": "差"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.jsonl:2: 'text' is empty; fix the row; or pass --on_bad_row quarantine$"):
        read_rows(source, SENTIMENT, keep_bad=False)
    summary = answer(predictor, source, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["problem"] is None for line in lines] == [True, False, False, False, True]
    assert lines[3]["problem"] == "no 'text' among its columns (title); --columns text=... names the one to ask"
    assert (summary.rows, summary.problems) == (5, 3)


def test_a_row_that_does_not_fit_the_model_has_an_error_in_its_position(predictor, tmp_path):
    source = tmp_path / "in.jsonl"
    rows = [{"text": "好"}, {"task": "ner", "text": "x" * 900}, {"text": "差"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answer(predictor, source, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["task"] for line in lines] == ["sentiment", "ner", "sentiment"]
    assert [line["problem"] is None for line in lines] == [True, False, True]
    assert "tokens" in lines[1]["problem"]


def test_lines_are_counted_up_to_the_first_that_does_not_belong(tmp_path):
    rows = [FileRow(line, None, {}) for line in (1, 2, 5)]
    target = tmp_path / "out.jsonl"
    target.write_bytes(b'{"line": 1}\n{"line": 2}\n{"line": 4}\n')
    assert count_lines(target, rows) == (2, 24)
    target.write_bytes(b'{"line": 1}\n\0\0\0\n')
    assert count_lines(target, rows) == (1, 12)
    (tmp_path / "out.jsonl.made_from.json").write_text('{"task": "x"}', encoding="utf-8")
    assert open_target(target, {"task": "x"}, rows) == 1
    assert target.read_bytes() == b'{"line": 1}\n'
