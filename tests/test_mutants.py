"""The mutation script: which faults it makes, that a test that looks notices them, and that no file is changed."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import choose_faults, find_faults, mirrored_test, put_in

ROOT = Path(__file__).resolve().parents[1]


def shown(source: str) -> list[str]:
    return [put_in(source, index)[1] for index in range(len(find_faults(ast.parse(source))))]


def test_faults_are_those_that_people_make():
    assert shown("x = a < b and not c") == [
        "1: x = a < b and (not c) -> x = a < b or not c",
        "1: x = a < b and (not c) -> x = not c",
        "1: x = a < b and (not c) -> x = a < b",
        "1: x = a < b and (not c) -> x = a <= b and (not c)",
        "1: x = a < b and (not c) -> x = a < b and c",
    ]
    assert shown("def f(x: int = 2) -> int:\n    return max(x + 1, 0)") == [
        "1: def f(x: int=2) -> int: -> def f(x: int=3) -> int:",
        "2: return max(x + 1, 0) -> return None",
        "2: return max(x + 1, 0) -> return min(x + 1, 0)",
        "2: return max(x + 1, 0) -> return max(x - 1, 0)",
        "2: return max(x + 1, 0) -> return max(x + 2, 0)",
        "2: return max(x + 1, 0) -> return max(x + 1, 1)",
    ]
    assert shown("y = [x for x in z if x]\nif y:\n    f(y, z)") == [
        "1: y = [x for x in z if x] -> y = [x for x in z]",
        "2: if y: -> if True:",
        "2: if y: -> if False:",
        "3: f(y, z) -> pass",
        "3: f(y, z) -> f(z, y)",
    ]


def test_what_changes_nothing_that_runs_is_let_be():
    assert shown('"""Text."""\nx: Literal[1] = y\nassert x > 1\nif TYPE_CHECKING:\n    import a') == []


def test_each_kind_of_fault_has_its_turn_and_the_same_seed_chooses_the_same():
    faults = find_faults(ast.parse("x = 1 + 2 + 3 + 4\ny = a < b\nz = not c"))
    chosen = choose_faults(faults, 4, seed=1)
    assert {faults[index].kind for index in chosen} == {"constant", "arithmetic", "comparison", "not"}
    assert chosen == choose_faults(faults, 4, seed=1)
    assert choose_faults(faults, 99, seed=1) == list(range(len(faults)))


def test_a_module_has_its_test_at_the_same_place():
    assert mirrored_test(Path("sft/data/ledger.py")) == Path("tests/data/test_ledger.py")
    assert mirrored_test(Path("prompts/tasks/ner.py")) == Path("tests/prompts/tasks/test_ner.py")


@pytest.mark.slow
def test_faults_that_no_test_notices_are_named_and_the_module_stays_as_it_is(tmp_path):
    (tmp_path / "sft").mkdir()
    (tmp_path / "tests").mkdir()
    source = "def half(x):\n    return x // 2\n\n\ndef unseen(x):\n    return x > 1\n"
    (tmp_path / "sft/a.py").write_text(source)
    (tmp_path / "tests/test_a.py").write_text("from sft.a import half\n\n\ndef test_a():\n    assert half(9) == 4\n")
    shutil.copy(ROOT / "tests/mutants.py", tmp_path)
    code = "import sys, mutants; mutants.PRELOADED = (); sys.exit(mutants.main())"
    found = subprocess.run(
        [sys.executable, "-c", code, "sft/a.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.splitlines() == [
        "survives: sft/a.py:6: return x > 1 -> return None",
        "survives: sft/a.py:6: return x > 1 -> return x >= 1",
        "survives: sft/a.py:6: return x > 1 -> return x > 2",
        "sft/a.py: 3 of 6 faults go unnoticed by tests/test_a.py",
    ]
    assert (tmp_path / "sft/a.py").read_text() == source
