"""A conversation is evaluated turn by turn, each answer behind the turns before it as the data has them."""

import json

import pytest

from prompts import Rules
from sft.evaluation import evaluate_run, write_evaluation
from sft.evaluation.model_answers import Asking, answer_rows, cluster_of
from sft.evaluation.rows import prepare_rows
from tests.evaluation.conftest import LIMITS, ROWS, settings_of, write_jsonl

SYSTEM = "Be brief."


def talk(name: str, *turns: str) -> dict:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)]
    return {"id": name, "source": "qa", "task": "chat", "messages": messages}


TALKS = [
    talk("a", "hi", "hello", "how much?", "nine", "thanks", "you are welcome"),
    talk("b", "hi", "good day", "bye", "you are welcome"),
    talk("c", "one question", "you are welcome"),
]


def prepare(run, loaded, rows=TALKS, max_length=300, **how):
    return prepare_rows(rows, loaded.chat, SYSTEM, run.train_settings(), max_length, **how)


def test_each_answer_is_a_row_behind_its_reference_history(run, loaded):
    rows = prepare(run, loaded, turns="all").rows
    assert [(row.row["id"], row.turn, row.question, row.reference) for row in rows] == [
        ("a", 1, "hi", "hello"),
        ("a", 2, "how much?", "nine"),
        ("a", 3, "thanks", "you are welcome"),
        ("b", 1, "hi", "good day"),
        ("b", 2, "bye", "you are welcome"),
        ("c", None, "one question", "you are welcome"),
    ]
    system = {"role": "system", "content": SYSTEM}
    for row in rows:
        asked = row.row["messages"][: 2 * (row.turn or 1) - 1]
        assert row.prompt_ids == loaded.chat.encode_prompt([system, *asked])


def test_the_lines_of_a_conversation_hold_together_all_that_was_said_before_each_question(run, loaded):
    messages = [{"role": "system", "content": "x"}, *({**turn} for turn in TALKS[0]["messages"])]
    messages[2]["supervised"] = False
    rows = prepare(run, loaded, [{**TALKS[0], "messages": messages}], turns="all").rows
    assert [row.history for row in rows] == [(("user", "hi"), ("assistant", "hello")), ()]
    (last,) = prepare(run, loaded, TALKS[:1], turns="last").rows
    assert last.history == (("user", "hi"), ("assistant", "hello"), ("user", "how much?"), ("assistant", "nine"))
    assert prepare(run, loaded, TALKS[2:], turns="all").rows[0].history == ()


def test_an_answer_that_is_not_to_be_learned_is_context_and_not_a_row(run, loaded):
    messages = [{**turn} for turn in TALKS[0]["messages"]]
    messages[1]["supervised"] = False
    rows = prepare(run, loaded, [{**TALKS[0], "messages": messages}], turns="all").rows
    assert [(row.turn, row.reference) for row in rows] == [(1, "nine"), (2, "you are welcome")]
    assert rows[0].prompt_ids == prepare(run, loaded, turns="all").rows[1].prompt_ids


def test_the_loss_is_that_of_all_answers_at_once_and_rows_of_one_answer_stay_as_they_were(run, loaded):
    each, once = prepare(run, loaded, turns="all").rows, prepare(run, loaded, turns="last").rows
    whole, parts = (answer_rows(loaded, rows, {}, "tuned", asking=Asking(Silent())) for rows in (once, each))
    assert sum(parts.num_tokens) == sum(whole.num_tokens)
    assert sum(parts.nll) == pytest.approx(sum(whole.nll), rel=1e-6)
    singles = [row for row in ROWS if row["task"] != "chat"]
    assert prepare(run, loaded, singles, 512, turns="all") == prepare(run, loaded, singles, 512, turns="last")


class Silent:
    """A writer of nothing: only losses are asked for."""

    def generate(self, prompts, decoding, **how):
        raise AssertionError("no task has a budget here")


def test_turns_of_one_conversation_are_one_unit_of_the_intervals(run, loaded):
    rows = prepare(run, loaded, turns="all").rows
    assert len({cluster_of(row) for row in rows}) == len(TALKS)


def test_a_turn_that_has_to_be_shortened_is_the_example_that_training_learns(run, loaded):
    from sft.encoding import encode_rows

    long = talk("long", *("word " * 12 for _ in range(12)))
    rows = prepare(run, loaded, [long], 300, turns="all").rows
    trained = encode_rows([long], loaded.chat, SYSTEM, Rules(max_length=300))
    learned = []
    for example in trained.encoded:
        starts = [i for i, flag in enumerate(example.loss_mask) if flag and not example.loss_mask[i - 1]]
        learned += [example.input_ids[:start] for start in starts]
    assert len(rows) == 6
    assert any(row.num_cut for row in rows)
    assert [row.prompt_ids for row in rows] == learned


def test_conversations_are_counted_and_their_answers_too(run, tmp_path, capsys):
    data = write_jsonl(tmp_path / "talks.jsonl", [{"messages": row["messages"]} for row in TALKS])
    evaluation = evaluate_run(run, settings_of("--data", data, "--rouge", *LIMITS))
    stats = evaluation.metrics["data_stats"]
    said = capsys.readouterr().err

    assert (stats["eval_size"], stats["num_answers"], stats["turns"], stats["by_task"]) == (3, 6, "all", {"chat": 3})
    assert "6 answers: every answer of a conversation, after the preceding turns" in said
    assert "have the same answer" not in said
    assert evaluation.metrics["generation"]["text"]["num_rows"] == 6
    compared = evaluation.metrics["comparison"]["metrics"]["rougeL"]
    assert (compared["num_rows"], compared["num_groups"]) == (6, 3)
    write_evaluation(evaluation, tmp_path / "evaluation")
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    ids = [line["id"] for line in lines]
    assert [line.get("turn") for line in lines] == [1, 2, 3, 1, 2, None]
    assert (ids[0], ids[3]) == (ids[2], ids[4])
    assert [line["reference"] for line in lines][:3] == ["hello", "nine", "you are welcome"]


def test_closing_lines_alone_are_what_turns_last_measures(run, tmp_path, capsys):
    data = write_jsonl(tmp_path / "talks.jsonl", [{"messages": row["messages"]} for row in TALKS])
    evaluation = evaluate_run(run, settings_of("--data", data, "--turns", "last", "--no-baseline", *LIMITS))

    assert evaluation.metrics["data_stats"]["num_answers"] == 3
    assert {line["reference"] for line in evaluation.predictions} == {"you are welcome"}
    assert not any("turn" in line for line in evaluation.predictions)
    said = capsys.readouterr().err
    assert "answers: every answer of a conversation" not in said
    assert "all 3 whole rows have the same answer, 'you are welcome'" in said
