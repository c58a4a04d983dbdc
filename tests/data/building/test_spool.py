"""Chunks of a source put together again: numbers run on, files keep their names, and an unfinished spool is none."""

from array import array
from pathlib import Path

import orjson
import pytest

from sft.data.building.build import write_rows
from sft.data.building.candidates import CandidateStore
from sft.data.building.digest import Digester, Rules
from sft.data.building.mixing import Copies
from sft.data.building.spool import FINISHED, Spool, SpoolWriter, load_spool
from sft.data.files.reader import BadRow, FoundRow
from sft.data.sources import Origin
from sft.data.sources.base import CHUNK_ROWS, RowsChunk, batch_rows
from sft.data.sources.filters import Filters
from sft.errors import DataError
from tests.data.sources.test_filters import row_of

ORIGIN = Origin("own", "1", {"own.jsonl": "abc"})


def found(file: str, line: int, question: str) -> FoundRow:
    return FoundRow(file, line, row_of(question, "an answer"))


def write(folder: Path) -> Spool:
    digester = Digester(Rules("own", Filters(max_chars=9), None, {"": 0}, "quarantine", seed=42))
    first = RowsChunk([found("a", 1, "one"), found("b", 1, "much too long"), found("b", 2, "two")])
    second = RowsChunk([BadRow("b", 3, "not_json", "cut off"), found("c", 1, "three"), found("a", 2, "four")])
    with SpoolWriter(folder) as spool:
        spool.append(digester.digest(first))
        spool.append(digester.digest(second))
        return spool.finish(ORIGIN)


def test_rows_are_numbered_on_and_keep_their_file_and_line(tmp_path):
    spool = write(tmp_path / "spool")
    store = CandidateStore([spool], ["own"], [0])

    assert len(store) == 4
    assert [store.id_of(number) for number in range(4)] == ["own-1", "own-3", "own-5", "own-6"]
    assert [store.where(number) for number in range(4)] == ["a:1", "b:2", "c:1", "a:2"]
    assert [orjson.loads(line) for line in store.read_lines([(3, 1), (0, 2)])] == [
        {**row_of("four", "an answer"), "id": "own-6", "source": "own"},
        {**row_of("one", "an answer"), "id": "own-1#2", "source": "own"},
    ]
    store.close()
    assert (spool.tally.read, dict(spool.tally.dropped), dict(spool.tally.quarantined)) == (
        6,
        {"too_long": 1},
        {"not_json": 1},
    )
    assert spool.tally.examples == {
        "too_long": {"where": "b:1", "detail": "", "text": "much too long"},
        "not_json": {"where": "b:3", "detail": "cut off", "text": ""},
    }


def test_a_finished_spool_is_found_again_as_it_was_and_an_unfinished_or_damaged_one_is_not(tmp_path):
    spool = write(tmp_path / "spool")

    assert load_spool(tmp_path / "spool") == spool
    assert spool.is_of(ORIGIN)
    assert not spool.is_of(ORIGIN._replace(files={"own.jsonl": "abd"}))
    assert load_spool(tmp_path / "nothing") is None
    (tmp_path / "spool" / "group").write_bytes(b"")
    assert load_spool(tmp_path / "spool") is None
    write(tmp_path / "spool")
    (tmp_path / "spool" / FINISHED).write_text("{", encoding="utf-8")
    assert load_spool(tmp_path / "spool") is None


def test_rows_read_before_an_error_come_before_it():
    def read():
        for number in range(CHUNK_ROWS + 3):
            yield found("a", number, "one")
        raise DataError("the line was cut")

    chunks = batch_rows(read())

    assert [len(next(chunks).found), len(next(chunks).found)] == [CHUNK_ROWS, 3]
    with pytest.raises(DataError, match="the line was cut"):
        next(chunks)


@pytest.mark.parametrize("part_bytes", [1, 100, 10_000])
def test_rows_are_written_in_their_order_however_many_parts_they_take(part_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("sft.data.building.build.PART_BYTES", part_bytes)
    store = CandidateStore([write(tmp_path / "a"), write(tmp_path / "b")], ["a", "b"], [0, 0])
    copies = Copies(array("I", [7, 0, 3, 3, 5, 1]), array("I", [1, 1, 2, 1, 1, 1]))

    write_rows(tmp_path / "train.jsonl", store, copies, tmp_path)

    lines = (tmp_path / "train.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["id"] for line in lines] == ["b-6", "a-1", "a-6#2", "a-6", "b-3", "a-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "train.jsonl"]
    write_rows(tmp_path / "test.jsonl", store, Copies(array("I"), array("I")), tmp_path)
    assert (tmp_path / "test.jsonl").read_bytes() == b""
    store.close()
