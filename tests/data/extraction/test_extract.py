"""Drawing rows: exact, seeded, independent of the order in which a server holds its documents, and accounted for."""

import math
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import bson
import mongomock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.extraction import ExtractManifest, ExtractPlan, extract, parse_quotas, parse_shares
from sft.data.files.reader import read_records
from sft.data.mongo import Retry, behind, stream_documents
from sft.errors import DataError
from sft.text import normalise_text
from tests.data.samples import make_documents

SHARES = {"train": Fraction("0.8"), "validation": Fraction("0.1"), "test": Fraction("0.1")}


def run(documents: list[dict[str, object]], output: Path, quotas: dict[str, int], **keys: object) -> ExtractManifest:
    """Extract from a collection that holds the documents in this order."""
    collection = mongomock.MongoClient().texts.rows
    collection.insert_many(documents)
    plan = ExtractPlan(quotas, ("text_cn",), "n_labels", output, **{"shares": {}, "random": True, **keys})
    manifest = extract(collection, plan, Retry(0), shown="mongodb://here")
    for entry in manifest["labels"].values():
        assert entry["read"] == entry["kept"] + sum(entry["dropped"].values()) + sum(entry["quarantined"].values())
    return manifest


def texts_of(path: Path) -> list[object]:
    return [found.fields["text_cn"] for found in read_records(path)]


