"""Bad input of every kind: file, line and reason each time, the books balance, and reading goes on where it can."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from sft.data import open_dataset
from sft.data.building.build import build_dataset
from sft.data.building.manifest import BuildOptions
from sft.data.building.preset import Preset
from sft.data.files.reader import NO_FAULT_OF_THE_ROW, BadRow, RowReader
from sft.errors import DataError
from tests.commands import ROOT
from tests.data.bad_inputs import CORPUS
from tests.data.bad_inputs_expected import EXPECTED

WITH_BAD_ROWS = [name for name, (_, said) in EXPECTED.items() if said and said[0].split(":")[0].isdigit()]
REFUSED = [name for name, (_, said) in EXPECTED.items() if said and name not in WITH_BAD_ROWS]
SOUND = [name for name, (_, said) in EXPECTED.items() if not said]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty: messages name files as they were given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_preset(*names: str) -> Preset:
    """A mixture of the files and of one row more, so that no split is empty."""
    Path("fill.jsonl").write_text('{"instruction": "fill", "output": "A"}', encoding="utf-8")
    sources = {name: {"kind": "file", "path": name} for name in (*names, "fill.jsonl")}
    return Preset.model_validate({"splits": {"train": {"rows": dict.fromkeys(sources, 9)}}, "sources": sources})


LENIENT = BuildOptions(on_bad_row="quarantine", on_shortage="accept")


def test_the_corpus_has_an_answer_for_every_file_and_more_than_sixty_files():
    assert list(CORPUS) == list(EXPECTED)
    assert len(WITH_BAD_ROWS) + len(REFUSED) >= 60


def test_every_bad_row_is_in_the_ledger_with_line_and_reason_and_the_counts_add_up():
    for name in WITH_BAD_ROWS + SOUND:
        CORPUS[name](Path(name))

    manifest = build_dataset(make_preset(*WITH_BAD_ROWS, *SOUND), Path("mixed"), LENIENT)

    quarantined: dict[str, list[str]] = {name: [] for name in manifest["sources"]}
    for line in map(orjson.loads, Path("mixed/ledger.jsonl").read_bytes().splitlines()):
        if line["bucket"] == "quarantined":
            place = line["where"].removeprefix(f"{line['source']}:")
            quarantined[line["source"]].append(f"{place}: {line['reason']}: {line['detail']}")
    for name in WITH_BAD_ROWS + SOUND:
        num_good, said = EXPECTED[name]
        entry = manifest["sources"][name]
        left_out = sum(entry["dropped"].values()), sum(entry["quarantined"].values())
        assert (name, quarantined[name], entry["read"]) == (name, said, num_good + len(said))
        assert entry["read"] == entry["kept"] + sum(left_out)
        assert left_out == (num_good - entry["kept"], len(said))


@pytest.mark.parametrize("name", WITH_BAD_ROWS)
def test_the_first_bad_row_ends_a_training_in_one_line(name):
    CORPUS[name](Path(name))

    with pytest.raises(DataError) as caught:
        open_dataset(name, eval_ratio=0)

    line, reason, message = EXPECTED[name][1][0].split(": ", 2)
    is_its_fault = reason not in NO_FAULT_OF_THE_ROW or (EXPECTED[name][0] and reason == "unknown_dialect")
    remedy = "; fix the row, or pass --on_bad_row quarantine" if is_its_fault else ""
    assert str(caught.value) == f"{name}:{line}: {message}{remedy}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_one_line_and_no_dataset_is_built(name, here):
    CORPUS[name](Path(name))
    num_good, (message,) = EXPECTED[name]

    with pytest.raises(DataError) as caught:
        build_dataset(make_preset(name), Path("mixed"), LENIENT)

    assert str(caught.value).replace(here.name, "HERE") == message
    assert not Path("mixed").exists()
    if Path(name).exists():
        found = []
        with pytest.raises(DataError, match=r"^" + name.replace(".", r"\.")):
            found.extend(row for row in RowReader(Path(name)))
        assert [isinstance(row, BadRow) for row in found] == [False] * num_good


def test_what_only_looks_like_something_else_stays_text():
    for name in SOUND:
        CORPUS[name](Path(name))
    rows = [(found.row["instruction"], found.row["output"]) for found in RowReader(Path("look_like_others.csv"))]

    assert rows == [("NA", "001"), ("null", "1.0"), ("=1+1", "2026-01-02")]


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("train.py", "cut.jsonl"),
        ("train.py", "formulas.xlsx"),
        ("train.py", "a_folder.jsonl"),
        ("inspect_data.py", "cp1252.csv"),
        ("inspect_data.py", "cut.parquet"),
    ],
)
def test_the_commands_themselves_end_in_one_line_and_exit_code_2(script, name):
    CORPUS[name](Path(name))

    command = [sys.executable, str(ROOT / script), "--data", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    said = EXPECTED[name][1][0]
    if name in WITH_BAD_ROWS:
        line, _, message = said.split(": ", 2)
        said = f"{name}:{line}: {message}; fix the row, or pass --on_bad_row quarantine"
    elif name == "a_folder.jsonl":
        said = f"{name}: no manifest.json, so no finished dataset; build it with: python build_dataset.py"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"error: {said}"
    assert "Traceback" not in done.stderr
