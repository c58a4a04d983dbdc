"""What a user says about his rows: their task, labels, columns, groups; and what is said where he says nothing."""

import json
import shlex
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from prompts.tasks import get_task
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.rows.reading import Reading, find_task, make_reading, restore_tasks
from sft.errors import ConfigError, DataError

REVIEWS = "评论,标签\n房间很干净,好评\n太吵了,差评\n早餐很好,好评\n"


def write(folder: Path, name: str, *rows: dict[str, object]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **said: object) -> list[dict[str, object]]:
    return open_dataset(path, eval_ratio=0, reading=make_reading(**said)).train


def refuse(path: Path, **said: object) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        read(path, **said)
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_labels_and_columns_of_ones_own_need_no_python(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(REVIEWS, encoding="utf-8")

    rows = read(path, columns={"text": "评论", "label": "标签"}, labels=("差评", "好评"))

    assert [(row["task"], row["text"], row["label"]) for row in rows][:2] == [
        ("差评/好评", "房间很干净", "好评"),
        ("差评/好评", "太吵了", "差评"),
    ]
    assert get_task("差评/好评").labels == ("差评", "好评")
    assert get_task("差评/好评").build_messages(rows[0])[0]["content"].startswith("判断文本属于哪一类（差评、好评）")


def test_a_header_and_labels_that_nothing_knows_are_named_with_the_flag_that_helps(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(REVIEWS, encoding="utf-8")

    assert "perhaps --columns text=评论,label=标签" in refuse(path)
    message = refuse(path, columns={"text": "评论", "label": "标签"})
    assert message.startswith(
        "reviews.csv: the labels are 好评 (2), 差评 (1), which no task here has; if these are all, "
    )
    assert "pass --labels 好评,差评" in message
    assert "fix the row" not in message


def test_a_label_map_alone_makes_a_task_and_its_labels_are_checked(tmp_path):
    path = write(tmp_path, "mail.jsonl", {"text": "a", "label": 1}, {"text": "b", "label": "0.0"})

    rows = read(path, label_map={"0": "ham", "1": "spam"})

    assert [(row["task"], row["label"]) for row in rows] == [("ham/spam", "spam"), ("ham/spam", "ham")]
    assert refuse(path, label_map={"0": "hem"}, labels=("ham", "spam")) == (
        "label_map: 'hem' is no label of task ham/spam; did you mean 'ham'?"
    )


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", "TRUE", " Positive\u200b", "pos", "正面"])
def test_a_class_is_the_same_however_it_is_spelled(tmp_path, value):
    assert read(write(tmp_path, "a.jsonl", {"text": "好", "label": value}))[0]["label"] == "正面"


def test_class_numbers_of_another_scale_are_refused_even_where_bad_rows_are_left_out(tmp_path):
    path = write(tmp_path, "stars.jsonl", *({"text": f"t{n}", "label": n} for n in range(1, 6)))

    with pytest.raises(DataError, match="the labels are 1, 2, 3, 4, 5, more than sentiment has; say what they mean"):
        open_dataset(path, eval_ratio=0, on_bad_row="quarantine")


def test_a_number_under_an_unknown_task_is_not_taken_for_sentiment(tmp_path):
    for task in ("toxicity", "ner"):
        path = write(tmp_path, "a.jsonl", {"text": "a", "label": 1, "task": task})

        assert refuse(path).startswith(f"a.jsonl:1: task {task!r} is unknown or has no text and label, so what label 1")


def write_classes(path: Path, names: list[str]) -> Path:
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    schema = pyarrow.schema({"text": pyarrow.string(), "label": pyarrow.int64()})
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [0, 1, -1]}, schema=schema)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    return path


@pytest.mark.parametrize(
    ("names", "task", "labels"),
    [(["positive", "negative"], "sentiment", ["正面", "负面"]), (["ham", "spam"], "ham/spam", ["ham", "spam"])],
)
def test_the_declared_names_of_classes_are_used(tmp_path, names, task, labels):
    path = write_classes(tmp_path / "rows.parquet", names)

    with pytest.raises(DataError, match="label is missing"):  # -1 is no class
        open_dataset(path, eval_ratio=0)
    rows = open_dataset(path, eval_ratio=0, on_bad_row="quarantine").train

    assert [(row["task"], row["label"]) for row in rows] == [(task, label) for label in labels]


