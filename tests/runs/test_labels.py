"""The classes of a head come from the rows, or in the order asked for; rows without labels are refused."""

import pytest

from prompts import Head
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError, DataError
from sft.runs.labels import choose_head, describe_head

MODERATION = ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗")


def settings_of(*flags: str) -> TrainSettings:
    return load_settings(TrainSettings, ["--data", "rows.jsonl", "--head", "classification", *flags])


def row(task: str, **fields: object) -> dict:
    return {"id": "r1", "source": "rows", "task": task, "text": "x", **fields}


def test_a_fixed_set_of_labels_is_taken_whole_in_the_tasks_order():
    assert choose_head(settings_of(), [row("moderation", label="暴恐")]) == Head(MODERATION, "last")
    assert choose_head(settings_of("--pooling", "mean"), [row("sentiment", label="正面")]) == Head(
        ("负面", "正面"), "mean"
    )


def test_requested_labels_are_taken_in_their_order_and_may_be_fewer():
    rows = [row("moderation", label="正常")]
    assert choose_head(settings_of("--labels", "暴恐, 正常"), rows) == Head(("暴恐", "正常"))


def test_two_tasks_of_the_same_classes_share_a_head():
    rows = [row("sentiment", label="正面"), row("sentiment_json", label=0)]
    assert choose_head(settings_of(), rows) == Head(("负面", "正面"))


def test_a_model_that_writes_has_none():
    assert choose_head(load_settings(TrainSettings, []), [row("ner", entities=[])]) is None


def test_rows_without_labels_are_refused_with_their_number():
    rows = [row("ner", entities=[]), row("ner", entities=[]), row("instruct"), row("sentiment", label="正面")]
    with pytest.raises(DataError) as caught:
        choose_head(settings_of(), rows)
    assert str(caught.value) == (
        "rows.jsonl: a classification head learns labels, and these rows have none: 2 of ner, 1 of instruct; give rows "
        "of label tasks alone, or leave out --head classification"
    )


def test_a_label_that_no_row_allows_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^labels: '违法违归' is no label of rows.jsonl; did you mean '违法违规'\?$"):
        choose_head(settings_of("--labels", "正常,违法违归"), [row("moderation", label="正常")])
    with pytest.raises(ConfigError, match=r"^labels: 'bad' is no label of rows.jsonl; there are 负面, 正面$"):
        choose_head(settings_of("--labels", "bad,正面"), [row("sentiment", label="正面")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--head", "classification", "--labels", "a"], "labels a: give at least two, each once"),
        (["--head", "classification", "--labels", "a,b,a"], "labels a,b,a: give at least two, each once"),
    ],
)
def test_labels_that_make_no_head_are_refused(flags, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        load_settings(TrainSettings, flags)


def test_run_json_has_the_labels_both_ways():
    assert describe_head(Head(("否", "是"), "mean"), 0.2) == {
        "kind": "classification",
        "pooling": "mean",
        "dropout": 0.2,
        "id2label": {"0": "否", "1": "是"},
        "label2id": {"否": 0, "是": 1},
    }
