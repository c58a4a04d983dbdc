"""The hub of the tests, seen by the real clients."""

from pathlib import Path

import pytest

from sft.errors import ModelError
from tests.hub_clients import use_hub
from tests.hub_server import HubServer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        use_hub(server, tmp_path / "home", monkeypatch)
        yield server


def test_a_model_of_the_hub_loads_at_the_revision_that_is_named(hub, tiny_model_folder: Path, tmp_path):
    from sft.models.loading import load_base
    from sft.models.source import hash_weights
    from tests.tiny import make_tiny_model

    pinned = hub.add("models", "owner/tiny", tiny_model_folder)
    hub.add("models", "owner/tiny", make_tiny_model(tmp_path / "newer", seed=1))

    loaded = load_base("owner/tiny", revision=pinned, dtype="fp32")

    assert (loaded.source.name, loaded.source.revision) == ("owner/tiny", pinned)
    assert hash_weights(loaded.source.folder) == hash_weights(tiny_model_folder)
    assert loaded.source.folder.is_relative_to(tmp_path / "home")


def test_main_is_the_newest_commit(hub, tiny_model_folder: Path):
    from sft.models.source import find_source

    commit = hub.add("models", "owner/tiny", tiny_model_folder)

    assert find_source("owner/tiny", tokenizer_only=True).revision == commit


def test_a_model_that_the_hub_does_not_have_is_one_line(hub, tiny_model_folder: Path):
    from sft.models.source import find_source

    hub.add("models", "owner/tiny", tiny_model_folder)
    hub.add("models", "owner/gated", tiny_model_folder, token="hf_secret", gated=True)

    for name, revision, words in [
        ("owner/none", None, "the hub has no such model"),
        ("owner/tiny", "v9", "the hub has no revision 'v9'"),
        ("owner/gated", None, "the hub asks for consent first"),
    ]:
        with pytest.raises(ModelError, match=words):
            find_source(name, revision)


def test_files_come_whole_in_parts_and_after_a_cut(hub, tmp_path):
    from huggingface_hub import HfFileSystem, hf_hub_download

    folder = tmp_path / "rows"
    (folder / "data").mkdir(parents=True)
    content = bytes(range(256)) * 4000
    (folder / "data" / "part.bin").write_bytes(content)
    hub.add("datasets", "owner/rows", folder)

    with HfFileSystem(endpoint=hub.url).open("datasets/owner/rows/data/part.bin", block_size=1000) as file:
        file.seek(70_000)
        assert file.read(10) == content[70_000:70_010]
    hub.fail("part.bin", "cut", after=1)  # the HEAD is served
    path = hf_hub_download("owner/rows", "data/part.bin", repo_type="dataset", endpoint=hub.url)
    assert Path(path).read_bytes() == content
    assert HfFileSystem(endpoint=hub.url).ls("datasets/owner/rows", detail=False) == ["datasets/owner/rows/data"]


def test_a_server_on_the_port_of_one_that_has_ended_is_not_answered_for_by_it(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    found, port = [], 0
    for name in ("a.parquet", "b.jsonl"):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_text("{}")
        with HubServer(port=port) as server:
            use_hub(server, tmp_path / "home", monkeypatch)
            server.add("datasets", "owner/rows", tmp_path / name[0])
            info = HfApi(endpoint=server.url).dataset_info("owner/rows")
            found += [file.rfilename for file in info.siblings]
            port = server.server_address[1]
    assert found == ["a.parquet", "b.jsonl"]
