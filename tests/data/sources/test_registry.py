"""Names for data sets: the shipped ones, the user's own, and LLaMA-Factory's."""

import json
from pathlib import Path

import pytest

from sft.config.yaml_files import read_yaml
from sft.data.building.preset import make_source
from sft.data.files.reader import FoundRow
from sft.data.sources import HubDataset, LocalFile
from sft.data.sources.registry import SHIPPED, find_entry, known_names
from sft.errors import ConfigError
from tests.hub_lookalikes import write_jsonl


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", list(read_yaml(SHIPPED)))
def test_every_shipped_name_is_a_source(name):
    source = make_source(name)

    assert isinstance(source, HubDataset)
    assert source.revision is None or len(source.revision) == 40


def test_your_own_names_take_precedence_and_files_are_relative_to_their_registry(folder):
    write_jsonl(folder / "rows.jsonl", [{"text": "好", "label": 1}])
    (folder / "datasets.yaml").write_text("slimorca: {kind: file, path: rows.jsonl}\n", encoding="utf-8")
    (folder / "far").mkdir()
    write_jsonl(folder / "far" / "rows.jsonl", [{"text": "坏", "label": 0}])
    far = folder / "far" / "more.yaml"
    far.write_text("far: {kind: file, path: rows.jsonl}\n", encoding="utf-8")

    assert find_entry("slimorca") == {"kind": "file", "path": "rows.jsonl"}
    assert find_entry("far", far) == {"kind": "file", "path": str(folder / "far" / "rows.jsonl")}
    assert known_names() == list(read_yaml(SHIPPED))


def test_an_unknown_name_gets_the_nearest(folder):
    (folder / "datasets.yaml").write_text("mine: {kind: file, path: a.jsonl}\nbare: {id: x}\n", encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        find_entry("mina")
    assert str(caught.value).startswith(
        "no data set 'mina' in recipes/datasets.yaml, datasets.yaml; did you mean 'mine'?"
    )
    with pytest.raises(ConfigError) as caught:
        find_entry("bare")
    assert str(caught.value) == "datasets.yaml: bare: no 'kind'; write what the source is, as in a preset"
    with pytest.raises(ConfigError, match=r"--registry none\.yaml: no such file"):
        find_entry("mine", Path("none.yaml"))


def write_info(folder: Path, **entries: object) -> None:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")


def test_an_alpaca_entry_of_llama_factory_is_read_with_its_columns(folder):
    write_info(folder, mine={"file_name": "mine.json", "columns": {"prompt": "q", "query": "c", "response": "a"}})
    (folder / "data" / "mine.json").write_text('[{"q": "Why?", "c": "context", "a": "So."}]', encoding="utf-8")

    source = make_source("mine")

    assert isinstance(source, LocalFile)
    row = {"id": "", "source": "", "task": "instruct", "instruction": "Why?", "input": "context", "output": "So."}
    assert list(source.read()) == [FoundRow("data/mine.json", 1, row)]


def test_a_sharegpt_entry_is_read_with_its_tags_and_the_system_text_of_its_column(folder):
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "Q", "assistant_tag": "A"}
    columns = {"messages": "talk", "system": "rules"}
    write_info(folder, talks={"file_name": "t.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags})
    talk = [{"who": "Q", "said": "hi"}, {"who": "A", "said": "ho"}]
    write_jsonl(folder / "data" / "t.jsonl", [{"talk": talk, "rules": "Be brief."}, {"talk": talk}])

    rows = [found.row["messages"] for found in make_source("talks").read() if isinstance(found, FoundRow)]

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert rows == [[{"role": "system", "content": "Be brief."}, *turns], turns]


def test_a_sharegpt_entry_without_tags_has_the_usual_ones(folder):
    write_info(folder, talks={"file_name": "t.jsonl", "formatting": "sharegpt"})
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    write_jsonl(folder / "data" / "t.jsonl", [{"conversations": turns}])

    (found,) = make_source("talks").read()

    assert isinstance(found, FoundRow)
    assert found.row["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def test_the_hub_takes_precedence_over_the_file_as_in_llama_factory(folder):
    write_info(
        folder,
        mine={"hf_hub_url": "owner/rows", "ms_hub_url": "a/b", "file_name": "x.json", "subset": "zh", "split": "test",
              "num_samples": 7, "formatting": "openai"},
    )  # fmt: skip

    assert make_source("mine").model_dump(exclude_defaults=True) == {
        "kind": "hub",
        "id": "owner/rows",
        "config": ("zh",),
        "hub_split": ("test",),
        "limit": 7,
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"om_hub_url": "a/b"}, "om_hub_url (Openmind) is not supported; give hf_hub_url, or file_name of a"),
        ({"file_name": "a.json", "ranking": True}, "'ranking' is for preference training"),
        ({"file_name": "a.json", "columns": {"images": "pics"}}, "columns.images is not supported"),
        ({"file_name": "a.json", "formating": "alpaca"}, "'formating' is unknown; did you mean 'formatting'?"),
        ({"file_name": "a.json", "formatting": "alpace"}, "formatting 'alpace' is unknown; expected alpaca"),
        ({}, "neither file_name nor hf_hub_url; say where the rows are"),
        ([], "expected an object"),
    ],
)
def test_what_cannot_be_used_is_said_to_who_asks_for_it_and_to_nobody_else(folder, entry, message):
    write_info(folder, bad=entry, good={"file_name": "a.json"})

    with pytest.raises(ConfigError) as caught:
        find_entry("bad")

    assert str(caught.value).startswith(f"data/dataset_info.json: bad: {message}")
    assert find_entry("good") == {"kind": "file", "path": "data/a.json"}


def test_an_entry_without_a_response_is_plain_text_and_a_folder_holds_shards(folder):
    write_info(
        folder, wiki={"file_name": "wiki.jsonl", "columns": {"prompt": "content"}}, shards={"file_name": "shards"}
    )
    write_jsonl(folder / "data" / "wiki.jsonl", [{"content": "A document."}])
    for number in range(2):
        (folder / "data" / "shards").mkdir(exist_ok=True)
        write_jsonl(folder / "data" / "shards" / f"part{number}.jsonl", [{"instruction": f"Q{number}", "output": "A"}])

    assert [found.row["text"] for found in make_source("wiki").read()] == ["A document."]
    assert [found.row["instruction"] for found in make_source("shards").read()] == ["Q0", "Q1"]