def test_a_task_in_yaml_has_its_labels_spellings_question_system_and_columns(tmp_path):
    file = tmp_path / "tickets_in_yaml.yaml"
    file.write_text(
        'labels: {low: [normal, 0], high: [urgent, 1]}\nquestion: "Ticket: {text}\\nlow or high?"\n'
        "system: You sort tickets.\ncolumns: {text: message, label: priority}\n",
        encoding="utf-8",
    )
    path = write(tmp_path, "t.jsonl", {"message": "Fire!", "priority": "Urgent"}, {"message": "Slow.", "priority": 0})

    rows = read(path, task=str(file))
    task = get_task("tickets_in_yaml")

    assert [row["label"] for row in rows] == ["high", "low"]
    assert task.build_messages(rows[0])[0]["content"] == "Ticket: Fire!\nlow or high?"
    assert (task.system_prompt, task.labels) == ("You sort tickets.", ("low", "high"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("labels: [yes, no]", 'labels: True is no text; write it in quotes: "True"'),
        ("labels: [a]", "labels is ['a'], expected at least two different ones"),
        ("labels: {a: [x], b: [x]}", "labels: 'x' is a spelling of both a and b"),
        ("labels: {a: [b], b: []}", "labels: 'b' is a label, and cannot be another spelling of one"),
        ("lables: [a, b]", "'lables' is no key of a task; it has labels, question, system, columns"),
    ],
)
def test_a_wrong_description_is_one_line(tmp_path, content, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        find_task(str(file))
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_described_task_is_restored_from_what_a_run_keeps_and_another_of_its_name_is_refused():
    definition = make_reading(labels=("erste", "zweite")).definition
    restore_tasks([json.loads(json.dumps(definition))])

    with pytest.raises(ValueError, match="was used with another description a moment ago"):
        restore_tasks([{**definition, "question": "Which?"}])


def test_a_build_keeps_the_described_tasks_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.jsonl", *({"text": f"t{n}", "label": n % 2, "id": f"own-id-{n}"} for n in range(4)))
    source = {"kind": "file", "path": "a.jsonl", "labels": ["kalt", "warm"], "label_map": {"0": "kalt", "1": "warm"}}
    preset = Preset.model_validate({"splits": {"train": {"rows": {"own": 3}}}, "sources": {"own": source}})

    manifest = build_dataset(preset, tmp_path / "data", BuildOptions())

    assert [task["labels"] for task in manifest["tasks"]] == [["kalt", "warm"]]
    rows = open_dataset(tmp_path / "data").train
    assert {row["own_id"] for row in rows} < {f"own-id-{n}" for n in range(4)}
    (left_out,) = (tmp_path / "data/ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(left_out)["id"] in {f"own-id-{n}" for n in range(4)} - {row["own_id"] for row in rows}


def test_ones_own_ids_stay_and_a_repeated_one_gives_way_to_the_line(tmp_path):
    path = write(tmp_path, "a.jsonl", *({"id": name, "prompt": f"Q{name}", "response": "A"} for name in ("x", 7, "x")))

    rows = read(path)

    assert [(row["id"], row.get("own_id")) for row in rows] == [("x", None), ("7", None), ("a-3", "x")]


def test_rows_of_one_group_stay_on_one_side(tmp_path):
    rows = [{"thread": n // 5, "question": f"question {n}", "answer": "A"} for n in range(40)]
    path = write(tmp_path, "a.jsonl", *rows)

    dataset = open_dataset(path, eval_ratio=0.3, reading=Reading(group_by="thread"))

    train, held_out = ({row["group"] for row in part} for part in (dataset.train, dataset.validation))
    assert train & held_out == set()
    assert len(train) + len(held_out) == 8


def test_a_conversation_and_its_continuations_stay_on_one_side_in_file_and_build(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [
        [{"role": r, "content": f"{r} {n}"} for n in (t, t + 100, t + 200) for r in ("user", "assistant")]
        for t in range(12)
    ]
    path = write(tmp_path, "a.jsonl", *({"messages": said[:end]} for said in turns for end in (2, 4, 6)))

    dataset = open_dataset(path, eval_ratio=0.3)
    preset = {"splits": {"train": {"rows": {"own": 24}}, "test": {"rows": {"own": 12}}},
              "sources": {"own": {"kind": "file", "path": "a.jsonl"}}, "near_across_splits": None}  # fmt: skip
    build_dataset(Preset.model_validate(preset), tmp_path / "data", BuildOptions())
    built = open_dataset(tmp_path / "data")

    for part, other in ((dataset.train, dataset.validation), (built.train, built.test)):
        assert other
        assert {row["messages"][0]["content"] for row in part} & {
            row["messages"][0]["content"] for row in other
        } == set()


def test_a_form_is_chosen_where_rows_fit_two(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = write(tmp_path, "a.jsonl", {"messages": talk, "instruction": "Q", "output": "A"})

    assert [read(path)[0]["task"], read(path, form="instruction/input/output")[0]["task"]] == ["chat", "instruct"]
    assert refuse(path, form="mesages").startswith("--form mesages; did you mean 'messages'?")


def test_a_built_dataset_refuses_flags_that_only_files_take(tmp_path):
    write(tmp_path, "a.jsonl", {"text": "a", "label": 1}, {"text": "b", "label": 0})
    source = {"kind": "file", "path": str(tmp_path / "a.jsonl")}
    preset = Preset.model_validate({"splits": {"train": {"rows": {"own": 2}}}, "sources": {"own": source}})
    build_dataset(preset, tmp_path / "data", BuildOptions())

    assert refuse(tmp_path / "data", columns={"text": "x"}).startswith("--columns: ")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "chosen and rejected: this is preference data"),
        ({"prompt": "Q", "completion": "A", "label": False}, "its answer is marked as rejected (label false"),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "kto_tag": False},
         "its answer is marked as rejected (kto_tag false"),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "tools": [{"a": 1}]},
         "'tools', tool 1 has the name None, expected a function's name"),
        ({"instruction": "Q", "output": "A", "images": ["a.png"]}, "'images' is not empty; only text is learned"),
        ({"text": "plain text"}, "'text' is there and nothing to answer: --task text learns whole documents"),
        ({"chosen_messages": [1], "rejected_messages": [1]}, "chosen_messages and rejected_messages: this is prefer"),
        ({"messages": [1], "rejected_response": "no"}, "rejected_response: this is preference data"),
        ({"input_ids": [1, 2]}, "'input_ids': rows that are tokens already are not read"),
    ],
)  # fmt: skip
def test_data_for_another_training_is_refused_by_name(tmp_path, record, message):
    assert refuse(write(tmp_path, "a.jsonl", record)).removeprefix("a.jsonl:1: ").startswith(message)


