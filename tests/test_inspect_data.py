"""inspect_data.py: rows as the model sees them, in a pipe, on a terminal, as JSON and as a page."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from sft.errors import ConfigError, DataError

main = runpy.run_path(str(Path(__file__).parents[1] / "inspect_data.py"))["main"]
ROWS = [
    {"id": "a-1", "source": "a", "task": "sentiment", "text": "好", "label": "正面"},
    {"id": "a-2", "source": "a", "task": "instruct", "instruction": "x" * 600, "input": "", "output": "y"},
    {"id": "b-1", "source": "b", "task": "instruct", "instruction": "a<|im_end|>\x1b[31m", "input": "", "output": "b"},
    {"id": "b-2", "source": "b", "task": "ner", "text": "z" * 700, "entities": []},
]
FIRST = """\
«learned»; all else is context

--- a-1 | source a | task sentiment | 71 tokens, 7 learned, 0 cut
<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
正面还是负面？
好<|im_end|>
<|im_start|>assistant
«正面<|im_end|>»"""
TABLES = """

source  rows  median  p95  longest  learned  <=64  <=128  <=256  <=512  <=1024  <=2048  <=4096  more
------  ----  ------  ---  -------  -------  ----  -----  -----  -----  ------  ------  ------  ----
a          2     356  641      641  1.3%        0      1      0      0       1       0       0     0
b          2     441  825      825  3.1%        1      0      0      0       1       0       0     0
all        4     356  825      825  2.3%        1      1      0      0       2       0       0     0

limit  rows over  shortened  dropped  tokens cut  tokens dropped  lost of all  in force
-----  ---------  ---------  -------  ----------  --------------  -----------  --------
  512          2          1        1         129             825  59.8%
 1024          0          0        0           0               0  0.0%
 2048          0          0        0           0               0  0.0%         yes
 4096          0          0        0           0               0  0.0%
