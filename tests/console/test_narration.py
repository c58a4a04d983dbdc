import io
import re
import sys
from pathlib import Path

import pytest

from sft.console import narration, progress, repeat_warnings, say, tell, warn
from sft.console.narration import show_path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: clock.now += 1."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(narration.time, "monotonic", lambda: Clock.now)
    return Clock


def test_narration_goes_to_stderr_and_cannot_steer_the_terminal(capsys):
    say("reading \x1b[2Jfile")
    assert capsys.readouterr() == ("", "reading ␛[2Jfile\n")


def test_narration_in_a_chat_is_wrapped_only_at_a_terminal(capsys, monkeypatch):
    tell("one two three")
    assert capsys.readouterr().err == "one two three\n"
    monkeypatch.setenv("COLUMNS", "9")
    monkeypatch.setattr(sys, "stderr", Terminal())
    tell("one two \x1b three")
    assert sys.stderr.getvalue() == "one two\n ␛ three\n"


def test_without_a_terminal_progress_is_a_line_per_ten_percent_with_rate_and_time_left(capsys, clock):
    for _ in progress(range(40), description="score"):
        clock.now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "score: 10% 4/40 rows, 2.0 rows/s, 0:00:18 left"
    assert lines[-1] == "score: 100% 40/40 rows, 2.0 rows/s, 0:00:00 left"


def test_a_large_update_prints_one_line_with_the_note(capsys, clock):
    with progress(total=100, unit="step") as bar:
        clock.now += 10
        bar.note("loss 1.342")
        bar.update(50)
    assert capsys.readouterr().err == "50% 50/100 steps, 5.0 steps/s, 0:00:10 left, loss 1.342\n"


def test_without_a_total_progress_prints_a_line_every_thirty_seconds(capsys, clock):
    for _ in progress(iter(range(7)), description="read"):
        clock.now += 10
    assert capsys.readouterr().err.splitlines() == [
        "read: 3 rows, 0.1 rows/s",
        "read: 6 rows, 0.1 rows/s",
    ]


def test_the_rate_of_a_resumed_bar_leaves_out_what_was_done_before(capsys, clock, monkeypatch):
    with progress(total=40, unit="step", done=30) as bar:
        clock.now += 20
        bar.update(10)
    assert capsys.readouterr().err == "100% 40/40 steps, 0.5 steps/s, 0:00:00 left\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(total=40, unit="step", done=30) as bar:
        bar._bar.start_t -= 20
        bar._bar.update(10)
        bar._bar.refresh()
        assert str(bar._bar).endswith("| 40/40 [00:20<00:00,  2.00 s/step]")


def test_on_a_terminal_progress_is_a_bar_and_narration_appears_above_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(total=4, description="score") as bar:
        bar.update(1)
        say("kept 3 rows")
        bar.update(3)
    shown = sys.stderr.getvalue()
    assert re.findall(r"score: +(\d+)%", shown) == ["0", "25", "100"]
    assert "\rkept 3 rows\n" in shown


def test_progress_that_is_not_shown_says_nothing_and_yields_every_item(capsys):
    assert list(progress([1, 2, 3], shown=False)) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_durations_read_as_hours_minutes_and_seconds():
    assert [narration.format_duration(seconds) for seconds in (0, 59.6, 250, 7325)] == [
        "0:00:00",
        "0:01:00",
        "0:04:10",
        "2:02:05",
    ]


def test_a_path_below_the_working_folder_is_shown_as_typed_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show_path(tmp_path / "outputs" / "demo") == "outputs/demo"
    assert show_path(Path("outputs/demo")) == "outputs/demo"


def test_any_other_path_is_shown_whole(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert show_path(tmp_path / "outputs") == str(tmp_path / "outputs")


def test_warnings_are_said_at_once_and_again_at_the_end_each_once(capsys):
    repeat_warnings()  # what other tests of this process left
    capsys.readouterr()
    for text in ("own: short", "news: short", "own: short"):
        warn(text)
    assert capsys.readouterr().err == "warning: own: short\nwarning: news: short\nwarning: own: short\n"

    repeat_warnings()
    repeat_warnings()

    assert capsys.readouterr().err == "2 warnings, repeated here:\n  own: short\n  news: short\n"