@pytest.mark.parametrize(
    "record",
    [
        {"query": "Q", "response": "A"},
        {"question": "Q", "answer": "A"},
        {"instruction": "Q", "context": "", "response": "A"},
        {"prompt": "Q", "response": "A"},
        {"Instruction": "Q", " OUTPUT ": "A"},
        {"instruction": "", "input": "Q", "output": "A"},
        {"id": "7", "source": "flan", "task": "qa", "instruction": "Q", "output": "A"},
        {"id": None, "source": None, "task": None, "instruction": "Q", "output": "A", "messages": None},
        {"task": "instruct", "instruction": "Q", "output": "A"},
        {"question": "Q", "solution": "A"},
        {"problem": "Q", "answer": "A"},
        {"instruction": "Q", "completion": "A"},
        {"input": "Q", "target": "A"},
        {"user": "Q", "assistant": "A"},
        {"human": "Q", "gpt": "A"},
        {"prompt": "Q", "generation": "A"},
    ],
)
def test_names_that_people_use_are_read_as_a_question_and_its_answer(tmp_path, record):
    (row,) = read(write(tmp_path, "a.jsonl", record))

    assert (row["task"], row["instruction"], row["input"], row["output"]) == ("instruct", "Q", "", "A")


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Q", "input": "X", "response": "A"},
        {"instruction": "Q", "context": "X", "output": "A"},
        {"question": "Q", "context": ["X"], "answer": "A"},
        {"prompt": "Q", "input": "X", "completion": "A"},
    ],
)
def test_what_a_question_is_about_is_read_whatever_the_answer_is_called(tmp_path, record):
    (row,) = read(write(tmp_path, "a.jsonl", record))

    assert (row["instruction"], row["input"], row["output"]) == ("Q", "X", "A")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_the_thought_before_an_answer_can_be_in_a_column(tmp_path, name):
    (row,) = read(write(tmp_path, "a.jsonl", {"question": "Q", "answer": "A", name: "Hm."}))

    assert (row["output"], row["reasoning_content"]) == ("A", "Hm.")


