"""What a build would yield, foreseen from a sample."""

import random
from collections import Counter

from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.building.preview import SourcePreview, draw_sample, preview_sources, preview_table
from sft.data.files.reader import BadRow, FoundRow
from tests.data.samples import instruct_rows


def preview_of(**changes: object) -> SourcePreview:
    return SourcePreview(
        **{"asked": 10, "rows": 100, "at_end": True, "sampled": 50, "usable": 25, "left_out": {}, "bad_rows": []}
        | changes
    )


def test_rows_are_judged_as_in_a_build_and_bad_ones_are_counted(write_rows, tmp_path):
    rows = [*instruct_rows(6), instruct_rows(1)[0], {"instruction": "much too long for this", "output": "A"}, "{"]
    path = write_rows("own.jsonl", *rows)
    source = {"kind": "file", "path": str(path), "filters": {"max_chars": 10}}
    preset = Preset.model_validate({"splits": {"train": {"rows": {"own": 8}}}, "sources": {"own": source}})

    previews = preview_sources(preset, BuildOptions(), 100)

    bad = BadRow(str(path), 9, "not_json", previews["own"].bad_rows[0].message)
    left_out = {"too_long": 1, "not_json": 1, "duplicate": 1}
    assert previews == {"own": SourcePreview(8, 9, True, 9, 6, left_out, [bad])}
    assert preview_table(previews).splitlines()[2].split() == (
        ["own", "8", "9", "9", "6", "66.7%", "only", "6", "there", "1", "too_long,", "1", "not_json,", "1", "duplicate"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["own.jsonl"]


def test_the_rows_to_be_read_follow_from_the_yield():
    assert preview_of().describe_need() == "20"
    assert preview_of(asked=51).describe_need() == "about 50 there"
    assert preview_of(asked=26, rows=50).describe_need() == "only 25 there"
    assert preview_of(asked=51, at_end=False).describe_need() == "102"
    assert preview_of(usable=0, at_end=False).describe_need() == "-"
    assert preview_of(usable=0).describe_need() == "about 0 there"


def test_every_row_is_as_likely_to_be_sampled_as_any_other():
    rows = [FoundRow("a", number, {"id": "", "source": "", "task": "chat"}) for number in range(20)]
    drawn: Counter[int] = Counter()
    for seed in range(1000):
        sample, count = draw_sample(rows, 5, random.Random(seed))
        assert [count, len(sample), sample == sorted(sample, key=lambda row: row.line)] == [20, 5, True]
        drawn.update(row.line for row in sample)
    assert max(abs(drawn[number] - 250) for number in range(20)) < 5 * (1000 * 0.25 * 0.75) ** 0.5
