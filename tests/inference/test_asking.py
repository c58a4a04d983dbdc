from sft.inference.asking import take_in_turn


def test_a_demo_shows_rows_of_each_task_before_the_second_of_one():
    rows = [{"task": "sentiment", "text": str(number)} for number in range(9)]
    rows += [{"task": "ner", "text": "a"}, {"task": "instruct", "instruction": "b"}]
    shown = take_in_turn(rows)
    assert [row["task"] for row in shown] == ["sentiment", "ner", "instruct", "sentiment", "sentiment"]
    assert [row["text"] for row in shown if row["task"] == "sentiment"] == ["0", "1", "2"]
    assert take_in_turn(rows[:1]) == rows[:1]
