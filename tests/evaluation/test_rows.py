import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import ConfigError, DataError
from sft.evaluation.rows import (
    LENGTH_EDGES,
    length_bucket,
    places_in_slices,
    prepare_rows,
    sample_by_task,
    select_rows,
)
from sft.files import sha256_of
from tests.evaluation.conftest import ROWS, settings_of


def test_without_flags_the_rows_are_those_training_held_out(run):
    selection = select_rows(run, settings_of())
    assert (selection.split, len(selection.rows), selection.available, selection.seed) == ("validation", 4, 4, 42)
    assert selection.sha256 == run.data["sha256"]


def test_data_that_changed_since_training_is_refused(run, tmp_path):
    changed = tmp_path / "rows.jsonl"
    shutil.copy(str(run.data["path"]), changed)
    with changed.open("a", encoding="utf-8") as file:
        file.write('{"instruction": "new", "output": "row"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl changed since the run was trained .* or give the rows to use"):
        select_rows(replace(run, data={**run.data, "path": str(changed)}), settings_of())


def test_conversations_that_an_older_version_split_do_not_count_as_held_out(run, tmp_path):
    older = {name: value for name, value in run.data.items() if name != "split_rule"}
    assert select_rows(replace(run, data=older), settings_of()).rows == select_rows(run, settings_of()).rows
    path = tmp_path / "chats.jsonl"
    turns = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(40)]
    chats = [{"messages": [*turns[i], *turns[(i + 1) % 40]]} for i in range(40)]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    data = {**run.data, "path": str(path), "sha256": sha256_of(path)}
    assert select_rows(replace(run, data=data), settings_of()).rows
    with pytest.raises(DataError, match="an older version split its conversations for this run"):
        select_rows(replace(run, data={name: data[name] for name in data if name != "split_rule"}), settings_of())


@pytest.mark.parametrize("flags", [("--seed", 7), ("--eval_ratio", 0.5)])
def test_another_split_of_the_file_trained_on_is_refused(run, flags):
    with pytest.raises(ConfigError, match="another split would contain rows it was trained on"):
        select_rows(run, settings_of(*flags))
    with pytest.raises(ConfigError, match="another split would contain rows it was trained on"):
        select_rows(run, settings_of(*flags, "--data", run.data["path"]))


def test_the_file_trained_on_is_recognised_under_another_name_and_split_as_then(run, tmp_path):
    copy = shutil.copy(str(run.data["path"]), tmp_path / "copy.jsonl")
    asked = [row["instruction"] + row["input"] for row in select_rows(run, settings_of("--data", copy)).rows]
    assert asked == [row["instruction"] + row["input"] for row in select_rows(run, settings_of()).rows]


