"""A stream of the hub that breaks: it goes on where it broke, or ends in one line soon after the last try."""

import logging
import logging.handlers
import time
from pathlib import Path

import pytest

from sft.data.sources import hub as stream
from sft.data.sources.hub import Commit, HubPart, find_commit, stream_records
from sft.errors import DataError
from tests.hub_lookalikes import write_jsonl, write_parquet
from tests.hub_server import HubServer

ROWS = [{"text": f"row {n}"} for n in range(2000)]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every wait of client and stream, which takes no time here."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture(params=["parquet", "jsonl"])
def part(request: pytest.FixtureRequest, hub: HubServer, tmp_path: Path) -> HubPart:
    """Two files of a thousand rows each."""
    for number in range(2):
        rows = ROWS[number * 1000 : number * 1000 + 1000]
        if request.param == "parquet":
            write_parquet(tmp_path / "d" / f"part-{number}.parquet", rows)
        else:
            write_jsonl(tmp_path / "d" / f"part-{number}.jsonl", rows)
    hub.add("datasets", "owner/rows", tmp_path / "d")
    return HubPart("owner/rows", find_commit("owner/rows", None), files=(f"*.{request.param}",))


@pytest.mark.parametrize("how", ["503", "429", "cut"])
def test_what_fails_for_a_while_loses_and_repeats_no_row(part, hub, waits, how):
    hub.fail("part-0", how, times=2)
    hub.fail("part-1", how, times=3)

    found = list(stream_records(part))

    assert found == [(n + 1, row) for n, row in enumerate(ROWS)]
    assert len(waits) >= 5


def test_a_stream_is_opened_again_where_the_client_gives_up(part, hub, waits, capsys):
    clients_own = logging.handlers.BufferingHandler(100)
    logging.getLogger("huggingface_hub").addHandler(clients_own)
    hub.fail("part-1", "503", times=8)  # the client tries six times, the stream is opened again, two more tries fail

    found = list(stream_records(part))

    assert found == [(n + 1, row) for n, row in enumerate(ROWS)]
    said = capsys.readouterr().err
    assert "owner/rows: status 503 after 768 rows; retrying in 2 s" in said
    assert "owner/rows: HTTP Error 503; retrying in 1s [Retry 1/5]." in said
    assert "http://" not in said
    assert clients_own.buffer == []
    logging.getLogger("huggingface_hub").removeHandler(clients_own)


def test_giving_up_is_one_line_at_once_after_the_last_try(part, hub, waits):
    hub.fail("part-1", "503", times=1000)

    records = stream_records(part)
    assert [next(records)[0] for _ in range(768)][-1] == 768  # whole batches of 256
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        next(records)

    assert str(caught.value) == (
        "owner/rows: the hub stopped answering after 768 rows (status 503, tried 4 times); "
        "check the network or HF_ENDPOINT and run it again"
    )
    assert time.monotonic() - started < 5  # beside the waits
    assert [wait for wait in waits if wait in stream.WAITS_S and wait > 2] == [5.0, 10.0]
    assert sum(waits) < 120


def test_a_slow_hub_is_waited_for(part, hub):
    hub.fail("part-1", "slow", seconds=0.3)

    assert len(list(stream_records(part))) == 2000


def test_a_missing_network_is_reported_within_seconds(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()

    with pytest.raises(DataError) as caught:
        find_commit("owner/rows", None)

    assert time.monotonic() - started < 5
    assert str(caught.value) == (
        "owner/rows: the hub cannot be reached (ConnectError: [Errno 111] Connection refused, tried 4 times); "
        "check the network or HF_ENDPOINT and run it again"
    )


def test_offline_makes_no_request_at_all(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(DataError) as caught:
        find_commit("owner/offline", None)

    assert str(caught.value) == (
        "owner/offline: HF_HUB_OFFLINE is set, so the hub is not contacted; unset it, or give a file instead"
    )
    assert hub.requests == []


def test_a_hub_that_fails_at_the_start_is_retried(hub, tmp_path, waits):
    write_jsonl(tmp_path / "d" / "a.jsonl", [{"text": "x"}])
    commit = hub.add("datasets", "owner/rows", tmp_path / "d")
    hub.fail("api/datasets/owner/rows", "503", times=2)

    assert find_commit("owner/rows", "main") == Commit(commit, ("a.jsonl",))
