"""Presets: quotas from YAML, and what is said about mistakes in it."""

from pathlib import Path

import pytest

from sft.data.building.preset import load_preset, preset_names
from sft.data.quotas import divide_over_cells
from sft.errors import ConfigError

SOURCES = """
sources:
  own: {kind: file, path: own.jsonl, share: 0.5}
  orca: {kind: file, path: orca.jsonl, share: 0.25}
  pubmed: {kind: file, path: pubmed.jsonl, share: 0.25}
"""


def load(folder: Path, text: str):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_preset(str(path))


def test_a_total_is_mixed_by_the_shares_to_the_row(tmp_path):
    preset = load(tmp_path, "splits: {train: {total: 1801}, validation: {rows: {own: 7}}}" + SOURCES)

    assert [(plan.name, plan.rows) for plan in preset.plans()] == [
        ("train", {"own": 901, "orca": 450, "pubmed": 450}),
        ("validation", {"own": 7, "orca": 0, "pubmed": 0}),
    ]


def test_shares_are_the_decimals_that_were_written(tmp_path):
    shares = "{a: 0.1, b: 0.2, c: 0.7}"
    sources = "sources: {own: {kind: file, path: x.jsonl, strata: {by: label, shares: " + shares + "}}}"

    cells = load(tmp_path, "splits: {train: {rows: {own: 10}}}\n" + sources).cells()

    assert [(cell.stratum, str(cell.share)) for cell in cells] == [("a", "1/10"), ("b", "1/5"), ("c", "7/10")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splits: {trian: {total: 1}}" + SOURCES, "mine.yaml: splits.trian"),
        ("splits: {train: {}}" + SOURCES, "mine.yaml: splits.train: give either 'total' or 'rows'"),
        ("splits: {train: {total: -1}}" + SOURCES, "mine.yaml: splits.train.total"),
        ("splits: {train: {rows: {onw: 1}}}" + SOURCES, "splits.train.rows: no source 'onw'; did you mean 'own'?"),
        (
            "splits: {train: {total: 1}}" + SOURCES.replace("0.5", "0.6"),
            "the sources' shares add up to 1.1, expected 1",
        ),
        (
            "splits: {train: {total: 1}}" + SOURCES.replace("kind: file, path: own", "kind: file, pth: own"),
            "sources.own.pth: no such key; did you mean 'path'?",
        ),
        (
            "splits: {train: {total: 1}}" + SOURCES.replace("kind: file", "kind: fiel", 1),
            "sources.own: Input tag 'fiel'",
        ),
        ("splits: {train: {total: 1}}", "sources: Field required"),
        ("total: 0\nsplits: {train: {total: 1}}" + SOURCES, "total: Input should be greater than or equal to 1"),
        ("splits: {train: {rows: {own: '正常'}}}" + SOURCES, "splits.train.rows: '正常' does not say how many"),
        ("splits: {train: {rows: {own: {a: -1}}}}" + SOURCES, "splits.train: rows must not be negative"),
        (
            "splits: {train: {rows: {own: 'a:1'}}}\n"
            "sources: {own: {kind: file, path: a, strata: {by: language, shares: {zh: 1}}}}",
            "sources.own: rows are requested by label, but strata are by language",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {kind: file, path: a, strata: {by: topic, shares: {a: 1}}}}",
            "'topics' belongs to by: topic, which needs it",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {kind: file, path: a, columns: {output: a}, template: {}}}",
            "sources.own.template: no such key; did you mean 'templates'?",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {dataset: slimorka, share: 1}}",
            "sources.own.dataset: no data set 'slimorka' in recipes/datasets.yaml; did you mean 'slimorca'?",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {kind: file, path: a.jsonl, filters: {max_char: 3}}}",
            "sources.own.filters.max_char: no such key; did you mean 'max_chars'?",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {kind: file, path: a.jsonl, filters: {reject_pattern: '('}}}",
            "not a regular expression (missing ), unterminated subpattern at position 0)",
        ),
        (
            "splits: {train: {total: 1}}\nsources: {own: {kind: file, path: a, strata: {by: label, shares: {a: 0.4}}}}",
            "strata shares add up to 0.4, expected 1",
        ),
    ],
)
def test_a_mistake_in_a_preset_is_one_line_that_names_the_key(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_of_rows_per_label_can_be_requested(tmp_path):
    preset = load(
        tmp_path,
        "splits: {train: {rows: {own: '正常:150，暴恐:60'}}, test: {rows: {own: {暴恐: 5, 歧视: 1}}}}\n"
        "sources: {own: {kind: file, path: own.jsonl}}",
    )

    assert [(cell.stratum, str(cell.share)) for cell in preset.cells()] == [
        ("正常", "25/36"),
        ("暴恐", "65/216"),
        ("歧视", "1/216"),
    ]
    assert divide_over_cells(preset.plans(), preset.cells()) == {"train": [150, 60, 0], "test": [0, 5, 1]}
    again = preset.model_validate(preset.model_dump(exclude_defaults=True))
    assert divide_over_cells(again.plans(), again.cells()) == {"train": [150, 60, 0], "test": [0, 5, 1]}


def test_another_total_keeps_splits_and_shares(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("splits: {train: {total: 1800}, validation: {total: 200}}" + SOURCES, encoding="utf-8")

    assert [plan.rows for plan in load_preset(str(path), total=20).plans()] == [
        {"own": 9, "orca": 5, "pubmed": 4},
        {"own": 1, "orca": 1, "pubmed": 0},
    ]
    assert load_preset(str(path)).plans()[0].total == 1800


def test_a_preset_takes_a_named_data_set_and_its_own_keys_win(tmp_path):
    preset = load(tmp_path, "splits: {train: {total: 1}}\nsources: {a: {dataset: slimorca, share: 1, revision: main}}")

    source = preset.sources["a"].model_dump(exclude_defaults=True)
    assert source == {"kind": "hub", "id": "Open-Orca/SlimOrca", "share": 1, "revision": "main"}


def test_a_mistyped_preset_gets_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        load_preset("demmo")

    assert str(caught.value).startswith("--preset demmo: unknown; did you mean 'demo'?")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_of_the_project_loads(name):
    assert load_preset(name).plans()[0].total > 0
