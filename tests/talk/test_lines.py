import pytest

from sft.talk.lines import COMMANDS, Command, Question, describe_commands, read_line


@pytest.mark.parametrize("line", ["exit", " quit\n", "EXIT", "/exit", "/quit"])
def test_exit_and_quit_leave_with_or_without_a_slash(line):
    assert read_line(line) == Command("exit")


def test_a_single_word_behind_a_slash_is_a_command_and_anything_else_a_question():
    assert read_line("/Undo ") == Command("undo")
    assert read_line("/udno") == Command("udno")
    assert read_line("/etc/hosts: what is it?") == Question("/etc/hosts: what is it?")
    assert read_line("/ what is a slash?") == Question("/ what is a slash?")
    assert read_line("  how do I exit?  ") == Question("how do I exit?")
    assert read_line(" \t") is None


def test_a_command_takes_the_words_after_it():
    assert read_line("/set temperature 0.7") == Command("set", "temperature 0.7")
    assert read_line("/system 你是\n一位医生 ") == Command("system", "你是\n一位医生")


def test_with_more_behind_it_a_word_is_a_command_only_if_it_is_one_or_nearly():
    assert read_line("/sytem Be brief.") == Command("sytem", "Be brief.")
    assert read_line("/usr holds what?") == Question("/usr holds what?")


def test_help_has_every_command_with_what_it_takes():
    lines = describe_commands()
    assert lines["/undo"] == "forget the last question and its answer"
    assert [line.split()[0] for line in lines] == [f"/{name}" for name in COMMANDS]
