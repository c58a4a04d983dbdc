import shutil
from collections import namedtuple

import pytest

from sft.errors import RunError
from sft.export.staging import check_disk_space, staging
from sft.locks import BusyError


def test_what_was_staged_takes_the_place_of_what_was_there(tmp_path):
    target = tmp_path / "export"
    for content in ("old", "new"):
        with staging(target) as stage:
            (stage / "merged").mkdir()
            (stage / "merged" / f"{content}.safetensors").write_text(content)
            (stage / "gguf").mkdir()
            (stage / "gguf" / f"{content}.gguf").write_text(content)
            (stage / "export.json").write_text(content)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == ["export.json", "gguf/new.gguf", "gguf/old.gguf", "merged/new.safetensors"]
    assert (target / "export.json").read_text() == "new"


def test_a_failed_export_leaves_what_was_there_and_nothing_new(tmp_path):
    target = tmp_path / "export"
    target.mkdir()
    (target / "export.json").write_text("before")

    def fail(where):
        with staging(where) as stage:
            (stage / "export.json").write_text("after")
            raise RunError("differs")

    with pytest.raises(RunError, match=r"^differs$"):
        fail(target)
    assert [path.name for path in target.rglob("*")] == ["export.json"]
    assert (target / "export.json").read_text() == "before"
    with pytest.raises(RunError, match=r"^differs$"):
        fail(tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_what_a_killed_export_left_behind_is_removed_by_the_next(tmp_path):
    (tmp_path / ".unfinished-abc" / "merged").mkdir(parents=True)
    with staging(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_exports_to_one_folder_are_refused(tmp_path):
    with staging(tmp_path), pytest.raises(BusyError, match="another export is writing here"), staging(tmp_path):
        pass


def test_a_disk_too_small_is_refused_with_both_figures(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10_000_000_000))
    check_disk_space(tmp_path / "not" / "there" / "yet", 9_000_000_000)
    with pytest.raises(RunError, match=r"/yet: 15\.8 GB needed, 10\.0 GB free; make room, or give --output_dir"):
        check_disk_space(tmp_path / "not" / "there" / "yet", 15_000_000_000)
