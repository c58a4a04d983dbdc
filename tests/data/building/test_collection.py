"""Reading every source: what counts for the limit of bad rows."""

import pytest

from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.errors import DataError

GOOD_ROW = {"instruction": "Q", "input": "", "output": "A"}


def test_known_defects_of_a_package_count_for_no_limit_of_bad_rows(write_rows, write_package, tmp_path):
    package = write_package("lines", {"pos.txt": "很好\n不错\n".encode() + b"\xff\n\xfe\n"})
    own = {"kind": "file", "path": str(write_rows("own.jsonl", GOOD_ROW, "{", "["))}
    reviews = {"kind": "labelled_lines", "package": package, "task": "sentiment", "files": {"正面": "pos.txt"}}
    splits = {"train": {"rows": {"own": 1, "reviews": 2}}}
    preset = Preset.model_validate({"splits": splits, "sources": {"reviews": reviews, "own": own}})

    manifest = build_dataset(preset, tmp_path / "two", BuildOptions(on_bad_row="quarantine", max_bad_rows=2))
    with pytest.raises(DataError, match=r"^more than 1 bad rows \(--max_bad_rows\); the first: .*own\.jsonl:2: "):
        build_dataset(preset, tmp_path / "one", BuildOptions(on_bad_row="quarantine", max_bad_rows=1))

    assert manifest["sources"]["reviews"]["quarantined"] == {"invalid_utf8": 2}