@pytest.mark.parametrize("exchange", [["Hi", "Hello"], {"query": "Hi", "response": "Hello"}])
def test_a_history_holds_pairs_or_turns(tmp_path, exchange):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"query": "Q", "response": "A", "history": history} for history in ([exchange], turns)]

    first, second = read(write(tmp_path, "a.jsonl", *rows))

    assert first["messages"] == second["messages"] == [*turns, {"role": "user", "content": "Q"},
                                                       {"role": "assistant", "content": "A"}]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"data": [{"instruction": "Q", "output": "A"}]}, "rows lie in 'data', a list of 1: save that list as the"),
        ({"r1": {"a": 1}, "r2": {"a": 2}}, "an object of objects: save their list as the file"),
        ({"instruction": {"0": "Q"}, "output": {"0": "A"}}, "the file has one list or object per column"),
        ({"instruction": ["Q", "R"], "output": ["A", "B"]}, "the file has one list or object per column"),
        ({"role": "user", "content": "Q"}, "turns, each a row of its own: a conversation is one row"),
        ({"talk": [{"role": "user", "content": "Q"}]}, "columns (talk) fit no known form"),
        ({"text": "Good.", "sentiment": 1}, "columns (sentiment, text) fit no known form"),
        ({"text": "Good.", "label": [1]}, "label is a list; a row has one label, as text or a number"),
        ({"query": "Q", "response": "A", "history": ["Hi", "Hello"]}, "'history' must be a list of [question, answer]"),
    ],
)  # fmt: skip
def test_a_file_whose_rows_lie_elsewhere_is_called_what_it_is(tmp_path, record, message):
    assert refuse(write(tmp_path, "a.json", record)).removeprefix("a.json:1: ").startswith(message)


def test_a_column_that_is_meant_for_a_field_is_hinted_at(tmp_path):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]

    assert "perhaps --columns messages=talk" in refuse(write(tmp_path, "a.jsonl", {"talk": turns}))
    assert "perhaps --columns label=sentiment" in refuse(write(tmp_path, "b.jsonl", {"text": "a", "sentiment": 1}))
    assert "perhaps --columns text=#text" in refuse(write(tmp_path, "c.jsonl", {"#text": "a", "label": 1}))


def test_the_system_prompt_is_part_of_what_a_row_asks(tmp_path):
    rows = [{"system": f"Contract {n}.", "instruction": "How long is the notice?", "output": "Long."} for n in range(6)]
    path = write(tmp_path, "a.jsonl", *rows)

    dataset = open_dataset(path, eval_ratio=0.2)

    assert (len(dataset.train), len(dataset.validation)) == (5, 1)


def test_whole_documents_are_read_only_where_the_task_says_so(tmp_path):
    path = write(tmp_path, "a.jsonl", {"text": "One.", "url": "u", "label": 1}, {"text": " Two.\n", "url": "u"})

    rows = read(path, task="text")

    assert [(row["task"], row["text"]) for row in rows] == [("text", "One."), ("text", " Two.\n")]
    assert read(write(tmp_path, "b.jsonl", {"task": "text", "text": "Three."}))[0]["task"] == "text"
    assert "no 'text' among the columns (content, url); perhaps --columns text=content" in refuse(
        write(tmp_path, "c.jsonl", {"url": "u", "content": "A long text."}), task="text"
    )
    assert refuse(write(tmp_path, "d.jsonl", {"task": "text", "text": "a", "label": "b"})).startswith("d.jsonl")


def test_a_conversation_of_one_answer_is_a_document_where_the_task_says_so(tmp_path):
    alone, asked = [{"role": "assistant", "content": "I love music."}], [{"role": "user", "content": "Q"}]

    assert read(write(tmp_path, "a.jsonl", {"messages": alone}), task="text")[0]["text"] == "I love music."
    assert "--task text learns whole documents; leave it out" in refuse(
        write(tmp_path, "b.jsonl", {"messages": asked}), task="text"
    )


def test_a_single_document_is_split_and_its_end_is_held_out(tmp_path, capsys):
    text = "\n".join(f"Line {number} of a book." for number in range(40))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")

    dataset = open_dataset(tmp_path / "book.txt", eval_ratio=0.2, reading=make_reading(task="text"))

    (train,), (validation,) = dataset.train, dataset.validation
    assert train["text"] + validation["text"] == text
    assert train["text"].endswith("\n")
    assert validation["id"] == "book-1.end"
    assert 0.1 < len(validation["text"]) / len(text) < 0.5
    assert "one document: its last" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "flag"),
    [
        (["food, drink", "rooms"], """--labels '"food, drink",rooms'"""),
        (["Good", "good", "GOOD", "bad"], "--labels Good,bad"),
        (["very good", "very  good ", "a\nb"], "--labels 'very good,a b'"),
        (["(A)", "B"], "--labels '(A),B'"),
        (["null", "yes"], "--labels null,yes"),
    ],
)
def test_the_flag_that_a_message_names_for_labels_reads_the_file(tmp_path, labels, flag):
    path = write(tmp_path, "a.jsonl", *({"text": f"t{n}", "label": label} for n, label in enumerate(labels)))

    assert f"if these are all, pass {flag}; or describe" in refuse(path)
    settings = load_settings(TrainSettings, shlex.split(flag))
    assert len(read(path, labels=settings.labels)) == len(labels)


