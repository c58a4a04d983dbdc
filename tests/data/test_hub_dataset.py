"""Data sets of the hub as sources: their rows, in their order, through the one reader; and what is said when not."""

from pathlib import Path

import pytest

from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.files.reader import BadRow, FoundRow
from sft.data.sources import HubDataset
from sft.data.sources.registry import find_entry
from sft.errors import DataError
from tests.hub_lookalikes import make_slimorca, words_of, write_card, write_jsonl, write_parquet
from tests.hub_server import HubServer


def named(name: str, **keys: object) -> HubDataset:
    """A source as the shipped registry names it."""
    return HubDataset.model_validate(find_entry(name) | keys)


def rows_of(source: HubDataset) -> list[FoundRow]:
    found = list(source.read())
    assert all(isinstance(row, FoundRow) for row in found), found
    return found  # type: ignore[return-value]


def test_slimorca_is_read_as_conversations_with_their_system_text(lookalikes):
    rows = rows_of(named("slimorca"))

    assert [row.line for row in rows] == list(range(1, 61))
    assert rows[0] == FoundRow(
        "Open-Orca/SlimOrca",
        1,
        {
            "id": "",
            "source": "",
            "task": "chat",
            "messages": [
                {"role": "user", "content": f"Orca question 0: {words_of(0)}?"},
                {"role": "assistant", "content": "Orca answer 0."},
            ],
        },
    )
    assert rows[1].row["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}


def test_pubmedqa_joins_both_configurations_and_lays_its_input_out(lookalikes):
    rows = rows_of(named("pubmedqa"))

    assert [(row.file, row.line) for row in rows] == [
        *(("qiaojin/PubMedQA/pqa_labeled", n + 1) for n in range(40)),
        *(("qiaojin/PubMedQA/pqa_artificial", n + 1) for n in range(60)),
    ]
    assert rows[3].row == {
        "id": "",
        "source": "",
        "task": "instruct",
        "instruction": "作为生物医学专家，请基于提供的背景信息详细回答问题。",
        "input": f"背景信息：\nBackground 3.\nResults {words_of(3, 4)}.\n\n"
        f"问题：Does pqa_labeled 3 help {words_of(11003)}?",
        "output": "It helps 3 times.",
    }


def test_stack_exchange_gives_the_best_answer_as_text_with_its_author(lookalikes):
    rows = rows_of(named("stack_exchange"))

    assert len(rows) == 120
    assert rows[1].row == {
        "id": "",
        "source": "",
        "task": "instruct",
        "instruction": f"How does sourdough work, case 3? {words_of(3)}",
        "input": "",
        "output": f"Best answer {words_of(3, 2)} & `x < 3`",
        "attribution": "https://example.stackexchange.com/questions/3; "
        "answer by Ada, https://example.stackexchange.com/users/2; CC BY-SA 4.0",
    }


def test_reviews_news_and_entities_need_no_adapter(lookalikes):
    reviews = rows_of(named("chnsenticorp", hub_split=["train", "validation"]))
    news = rows_of(named("fudan_news"))
    entities = rows_of(named("chinese_ner"))

    assert [(row.file, row.line, row.row["label"]) for row in reviews[39:41]] == [
        ("lansinuote/ChnSentiCorp/train", 40, "正面"),
        ("lansinuote/ChnSentiCorp/validation", 1, "负面"),
    ]
    assert news[8].row["output"] == "Enviornment"
    assert news[8].row["category"] == ["Enviornment", "Philosophy"]
    assert {row.row["output"] for row in news} == {label for row in news for label in row.row["category"]}
    assert len(rows_of(named("fudan_news_test"))) == 20  # the only split of its configuration is `test`
    assert entities[1].row["entities"] == [{"start_idx": 0, "end_idx": 2, "entity_text": "张华", "entity_label": "PER"}]
    assert entities[0].row["entities"] == []


def test_a_pinned_revision_is_read_and_recorded_whatever_is_newer(hub, tmp_path, capsys):
    pinned = hub.add("datasets", "owner/rows", jsonl(tmp_path / "old", [{"prompt": "old?", "completion": "yes"}]))
    newest = hub.add("datasets", "owner/rows", jsonl(tmp_path / "new", [{"prompt": "new?", "completion": "yes"}]))

    old = HubDataset(kind="hub", id="owner/rows", revision=pinned)
    new = HubDataset(kind="hub", id="owner/rows")

    assert [row.row["instruction"] for row in rows_of(old)] == ["old?"]
    assert (old.origin().id, old.origin().revision) == ("owner/rows", pinned)
    assert f"main is revision {newest}" not in capsys.readouterr().err
    assert [row.row["instruction"] for row in rows_of(new)] == ["new?"]
    assert new.origin().revision == newest
    assert f"owner/rows: main is revision {newest} now; name it in the preset to keep it" in capsys.readouterr().err


def jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    write_jsonl(folder / "train.jsonl", rows)
    return folder


def test_csv_cells_of_the_hub_stay_text(hub, tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text("text,label\n001,1\nNA,0\n", encoding="utf-8")
    hub.add("datasets", "owner/rows", tmp_path / "csv")

    rows = rows_of(HubDataset(kind="hub", id="owner/rows", files="*.csv"))

    assert [(row.row["text"], row.row["label"]) for row in rows] == [("001", "正面"), ("NA", "负面")]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_cells_stay_text_where_the_data_set_is_named_by_its_id_alone(delimiter, hub, tmp_path):
    for split in ("train", "test"):
        path = tmp_path / "csv" / f"{split}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text,label\n001 {split},1\nNA,0\n1.0,1\n".replace(",", delimiter), encoding="utf-8")
    hub.add("datasets", "owner/rows", tmp_path / "csv")

    rows = rows_of(HubDataset(kind="hub", id="owner/rows", hub_split="test"))

    assert [row.row["text"] for row in rows] == ["001 test", "NA", "1.0"]
    with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
        list(HubDataset(kind="hub", id="owner/rows", hub_split="tset").read())


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("files", ["*", ()])
def test_shards_of_unlike_columns_are_read_each_with_its_own(kind, files, hub, tmp_path):
    shards: list[list[dict[str, object]]] = [
        [{"text": f"a{number}", "label": "1"} for number in range(3)],
        [{"note": "more", "text": f"b{number}", "label": "0"} for number in range(2)],
    ]
    for number, shard in enumerate(shards):
        path = tmp_path / "d" / f"train-{number:05}-of-00002.{kind}"
        path.parent.mkdir(exist_ok=True)
        if kind == "csv":
            lines = [",".join(map(str, row)) for row in [shard[0].keys(), *(row.values() for row in shard)]]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            (write_jsonl if kind == "jsonl" else write_parquet)(path, shard)
    hub.add("datasets", "owner/rows", tmp_path / "d")

    rows = rows_of(HubDataset(kind="hub", id="owner/rows", files=files, columns={"text": "text", "label": "label"}))

    assert [(row.line, row.row["text"]) for row in rows] == [(1, "a0"), (2, "a1"), (3, "a2"), (4, "b0"), (5, "b1")]


def test_one_odd_row_does_not_turn_the_others_of_its_column_into_json_texts(hub, tmp_path):
    rows: list[dict[str, object]] = [{"instruction": 'say "hi"', "output": "line\nline"} for _ in range(3)]
    rows[1] = {"instruction": "odd", "output": 35}
    rows[2] = {"instruction": "odd", "output": ["a"]}
    hub.add("datasets", "owner/rows", jsonl(tmp_path / "d", rows))

    first, second, third = HubDataset(kind="hub", id="owner/rows").read()

    assert isinstance(first, FoundRow)
    assert (first.row["instruction"], first.row["output"]) == ('say "hi"', "line\nline")
    assert isinstance(second, BadRow)
    assert isinstance(third, BadRow)
    assert [second.message, third.message] == [
        "'output' is a number, expected text",
        "'output' is a list, expected text",
    ]


def test_files_are_read_in_the_order_of_the_patterns_and_a_limit_ends_early(hub, tmp_path):
    for name in ("b", "a2", "a1"):
        write_jsonl(tmp_path / "d" / f"{name}.jsonl", [{"text": f"{name} {n}", "label": 1} for n in range(3)])
    (tmp_path / "d" / "README.txt").write_text("no rows", encoding="utf-8")
    hub.add("datasets", "owner/rows", tmp_path / "d")

    source = HubDataset(kind="hub", id="owner/rows", files=["b.jsonl", "*"], limit=5)

    assert [row.row["text"] for row in rows_of(source)] == ["b 0", "b 1", "b 2", "a1 0", "a1 1"]


def test_a_row_that_lacks_something_is_a_bad_row_with_its_file_and_line(hub, tmp_path):
    rows = [{"q": "a?", "a": "b"}, {"q": "c?", "a": ""}]
    hub.add("datasets", "owner/rows", jsonl(tmp_path / "d", rows))

    source = HubDataset(kind="hub", id="owner/rows", columns={"instruction": "q", "output": "a"})
    typo = HubDataset(kind="hub", id="owner/rows", columns={"instruction": "qq", "output": "a"})

    assert list(source.read())[1] == BadRow("owner/rows", 2, "empty_answer", "'output' is empty")
    assert next(typo.read()) == BadRow(
        "owner/rows", 1, "missing_column", "no column 'qq'; did you mean 'q'? (there are: q, a)"
    )


def refusal(keys: dict[str, object]) -> str:
    with pytest.raises(DataError) as caught:
        list(HubDataset.model_validate({"kind": "hub"} | keys).read())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_is_one_line_that_says_what_to_do(hub: HubServer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_notTheRightOne")
    two = tmp_path / "two"
    for name in ("easy", "hard"):
        write_parquet(two / name / "train.parquet", [{"text": "x", "label": 1}])
    write_card(two, {"easy": {"train": "easy/*", "test": "easy/*"}, "hard": {"train": "hard/*"}})
    hub.add("datasets", "owner/two", two)
    hub.add("datasets", "owner/gated", two, token="hf_right", gated=True)
    hub.add("datasets", "owner/private", two, token="hf_right")
    script = tmp_path / "script"
    write_jsonl(script / "data" / "a.jsonl", [{"text": "x", "label": 1}])
    (script / "script.py").write_text("raise SystemExit", encoding="utf-8")
    hub.add("datasets", "owner/script", script)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "README.md").write_text("nothing", encoding="utf-8")
    hub.add("datasets", "owner/bare", tmp_path / "bare")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n', encoding="utf-8")
    hub.add("datasets", "owner/broken", broken)

    unknown = "the hub has no such data set (or it is private: set HF_TOKEN); check the spelling"
    page = f"{hub.url}/datasets/owner"
    assert refusal({"id": "owner/none"}) == f"owner/none: {unknown}"
    assert refusal({"id": "owner/private"}) == f"owner/private: {unknown}"
    assert refusal({"id": "owner/gated"}) == (
        f"owner/gated: the hub asks for consent first; accept its terms at {page}/gated and set HF_TOKEN"
    )
    assert refusal({"id": "owner/two", "revision": "v9"}) == (
        f"owner/two: the hub has no revision 'v9'; look at the commits at {page}/two"
    )
    assert refusal({"id": "owner/two"}) == "owner/two: it has several configurations; give one as config: easy, hard"
    assert refusal({"id": "owner/two", "config": "esay"}) == (
        "owner/two: no configuration 'esay'; did you mean 'easy'? (it has: easy, hard)"
    )
    assert refusal({"id": "owner/two", "config": "easy", "hub_split": "tset"}) == (
        "owner/two: no split 'tset'; did you mean 'test'? (it has: train, test)"
    )
    assert refusal({"id": "owner/two", "files": "*.jsonl"}) == (
        "owner/two: no file '*.jsonl' at this revision (it has: easy/train.parquet, hard/train.parquet)"
    )
    assert refusal({"id": "owner/script"}) == (
        "owner/script: it wants to run a script of its own, which is refused; name its files: data/a.jsonl"
    )
    assert refusal({"id": "owner/bare"}) == "owner/bare: it has no data files that can be read (files: none)"
    assert refusal({"id": "owner/broken"}).startswith("owner/broken: a data file cannot be read (")
    hub.add("datasets", "owner/forbidden", two)
    hub.fail("api/datasets/owner/forbidden", "403")
    assert refusal({"id": "owner/forbidden"}) == (
        "owner/forbidden: the hub refuses the token (status 403); check HF_TOKEN"
    )


def test_a_token_is_sent_to_the_hub_and_is_in_no_message_and_no_file(hub, tmp_path, monkeypatch, capsys):
    token = "hf_aVerySecretToken"
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add("datasets", "owner/gated", make_slimorca(tmp_path / "d"), token=token, gated=True)
    hub.fail("sharegpt.jsonl", "503", times=2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    source = {"kind": "hub", "id": "owner/gated"}
    preset = Preset.model_validate({"splits": {"train": {"rows": {"orca": 60}}}, "sources": {"orca": source}})
    manifest = build_dataset(preset, tmp_path / "built", BuildOptions())

    assert manifest["splits"]["train"] == 60
    assert not [path for path in (tmp_path / "built").iterdir() if token.encode() in path.read_bytes()]
    assert {request.headers.get("authorization") for request in hub.requests} == {f"Bearer {token}"}
    said = capsys.readouterr()
    assert "owner/gated: HTTP Error 503; retrying in 1s [Retry 1/5]." in said.err
    assert token not in said.err + said.out
