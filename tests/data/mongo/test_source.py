"""`kind: mongodb`: a collection as a source of a mixture, over the wire."""

import orjson
import pytest

from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset, load_preset
from sft.errors import ConfigError, DataError
from tests.data.samples import make_documents

pytest_plugins = ("tests.mongo_client",)


def preset_of(**keys: object) -> Preset:
    source = {"kind": "mongodb", "database": "texts", "collection": "rows", "max_retries": 1, **keys}
    return Preset.model_validate({"splits": {"train": {"rows": {"own": 20}}}, "sources": {"own": source}})


def test_a_dataset_is_built_from_a_collection_whose_connection_breaks(start_server, tmp_path, monkeypatch, capsys):
    documents = [
        *(
            {"_id": doc["_id"], "body": {"text": doc["text_cn"]}, "class": doc["n_labels"]}
            for doc in make_documents(60)
        ),
        {"_id": "odd", "body": {"text": "别的"}, "class": "诗歌"},
        {"_id": "none", "body": {}, "class": "正常"},
        {"_id": "bytes", "body": {"text": b"\x00"}, "class": "正常"},
    ]
    port = start_server(documents, user="ada", password="s3cret", batch=25, hang_up_at=[2])
    monkeypatch.setenv("MONGO_PASSWORD", "s3cret")
    named = {"columns": {"n_labels": "class"}, "templates": {"text_cn": "{body.text}"}}
    preset = preset_of(port=port, user="ada", auth_database="texts", **named)

    options = BuildOptions(on_bad_row="quarantine")
    manifest = build_dataset(preset, tmp_path / "mixed", options)

    own = manifest["sources"]["own"]
    assert (own["id"], own["revision"], own["files"]) == (f"mongodb://localhost:{port}/texts.rows", "", {})
    assert (own["read"], own["kept"], own["dropped"]) == (63, 20, {"over_quota": 40})
    ledger = [orjson.loads(line) for line in (tmp_path / "mixed/ledger.jsonl").read_bytes().splitlines()]
    assert [(line["where"], line["detail"]) for line in ledger if line["bucket"] == "quarantined"] == [
        ("texts.rows:61", "'body.text' is bytes, which no row can hold (_id bytes)"),
        ("texts.rows:62", "no column 'body.text' (there are: none) (_id none)"),
        (
            "texts.rows:63",
            "label '诗歌' is unknown to moderation; expected one of: 正常 (0), 歧视 (1), 违法违规 (2), 政治安全 (3), "
            "暴恐 (4), 色情低俗 (5); --labels names others, --label_map says which is which (in a preset: labels, "
            "label_map) (_id odd)",
        ),
    ]
    said = capsys.readouterr().err
    assert "texts.rows: 60 rows, recognised as text_cn/n_labels" in said
    assert "warning: texts.rows: connection lost behind _id 24" in said
    for path in (tmp_path / "mixed").iterdir():
        assert b"s3cret" not in path.read_bytes()


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_build_and_leaves_no_dataset(start_server, tmp_path):
    port = start_server(make_documents(60), batch=25, exit_at=2)

    with pytest.raises(DataError, match=r"^texts\.rows: the connection was lost behind _id 24 and 1 tries to take it"):
        build_dataset(preset_of(port=port), tmp_path / "mixed", BuildOptions())

    assert not (tmp_path / "mixed").exists()


def test_a_password_in_a_preset_is_refused_and_not_repeated(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "splits: {train: {rows: {own: 1}}}\n"
        "sources: {own: {kind: mongodb, collection: rows, mongo_uri: 'mongodb://ada:s3cret@localhost/texts'}}\n",
        encoding="utf-8",
    )

    with pytest.raises(ConfigError) as caught:
        load_preset(str(path))

    assert str(caught.value) == (
        "mine.yaml: sources.own.mongo_uri: contains a password, which the manifest would keep; set MONGO_PASSWORD, put "
        "the whole URI into a file and name it with mongo_uri_file, or be asked for it"
    )
