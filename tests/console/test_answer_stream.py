from sft.console import AnswerWriter


def test_the_answer_goes_to_stdout_and_its_thought_to_stderr_marked(capsys):
    writer = AnswerWriter()
    for piece, is_thought in [("\n2 +", True), (" 2\x1b\n", True), ("\n", False), ("\n4", False), ("\n!", False)]:
        writer.write(piece, is_thought=is_thought)
    writer.close()
    assert capsys.readouterr() == ("4\n!\n", "(thinking: 2 + 2␛\n)\n")


def test_a_thought_that_was_cut_off_is_closed(capsys):
    writer = AnswerWriter()
    writer.write("hm", is_thought=True)
    writer.close()
    assert capsys.readouterr() == ("\n", "(thinking: hm)\n")


def test_an_answer_without_a_thought_keeps_its_first_line_breaks(capsys):
    writer = AnswerWriter()
    writer.write("\n\nhello")
    writer.close()
    assert capsys.readouterr() == ("\n\nhello\n", "")
