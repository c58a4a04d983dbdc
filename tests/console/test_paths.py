from pathlib import Path

from sft.console.paths import show_path


def test_a_path_below_the_working_folder_is_shown_as_typed_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show_path(tmp_path / "outputs" / "demo") == "outputs/demo"
    assert show_path(Path("outputs/demo")) == "outputs/demo"


def test_any_other_path_is_shown_whole(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert show_path(tmp_path / "outputs") == str(tmp_path / "outputs")