def test_rows_that_training_left_out_are_left_out_again(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    shutil.copy(str(run.data["path"]), path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"instruction": "cut o')
    data = {**run.data, "path": str(path), "sha256": sha256_of(path)}
    lenient = replace(run, data=data, settings={**run.settings, "on_bad_row": "quarantine"})

    asked = [row["instruction"] for row in select_rows(lenient, settings_of()).rows]

    assert asked == [row["instruction"] for row in select_rows(run, settings_of()).rows]
    with pytest.raises(DataError, match=r"rows\.jsonl:41: not valid JSON.*or pass --on_bad_row quarantine"):
        select_rows(replace(run, data=data), settings_of())
    assert len(select_rows(replace(run, data=data), settings_of("--on_bad_row", "quarantine")).rows) == len(asked)


def test_of_a_new_file_all_rows_are_taken_in_their_order(run, mixed_file):
    selection = select_rows(run, settings_of("--data", mixed_file))
    assert (selection.split, [row["id"] for row in selection.rows]) == ("whole", [row["id"] for row in ROWS])


def test_of_a_new_file_a_share_can_be_taken(run, mixed_file):
    selection = select_rows(run, settings_of("--data", mixed_file, "--eval_ratio", 0.3))
    assert (selection.split, len(selection.rows)) == ("validation", 3)


def test_a_split_without_rows_is_named(run):
    with pytest.raises(DataError, match=r"the test split has no rows; choose the other one with --split, or --data"):
        select_rows(run, settings_of("--split", "test"))


def test_a_single_new_file_has_no_splits(run, mixed_file):
    with pytest.raises(ConfigError, match="has no splits; leave --split out"):
        select_rows(run, settings_of("--data", mixed_file, "--split", "test"))


def test_a_sample_keeps_the_share_of_each_task_and_the_order_of_rows():
    rows = [{"id": str(place), "source": "x", "task": "ner" if place % 4 == 0 else "news"} for place in range(40)]
    sample = sample_by_task(rows, 12, seed=1)
    assert Counter(row["task"] for row in sample) == {"news": 9, "ner": 3}
    assert [int(row["id"]) for row in sample] == sorted(int(row["id"]) for row in sample)
    assert sample == sample_by_task(rows, 12, seed=1) != sample_by_task(rows, 12, seed=2)
    assert sample_by_task(rows, 100, seed=1) == rows


def test_prompts_are_what_precedes_the_answer_in_training(run, loaded, mixed_file):
    rows = select_rows(run, settings_of("--data", mixed_file)).rows
    prepared = prepare_rows(rows, loaded.chat, run.system_prompt, run.train_settings(), 512)
    assert (len(prepared.rows), prepared.too_long) == (10, {})
    sentiment, chat = prepared.rows[0], prepared.rows[-1]
    assert sentiment.prompt_ids + loaded.chat.encode_answer("正面") == sentiment.encoded[0].input_ids[:-1]
    assert (sentiment.labels, sentiment.reference, sentiment.num_cut) == (("负面", "正面"), "正面", 0)
    assert (chat.question, chat.reference) == ("你好吗", "很好")
    assert loaded.chat.decode(chat.prompt_ids).endswith("user\n你好吗\nassistant\n")


def test_answers_of_a_conversation_are_scored_as_they_were_supervised(run, loaded):
    trained = run.train_settings()
    [row] = prepare_rows([ROWS[-1]], loaded.chat, None, trained, 512).rows
    assert [piece.num_supervised for piece in row.encoded] == [len("hello") + 1 + len("很好".encode()) + 1]
    last_only = trained.model_copy(update={"supervise": "last"})
    [row] = prepare_rows([ROWS[-1]], loaded.chat, None, last_only, 512).rows
    assert [piece.num_supervised for piece in row.encoded] == [len("很好".encode()) + 1]


def test_rows_that_do_not_fit_are_left_out_and_named(run, loaded):
    long = {**ROWS[5], "id": "long", "text": "张华在北京" + "啊" * 200}  # a document with entities is never shortened
    prepared = prepare_rows([ROWS[0], long], loaded.chat, "Be brief.", run.train_settings(), 192)
    assert ([row.row["id"] for row in prepared.rows], list(prepared.too_long)) == (["s1"], ["long"])
    with pytest.raises(DataError, match="none of the 1 rows fits 192 tokens; raise --max_seq_length"):
        prepare_rows([long], loaded.chat, "Be brief.", run.train_settings(), 192)


def test_a_shortened_row_reports_how_much_was_cut(run, loaded):
    review = {**ROWS[0], "text": "好" * 200}
    [row] = prepare_rows([review], loaded.chat, "Be brief.", run.train_settings(), 192).rows
    assert len(row.encoded[0].input_ids) <= 192
    assert row.num_tokens == len(loaded.chat.encode_text("好" * 200)) + row.num_tokens - 600 > 192
    assert row.num_cut == row.num_tokens - len(row.encoded[0].input_ids)


def test_a_dataset_folder_gives_its_test_rows(run, tmp_path, monkeypatch):
    folder = tmp_path / "built"
    folder.mkdir()
    (folder / "manifest.json").touch()
    rows = {"train": ROWS[:2], "validation": ROWS[2:4], "test": ROWS[4:]}
    dataset = SimpleNamespace(**rows, sha256=run.data["sha256"], path=str(folder), split="as built")
    monkeypatch.setattr("sft.evaluation.rows.open_dataset", lambda path, **how: dataset)
    same = replace(run, data={**run.data, "path": str(folder)})
    assert select_rows(same, settings_of()).split == "test"
    assert select_rows(same, settings_of("--split", "validation")).rows == ROWS[2:4]


def test_length_buckets_are_named_by_their_bounds():
    names = [length_bucket(length) for length in (1, 64, 65, 128, 129, 4096, 4097, 99999)]
    assert names == ["1-64", "1-64", "65-128", "65-128", "129-256", "2049-4096", "4097+", "4097+"]


@given(st.integers(1, 10_000))
def test_every_length_is_inside_the_bucket_it_falls_into(length):
    low, _, high = length_bucket(length).rstrip("+").partition("-")
    assert int(low) <= length <= int(high or 10**9)
    assert int(high or LENGTH_EDGES[-1]) in LENGTH_EDGES


def test_every_row_is_in_one_slice_of_each_kind(run, loaded):
    rows = prepare_rows(ROWS, loaded.chat, run.system_prompt, run.train_settings(), 512).rows
    found = places_in_slices(rows)
    assert {
        kind: sorted(place for places in slices.values() for place in places) for kind, slices in found.items()
    } == {kind: list(range(10)) for kind in ("source", "task", "length", "language")}
    assert {name: len(places) for name, places in found["source"].items()} == {"reviews": 4, "press": 3, "qa": 3}
    assert found["language"]["en"] == [7]  # "What is LoRA?", its Chinese prompt aside
    starts = [int(name.partition("-")[0]) for name in found["length"]]
    assert starts == sorted(starts)