@settings(max_examples=15, deadline=None)
@given(order=st.randoms(use_true_random=False), rows=st.integers(1, 20))
def test_the_draw_does_not_depend_on_the_order_of_the_server(order, rows, tmp_path_factory):
    folder, documents = tmp_path_factory.mktemp("order"), make_documents(60)
    shuffled = order.sample(documents, len(documents))

    run(documents, folder / "a.jsonl", {"正常": rows, "暴恐": 5})
    run(shuffled, folder / "b.jsonl", {"正常": rows, "暴恐": 5})

    assert (folder / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()


def test_another_seed_draws_other_rows_and_every_row_can_be_drawn(tmp_path):
    drawn: Counter[object] = Counter()
    for seed in range(60):
        run(make_documents(30), tmp_path / "a.jsonl", {"正常": 5}, seed=seed)
        drawn.update(texts_of(tmp_path / "a.jsonl"))
    assert len(drawn) == 10  # each of the ten rows of the label
    assert max(drawn.values()) < 2 * 30  # 30 of 60 draws are expected; sqrt(60 / 4) is their spread
    assert min(drawn.values()) > 30 - 4 * math.sqrt(60 / 4)


def test_without_random_the_first_rows_by_id_are_taken_and_reading_stops_there(tmp_path):
    documents = make_documents(30)
    random.Random(1).shuffle(documents)

    manifest = run(documents, tmp_path / "a.jsonl", {"正常": 3}, random=False)

    assert sorted(map(str, texts_of(tmp_path / "a.jsonl"))) == ["文本 0", "文本 3", "文本 6"]
    assert manifest["labels"]["正常"]["read"] == 3


def test_splits_are_exact_per_label_and_no_text_is_in_two(tmp_path):
    """Every text is there three times: again, in another width and case, and under another label."""
    documents: list[dict[str, object]] = []
    for number in range(300):
        forms = (f"Text {number}。", f"text {number}", f"ＴＥＸＴ {number}", f"text  {number}!")
        labels = ("正常", "正常", "正常", "暴恐")
        documents += [
            {"_id": len(documents) + n, "text_cn": form, "n_labels": label}
            for n, (form, label) in enumerate(zip(forms, labels, strict=True))
        ]

    manifest = run(documents, tmp_path / "a.csv", {"正常": 100, "暴恐": 55}, shares=SHARES)

    files = {split: tmp_path / f"a.{split}.csv" for split in SHARES}
    counts = {
        split: Counter(found.fields["extracted_label"] for found in read_records(path)) for split, path in files.items()
    }
    assert counts == {
        "train": {"正常": 80, "暴恐": 44},
        "validation": {"正常": 10, "暴恐": 6},
        "test": {"正常": 10, "暴恐": 5},
    }
    texts = [{normalise_text(str(text)) for text in texts_of(path)} for path in files.values()]
    assert texts[0] & texts[1] == texts[0] & texts[2] == texts[1] & texts[2] == set()
    assert manifest["labels"]["正常"]["dropped"]["same_text"] > 0
    assert manifest["files"]["a.test.csv"]["rows"] == 15


def test_what_cannot_be_used_is_counted_by_reason_and_named_by_id(tmp_path):
    documents: list[dict[str, object]] = [
        {"_id": 1, "text_cn": "好", "n_labels": "a"},
        {"_id": 2, "n_labels": "a"},
        {"_id": 3, "text_cn": " ", "n_labels": "a"},
        {"_id": 4, "text_cn": b"\x00", "n_labels": "a"},
        {"_id": 5, "text_cn": "x" * 40_000, "n_labels": "a"},
        {"_id": 6, "text_cn": "两个", "n_labels": ["a", "b"]},
        {"_id": 7, "text_cn": "别的", "n_labels": ["a", "c"]},
        {"_id": 8, "text_cn": "b", "n_labels": "b"},
        {"_id": 9, "text_cn": "无关", "n_labels": "c"},
    ]

    manifest = run(documents, tmp_path / "a.xlsx", {"a": 2, "b": 1}, on_bad_row="quarantine")

    assert manifest["labels"] == {
        "a": {
            "asked": {"train": 2},
            "read": 7,
            "kept": 2,
            "dropped": {"several_labels": 1},
            "quarantined": {"cell_too_long": 1, "empty_text": 2, "wrong_type": 1},
            "written": {"train": 2},
        },
        "b": {
            "asked": {"train": 1}, "read": 1, "kept": 1, "dropped": {}, "quarantined": {}, "written": {"train": 1},
        },
    }  # fmt: skip
    assert sorted(map(str, texts_of(tmp_path / "a.xlsx"))) == ["b", "别的", "好"]
    assert manifest["bad_rows"] == [
        "texts.rows: _id 2: no 'text_cn'",
        "texts.rows: _id 3: 'text_cn' is empty",
        "texts.rows: _id 4: 'text_cn' is bytes, which no row can hold",
        "texts.rows: _id 5: 'text_cn' has 40,000 characters, an Excel cell holds 32,767; write .csv or .jsonl",
    ]
    with pytest.raises(DataError) as caught:
        run(documents, tmp_path / "b.xlsx", {"a": 2})
    assert str(caught.value) == ("texts.rows: _id 2: no 'text_cn'; fix the document, or pass --on_bad_row quarantine")
    with pytest.raises(DataError, match=r"more than 1 bad rows \(--max_bad_rows\); the first: texts\.rows: _id 2: no"):
        run(documents, tmp_path / "b.xlsx", {"a": 2}, on_bad_row="quarantine", max_bad_rows=1)
    assert [path.name for path in tmp_path.glob("*b.xlsx*")] == []


@pytest.mark.parametrize(
    ("on_shortage", "written"), [("rescale", (5, 10)), ("upsample", (10, 20)), ("accept", (5, 20))]
)
def test_a_short_label_is_handled_as_everywhere_in_the_house(on_shortage, written, tmp_path):
    documents = [{"_id": n, "text_cn": f"t{n}", "n_labels": "a" if n < 5 else "b"} for n in range(50)]

    manifest = run(documents, tmp_path / "a.jsonl", {"a": 10, "b": 20}, on_shortage=on_shortage)

    assert tuple(entry["written"]["train"] for entry in manifest["labels"].values()) == written


def test_ids_of_every_type_are_passed_once_and_in_order_when_a_stream_is_taken_up_again():
    """MongoDB compares within a type only: going on behind the number 2 must still find texts and ObjectIds."""
    ids: list[object] = [1, 2.5, "a", "b", b"\x01", bson.ObjectId("0" * 24), bson.ObjectId("f" * 24), True]
    kinds = [int, float, str, bytes, bson.ObjectId, bool]

    for place, last in enumerate(ids):
        condition = behind(last)["$or"]
        later = [name["_id"]["$type"] for name in condition[1:]]
        assert condition[0] == {"_id": {"$gt": last}}
        for other in ids[place + 1 :]:
            names = {int: "number", float: "number", str: "string", bytes: "binData", bson.ObjectId: "objectId"}
            same = names.get(type(last), "bool") == names.get(type(other), "bool")
            assert same or names.get(type(other), "bool") in later, kinds
    with pytest.raises(DataError, match="documents with such an _id cannot be read in order"):
        behind(bson.MaxKey())


def test_labels_are_found_as_numbers_too(tmp_path):
    documents = [{"_id": n, "text_cn": f"t{n}", "n_labels": n % 2} for n in range(8)]

    run(documents, tmp_path / "a.csv", {"1": 4})

    assert sorted(map(str, texts_of(tmp_path / "a.csv"))) == ["t1", "t3", "t5", "t7"]


def test_fields_within_objects_are_read_by_their_path():
    collection = mongomock.MongoClient().texts.rows
    collection.insert_many([{"_id": 1, "meta": {"a": 1, "b": 2}, "c": 3}])

    assert list(stream_documents(collection, {}, ["meta.a", "meta"], Retry(0))) == [
        {"_id": 1, "meta": {"a": 1, "b": 2}}
    ]


def test_words_of_a_command_line_become_quotas_and_shares():
    assert parse_quotas(("正常:15000", "暴恐：6000， 歧视:1", "a:b:2")) == {
        "正常": 15000,
        "暴恐": 6000,
        "歧视": 1,
        "a:b": 2,
    }
    assert parse_shares(("train:.8", "validation:0.1", "test:0.1")) == SHARES