"""


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.fixture
def inspect(data, tiny_model_folder, capsys):
    """Run the command on the rows above with more flags: inspect("--n", "1") -> (stdout, stderr)."""

    def run(*flags: str) -> tuple[str, str]:
        main([data, "--model", str(tiny_model_folder), "--system_prompt", "Be brief.", "--answer_room", "3", *flags])
        return tuple(capsys.readouterr())

    return run


def test_rows_lengths_and_costs_are_printed_plainly_into_a_pipe(inspect):
    assert inspect("--n", "1")[0] == FIRST + TABLES


def test_rows_of_all_sources_are_shown_in_turn(inspect):
    titles = [line for line in inspect("--n=4")[0].splitlines() if line.startswith("---") and "|" in line]

    assert [title.split()[1] for title in titles] == ["a-1", "b-1", "a-2", "b-2"]


def test_a_row_can_be_shown_by_its_id(inspect):
    assert inspect("--row", "a-1")[0] == FIRST + "\n"


def test_an_unknown_id_is_answered_with_the_nearest(inspect):
    with pytest.raises(DataError) as caught:
        inspect("--row", "b-11")
    assert str(caught.value) == "no row has the id 'b-11'; the nearest is 'b-1'"


def test_text_that_looks_like_a_control_token_or_steers_a_terminal_is_shown_for_what_it_is(inspect):
    shown = inspect("--row", "b-1")[0]

    assert "\x1b" not in shown
    assert "\na<|im_end|>␛[31m<|im_end|>\n" in shown
    assert shown.endswith("\n(the text itself spells out <|im_end|>; there it is encoded as ordinary text)\n")


def test_a_row_is_shown_as_shortened_and_one_that_cannot_be_says_why(inspect):
    shortened, dropped = (inspect("--row", name, "--max_length", "256")[0] for name in ("a-2", "b-2"))

    assert "--- a-2 | source a | task instruct | 256 tokens, 2 learned, 385 cut" in shortened
    assert dropped.endswith(
        "--- b-2 | source b | task ner | 825 tokens do not fit 256: it has no part that may be shortened; "
        "raise the length or shorten the row\n"
    )


def test_learned_and_control_tokens_are_coloured_on_a_terminal(inspect, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = inspect("--row", "a-1")[0]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = inspect("--row", "a-1")[0]

    assert coloured.endswith("\x1b[36m<|im_start|>\x1b[0massistant\n\x1b[1;32m正面<|im_end|>\x1b[0m\n")
    assert coloured.startswith("\x1b[1;32mlearned\x1b[0m, \x1b[36mcontrol token\x1b[0m, context\n")
    assert plain == FIRST + "\n"


def test_json_holds_what_is_printed(inspect):
    result = json.loads(inspect("--n", "1", "--json")[0])

    assert [row["id"] for row in result["rows"]] == ["a-1"]
    assert result["rows"][0]["pieces"][-2:] == [
        {"text": "正面<|im_end|>", "kind": "learned"},
        {"text": "\n", "kind": "context"},
    ]
    assert [(row["source"], row["rows"], row["longest"]) for row in result["lengths"]] == [
        ("a", 2, 641),
        ("b", 2, 825),
        ("all", 4, 825),
    ]
    assert result["costs"][0] == {
        "limit": 512,
        "num_over": 2,
        "num_shortened": 1,
        "num_dropped": 1,
        "tokens_cut": 129,
        "tokens_dropped": 825,
    }
    assert result["unusable"] == {}


def test_the_page_is_one_harmless_file(inspect, tmp_path):
    page = tmp_path / "rows.html"
    said = inspect("--html", str(page))[1]
    html = page.read_text(encoding="utf-8")

    assert said.endswith(f"written: {page}\n")
    assert "<span class=learned>正面&lt;|im_end|&gt;</span>" in html
    assert "a&lt;|im_end|&gt;␛[31m" in html
    assert not [word for word in ("http", "<script", "src=", "href=", "@import", "url(", "\x1b") if word in html]


def test_a_page_that_cannot_be_written_is_one_line(inspect, tmp_path):
    with pytest.raises(ConfigError) as caught:
        inspect("--html", str(tmp_path / "nowhere" / "rows.html"))
    assert "cannot be written (No such file or directory)" in str(caught.value)


def test_the_training_flags_decide_what_is_shown(inspect, data, tiny_model_folder, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny_model_folder}\nsystem_prompt: Be kind.\nlearning_rate: 1e-3\n", encoding="utf-8")
    main([data, "--config", str(recipe), "--row", "a-1"])

    assert "<|im_start|>system\nBe kind.<|im_end|>\n" in capsys.readouterr().out


def test_a_bad_row_is_left_out_by_the_flag_that_the_message_names(data, inspect):
    with Path(data).open("a", encoding="utf-8") as file:
        file.write('{"id": "b-3"}\n')

    with pytest.raises(DataError) as caught:
        inspect("--n", "0", "--json")
    advice = str(caught.value).rpartition("or pass ")[2].split()
    shown, said = inspect("--n", "0", "--json", *advice)

    assert advice == ["--on_bad_row", "quarantine"]
    assert json.loads(shown)["lengths"][-1]["rows"] == 4
    assert f"warning: left out {data}:5: " in said


def test_for_a_head_it_shows_the_prompt_and_the_label_it_is_to_say(reviews_file, tiny_model_folder, tmp_path, capsys):
    flags = ["--data", str(reviews_file), "--model", str(tiny_model_folder), "--system_prompt", "Be brief."]
    flags += ["--head", "classification"]
    main([*flags, "--row", "reviews-2"])
    assert (
        capsys.readouterr().out
        == """\
«learned»; all else is context

--- reviews-2 | source reviews | task sentiment | 91 tokens, label 正面, 0 cut
<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
正面还是负面？
第1间房很好，住了一晚<|im_end|>
<|im_start|>assistant
label: «正面»
"""
    )
    main([*flags, "--json", "--n", "1", "--html", str(tmp_path / "rows.html")])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["label"], row["num_supervised"]) in {("正面", 0), ("负面", 0)}
    assert "<span class=learned>" in (tmp_path / "rows.html").read_text(encoding="utf-8")


def test_for_a_head_a_dataset_with_other_tasks_is_refused(data, tiny_model_folder):
    with pytest.raises(DataError, match="a classification head learns labels, and these rows have none"):
        main(["--data", data, "--model", str(tiny_model_folder), "--head", "classification"])
