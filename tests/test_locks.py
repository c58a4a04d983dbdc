import pytest

from sft.errors import DataError, RunError
from sft.locks import held

REFUSAL = DataError("busy; wait")


def test_one_at_a_time_and_the_next_one_after_it(tmp_path):
    path = tmp_path / ".lock"
    for _ in range(2):
        with held(path, REFUSAL), pytest.raises(DataError, match=r"^busy; wait$"), held(path, REFUSAL):
            pass


def test_a_place_where_no_file_can_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file: cannot be written to"), held(tmp_path / "file" / ".lock", REFUSAL):
        pass