def test_one_label_or_a_hundred_get_advice_that_can_be_followed(tmp_path):
    one = write(tmp_path, "one.jsonl", *({"text": f"t{n}", "label": "spam"} for n in range(3)))
    many = write(tmp_path, "many.jsonl", *({"text": f"t{n}", "label": f"c{n}"} for n in range(100)))

    assert "one class leaves nothing to learn: add rows of another" in refuse(one)
    assert "and 22 more at least" in refuse(many)
    assert "list all of them in a YAML file" in refuse(many)
    assert read(many, columns={"instruction": "text", "output": "label"})[0]["output"] == "c0"


TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("record", "columns", "answer"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"output": "chosen"}, {"output": "A"}),
        (
            {"prompt": [TURNS[0]], "chosen": [TURNS[1]], "rejected": [TURNS[1]]},
            {"output": "chosen"},
            {"messages": TURNS},
        ),
        ({"prompt": "Q", "chosen": TURNS, "rejected": TURNS}, {"messages": "chosen"}, {"messages": TURNS}),
    ],
)
def test_the_columns_that_a_message_names_for_preferences_learn_the_chosen_answer(tmp_path, record, columns, answer):
    path = write(tmp_path, "a.jsonl", record)

    (flag,) = columns.items()
    assert f"; --columns {flag[0]}={flag[1]} learns the chosen ones" in refuse(path)
    assert answer.items() <= read(path, columns=columns)[0].items()


def test_names_inside_an_object_are_hinted_as_columns_takes_them(tmp_path):
    path = write(tmp_path, "a.jsonl", {"data": {"instruction": "Q", "output": "A"}, "n": 1})

    assert "perhaps --columns instruction=data.instruction,output=data.output" in refuse(path)
    assert read(path, columns={"instruction": "data.instruction", "output": "data.output"})[0]["output"] == "A"


def test_half_of_a_pair_of_texts_is_not_taken_for_a_row(tmp_path):
    path = write(tmp_path, "a.jsonl", {"text_a": "a", "text_b": "b", "label": 1})

    assert "text_b is not empty, so a row is a pair of texts" in refuse(path)
    assert read(write(tmp_path, "b.jsonl", {"text_a": "a", "text_b": "", "label": 1}))[0]["text"] == "a"


def test_the_name_of_a_class_beside_its_number_is_the_label(tmp_path):
    mail = write(tmp_path, "mail.jsonl", {"text": "a", "label": 1, "label_text": "ham"})
    upside_down = write(tmp_path, "b.jsonl", {"text": "a", "label": 0, "label_text": "positive"})

    assert "the labels are ham (1)" in refuse(mail)
    assert read(upside_down)[0]["label"] == "正面"
    assert read(mail, label_map={"1": "spam", "0": "ham"})[0]["label"] == "spam"


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"text": "a", "output": "b"}, "instruction=text"),
        ({"text": "a", "summary": "b"}, "instruction=text,output=summary"),
        ({"article": "a", "highlights": "b"}, "instruction=article,output=highlights"),
        ({"问": "a", "答": "b"}, "instruction=问,output=答"),
    ],
)
def test_the_hint_for_columns_is_one_that_reads_them(tmp_path, record, columns):
    path = write(tmp_path, "a.jsonl", record)

    assert f"perhaps --columns {columns} (" in refuse(path)
    assert read(path, columns=dict(pair.split("=") for pair in columns.split(",")))[0]["output"] == "b"


def test_a_column_without_its_other_half_is_hinted_with_a_gap(tmp_path):
    assert "perhaps --columns output=summary,instruction=... (" in refuse(write(tmp_path, "a.jsonl", {"summary": "b"}))


def test_texts_with_two_labels_are_told_and_texts_of_two_tasks_are_not(tmp_path, capsys):
    said = [{"text": "a", "label": 1}, {"text": "a！", "label": 0}, {"text": "b", "label": 0}]
    tasks = [{"text": "c", "label": 1}, {"text": "c", "label": "正常"}]

    read(write(tmp_path, "a.jsonl", *said, *tasks))

    assert "a.jsonl: 1 texts have different labels in different rows" in capsys.readouterr().err


def test_a_label_that_the_named_task_lacks_is_told_with_the_labels_it_has(tmp_path):
    path = write(tmp_path, "a.jsonl", {"text": "a", "label": "urgent"}, {"text": "b", "label": "calm"})

    message = refuse(path, labels=("high", "low"))

    assert "label 'urgent' is unknown to high/low; expected one of: high, low; --labels names others" in message
    assert "urgent (1), calm (1)" in message
