from sft.console import repeat_warnings, warn


def test_warnings_are_said_at_once_and_again_at_the_end_each_once(capsys):
    repeat_warnings()  # what other tests of this process left
    capsys.readouterr()
    for text in ("own: short", "news: short", "own: short"):
        warn(text)
    assert capsys.readouterr().err == "warning: own: short\nwarning: news: short\nwarning: own: short\n"

    repeat_warnings()
    repeat_warnings()

    assert capsys.readouterr().err == "2 warnings, repeated here:\n  own: short\n  news: short\n"
