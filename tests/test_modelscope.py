"""Models and data sets of ModelScope, against a server that speaks its protocol."""

import json
from pathlib import Path

import pytest

from sft import modelscope
from sft.data import open_dataset
from sft.data.sources.registry import find_entry
from sft.models.source import find_source
from sft.modelscope import HubError, fetch
from tests.modelscope_server import ModelScopeServer

ROWS = [{"instruction": f"Q{number}", "output": f"A{number}"} for number in range(12)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server with nothing in it, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QWEN_SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    monkeypatch.setattr(modelscope, "WAITS_S", (0.0, 0.0, 0.0))
    with ModelScopeServer() as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        yield server


def add(hub: ModelScopeServer, kind: str, name: str, folder: Path, **files: list[dict[str, object]]) -> Path:
    """A repository of JSONL files: add(hub, "datasets", "a/b", folder, **{"data/train.jsonl": rows})."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, rows in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    hub.repositories[kind, name] = folder
    return folder


def test_a_model_is_fetched_once_and_known_by_its_weights(hub, tiny_model_folder, tmp_path):
    folder = add(hub, "models", "owner/tiny", tmp_path / "model")
    for path in tiny_model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "weights.bin").write_bytes(b"pickle")

    source = find_source("modelscope:owner/tiny")

    assert source.identity() == find_source(str(tiny_model_folder)).identity()
    assert not (source.folder / "weights.bin").exists()
    assert source.revision is not None
    assert source.revision.startswith("master, files ")
    hub.requests.clear()
    assert find_source("modelscope:owner/tiny", source.revision) == source
    assert hub.requests == ["/api/v1/models/owner/tiny/repo/files"]  # the list, and no file again


def test_a_data_set_is_read_in_its_splits_and_with_the_flags_of_files(hub, tmp_path):
    add(hub, "datasets", "owner/qa", tmp_path / "qa", **{"data/train.jsonl": ROWS[:8], "data/test.jsonl": ROWS[8:10],
        "data/validation.jsonl": ROWS[10:], "dataset_infos.json": [{}]})  # fmt: skip

    dataset = open_dataset("modelscope:owner/qa")

    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [8, 2, 2]
    assert dataset.path == "modelscope:owner/qa"
    part = open_dataset("modelscope:owner/qa/data/test*.jsonl", eval_ratio=0.5)
    assert {row["instruction"] for row in (*part.train, *part.validation)} == {"Q8", "Q9"}


def test_a_long_list_of_files_is_read_page_by_page(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(modelscope, "PAGE_SIZE", 3)
    add(hub, "datasets", "owner/many", tmp_path / "many", **{f"part-{n}.jsonl": [ROWS[n]] for n in range(10)})

    assert len(open_dataset("modelscope:owner/many", eval_ratio=0.2).train) == 8


def test_a_private_one_opens_with_the_token_which_only_the_hub_sees(hub, tmp_path, monkeypatch):
    add(hub, "datasets", "owner/own", tmp_path / "own", **{"a.jsonl": ROWS})
    hub.private.add("owner/own")

    with pytest.raises(HubError, match="has no such data set at revision master, or it is private"):
        open_dataset("modelscope:owner/own")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    assert len(open_dataset("modelscope:owner/own").train) == 11
    assert set(hub.cookies) == {"", "m_session_id=secret"}
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, tmp_path, capsys):
    add(hub, "datasets", "owner/large", tmp_path / "large", **{"a.jsonl": ROWS * 50})
    hub.cuts = 2

    folder = fetch("datasets", "modelscope:owner/large", ["*.jsonl"]).folder

    assert (folder / "a.jsonl").read_bytes() == (tmp_path / "large" / "a.jsonl").read_bytes()
    assert capsys.readouterr().err.count("going on in") == 2


def test_what_came_otherwise_than_listed_is_not_kept(hub, tmp_path):
    add(hub, "datasets", "owner/odd", tmp_path / "odd", **{"a.jsonl": ROWS})
    hub.lies = True

    with pytest.raises(HubError, match=r"a\.jsonl came with another SHA-256 than listed"):
        open_dataset("modelscope:owner/odd")
    assert not list((tmp_path / "cache").rglob("a.jsonl"))


def test_without_a_network_what_was_fetched_is_used_and_anything_else_is_an_error(hub, tmp_path, monkeypatch, capsys):
    add(hub, "datasets", "owner/qa", tmp_path / "qa", **{"a.jsonl": ROWS})
    open_dataset("modelscope:owner/qa")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")

    assert len(open_dataset("modelscope:owner/qa").train) == 11
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    with pytest.raises(HubError, match=r"does not answer .*; check the network or MODELSCOPE_ENDPOINT"):
        open_dataset("modelscope:owner/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modelscope:owner", "expected modelscope:OWNER/NAME"),
        ("modelscope:owner/nothing", "ModelScope has no such data set at revision master"),
        ("modelscope:owner/qa/none*.csv", "no such files at revision master"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(hub, tmp_path, name, message):
    add(hub, "datasets", "owner/qa", tmp_path / "qa", **{"a.jsonl": ROWS})

    with pytest.raises(HubError, match=message):
        open_dataset(name)


def test_a_path_that_leads_out_of_the_repository_is_not_written(hub, tmp_path, monkeypatch):
    add(hub, "datasets", "owner/qa", tmp_path / "qa", **{"a.jsonl": ROWS})
    outside = [modelscope.RemoteFile("../../../out.jsonl", 3, "")]
    monkeypatch.setattr(modelscope._Hub, "list_files", lambda self: outside)

    with pytest.raises(HubError, match="lists a file outside of itself"):
        fetch("datasets", "modelscope:owner/qa", ["*.jsonl"])


def test_the_registry_of_llama_factory_may_name_modelscope(hub, tmp_path):
    entries = {"qa": {"ms_hub_url": "owner/qa"}, "part": {"ms_hub_url": "owner/qa", "split": "test"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    add(hub, "datasets", "owner/qa", tmp_path / "qa", **{"train.jsonl": ROWS[:9], "test.jsonl": ROWS[9:]})

    assert find_entry("qa") == {"kind": "file", "path": "modelscope:owner/qa"}
    dataset = open_dataset("qa")
    assert len(dataset.train) + len(dataset.validation) == 9  # what is meant for training
    with pytest.raises(Exception, match="subset and split of ms_hub_url are not read"):
        find_entry("part")
