"""The house stands as docs and README draw it: imports run one way, scripts are doors, everything is documented."""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.house import (
    FRAMEWORK_ROOMS,
    HEAVY,
    PROMPTS,
    ROOMS,
    Import,
    Module,
    find_backward_imports,
    find_circles,
    find_early_imports,
    find_heavy_imports,
    find_importers,
    find_long_files,
    find_machine_paths,
    find_missing_paths,
    find_script_imports,
    find_silent_trust,
    find_uncalled,
    find_undocumented,
    find_utils,
    read_imports,
)

ROOT = Path(__file__).parents[1]


def list_files() -> list[Path]:
    """What git tracks or would track; in a copy without git, every file outside the folders made here."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    made_here = {".venv", "data", "outputs", "__pycache__"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not made_here & set(p.relative_to(ROOT).parts)]


FILES = list_files()
MODULES = [
    Module(PurePosixPath(path.relative_to(ROOT).as_posix()), path.read_text(encoding="utf-8"))
    for path in FILES
    if path.suffix == ".py"
]


def module(path: str, source: str = "") -> Module:
    return Module(PurePosixPath(path), source)


# The repository


def test_no_module_imports_a_script():
    assert find_script_imports(MODULES) == []


def test_imports_run_from_scripts_to_sft_to_prompts_and_never_back():
    assert find_backward_imports(MODULES) == []


def test_prompts_and_the_pure_rooms_name_no_framework():
    assert find_heavy_imports(MODULES) == []


def test_scripts_import_no_framework_before_their_arguments_are_parsed():
    assert find_early_imports(MODULES) == []


def test_only_one_module_imports_unsloth():
    assert find_importers([m for m in MODULES if m.area in ("prompts", "sft") or m.is_script], "unsloth") == [
        "sft/backend.py"
    ]


def test_no_model_is_loaded_without_saying_whether_its_own_code_may_run():
    assert find_silent_trust([module for module in MODULES if module.area != "tests"]) == []


def test_the_list_of_rooms_is_complete_and_names_no_other():
    parts = {m.path.with_suffix("").parts[1:] for m in MODULES if m.area == "sft" and m.path.name != "__init__.py"}
    of_prompts = {m.path.with_suffix("").parts[1] for m in MODULES if m.area == "prompts"} - {"__init__"}
    assert sorted(of_prompts ^ set(PROMPTS)) == []
    assert sorted({words[0] for words in parts} ^ {room.partition(".")[0] for room in ROOMS}) == []
    assert [room for room in ROOMS if not any(".".join(words).startswith(room) for words in parts)] == []


def test_no_modules_import_each_other():
    assert find_circles([m for m in MODULES if m.area in ("prompts", "sft")]) == []


def test_scripts_fit_a_screen_and_other_files_500_lines():
    assert find_long_files(MODULES) == []


def test_no_module_is_called_utils():
    assert find_utils(MODULES) == []


def test_everything_public_has_a_docstring():
    assert find_undocumented(MODULES) == []


def test_everything_private_has_a_caller():
    assert find_uncalled(MODULES) == []


def test_what_docstrings_and_comments_name_is_there():
    assert find_missing_paths(MODULES, {path.relative_to(ROOT).as_posix() for path in FILES}) == []


def test_no_file_names_a_path_of_one_machine():
    findings = []
    for path in FILES:
        content = path.read_bytes()
        if b"\0" not in content:
            findings += find_machine_paths(str(path.relative_to(ROOT)), content.decode("utf-8", errors="replace"))
    assert findings == []


def test_importing_prompts_and_the_pure_rooms_loads_no_framework():
    names = [
        ".".join(m.path.with_suffix("").parts).removesuffix(".__init__")
        for m in MODULES
        if m.area == "prompts" or (m.room and m.room not in FRAMEWORK_ROOMS)
    ]
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


# The rules themselves


def test_imports_are_read_from_function_bodies_relative_forms_and_import_module():
    source = """
import os.path as p
def f():
    from sft import data
    from . import rows
    from ..errors import DataError
    import_module("torch.nn")
    importlib.import_module(f"prompts.tasks.{name}")
    importlib.import_module(name)
"""
    assert read_imports(module("sft/data/x.py", source)) == [
        Import("os.path", 2),
        Import("sft", 4),
        Import("sft.data", 4),
        Import("sft.data", 5),
        Import("sft.data.rows", 5),
        Import("sft.errors", 6),
        Import("sft.errors.DataError", 6),
        Import("torch.nn", 7),
        Import("prompts.tasks", 8),
    ]


def test_importing_a_script_is_found_in_sft_in_tests_and_in_another_script():
    scripts = [module("train.py"), module("evaluate.py", "def main():\n    import train")]
    others = [module("sft/hf.py", "import evaluate"), module("tests/test_x.py", "from train import main")]
    fine = module("sft/metrics/generations.py", "from sft.evaluation import train_rows")
    assert find_script_imports([*scripts, *others, fine]) == [
        "evaluate.py:2: imports the script train.py; move what is shared into sft/",
        "sft/hf.py:1: imports the script evaluate.py; move what is shared into sft/",
        "tests/test_x.py:1: imports the script train.py; move what is shared into sft/",
        "tests/test_x.py:1: imports the script train.py; move what is shared into sft/",
    ]


@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("prompts/chatml.py", "from sft.errors import DataError", "sft"),
        ("prompts/tasks/ner.py", "def f():\n    import sft", "sft"),
        ("sft/data/rows.py", "def f():\n    from sft import models", "sft.models"),
        ("sft/runs.py", "from sft.models.loading import load_run", "sft.models"),
        ("sft/data/rows.py", "from ..models import loading", "sft.models"),
        ("sft/models/loading.py", "from tests.house import Module", "tests"),
        ("sft/models/loading.py", "def f():\n    from sft.training import fit", "sft.training"),
        ("sft/data/rows/canonical.py", "from sft.data.sources.base import Source", "sft.data.sources"),
        ("sft/data/building/digest.py", "from sft.data.dataset import open_dataset", "sft.data"),
        ("sft/data/dataset.py", "from sft.runs import run", "sft.runs"),
        ("sft/__init__.py", "import sft.errors", "sft.errors"),
        ("prompts/task.py", "def f():\n    from prompts.tasks import get_task", "prompts.tasks"),
        ("prompts/tasks/ner.py", "import prompts", "prompts"),
    ],
)
def test_an_arrow_that_runs_back_is_found(path, source, target):
    line = len(source.splitlines())
    assert find_backward_imports([module(path, source)]) == [f"{path}:{line}: imports {target}, which stands above it"]


def test_modules_that_import_each_other_over_a_third_are_found_and_imports_for_type_checkers_are_not():
    modules = [
        module("sft/a.py", "def f():\n    from sft.b import g"),
        module("sft/b.py", "from sft import c"),
        module("sft/c.py", "import sft.a"),
        module("sft/d.py", "import sft.a\nfrom sft.e import X"),
        module("sft/e.py", "if TYPE_CHECKING:\n    from sft.d import Y\nX = 1"),
    ]
    assert find_circles(modules) == ["sft.a, sft.b, sft.c"]


def test_arrows_that_run_forward_are_no_finding():
    modules = [
        module("train.py", "from sft import training"),
        module("sft/training/fit.py", "from sft.models import loading\nfrom sft.data import rows\nimport prompts"),
        module("sft/data/rows.py", "from sft.errors import DataError\nfrom prompts import tasks"),
        module("prompts/tasks/ner.py", "from prompts.task import Task"),
        module("prompts/__init__.py", "from prompts.tasks import get_task"),
        module("tests/test_x.py", "import sft.models"),
    ]
    assert find_backward_imports(modules) == []


def test_a_framework_in_a_pure_room_is_found_in_function_bodies_too():
    modules = [
        module("prompts/chatml.py", "def f():\n    import torch.nn"),
        module("sft/config/train.py", "from trl import SFTConfig"),
        module("sft/data/__init__.py", "import_module('transformers')"),
        module("sft/models/loading.py", "import torch"),
        module("sft/runs.py", "import torchlike"),
    ]
    assert find_heavy_imports(modules) == [
        "prompts/chatml.py:2: imports torch; only FRAMEWORK_ROOMS may (tests/house.py)",
        "sft/config/train.py:1: imports trl; only FRAMEWORK_ROOMS may (tests/house.py)",
        "sft/data/__init__.py:1: imports transformers; only FRAMEWORK_ROOMS may (tests/house.py)",
    ]


def test_a_script_may_import_a_framework_room_only_inside_a_function():
    early = module("train.py", "import json\nfrom sft import models\nfrom sft.config.train import TrainSettings")
    late = module("chat.py", "def main():\n    from sft import models\n    import torch")
    assert find_early_imports([early, late]) == ["train.py: imports sft.models before parsing"]


def test_the_importers_of_a_package_are_listed():
    modules = [module("sft/b.py", "def f():\n    from unsloth import X"), module("sft/a.py", "import unsloth_zoo")]
    assert find_importers(modules, "unsloth") == ["sft/b.py"]


def test_a_script_of_121_lines_and_a_module_of_501_are_too_long():
    modules = [module("train.py", "\n" * 121), module("sft/x.py", "\n" * 501)]
    shorter = [module("chat.py", "\n" * 120), module("sft/y.py", "\n" * 500)]
    assert find_long_files([*modules, *shorter]) == [
        "train.py: 121 lines, at most 120; does it hold two things?",
        "sft/x.py: 501 lines, at most 500; does it hold two things?",
    ]


def test_a_load_that_leaves_trust_open_is_found_in_any_expression():
    source = "(AutoX if head else AutoY).from_pretrained(f)\nAutoConfig.from_config(c, trust_remote_code=False)"
    assert find_silent_trust([module("sft/a.py", source), module("sft/b.py", "LoraConfig.from_pretrained(f)")]) == [
        "sft/a.py:1: (AutoX if head else AutoY).from_pretrained without trust_remote_code"
    ]


def test_utils_is_found_as_file_and_as_folder():
    modules = [module("sft/utils.py"), module("sft/helpers/x.py"), module("sft/data/utilities_bills.py")]
    assert find_utils(modules) == [
        "sft/utils.py: name it after what it holds",
        "sft/helpers/x.py: name it after what it holds",
    ]


def test_public_names_without_a_docstring_are_found_and_private_ones_are_not():
    source = "class A:\n    def f(self): ...\n    def _g(self): ...\n    @override\n    def h(self): ...\ndef _k(): ..."
    documented = '"""File."""\nclass A:\n    """A."""\ndef f():\n    """F."""\n    def inner(): ...'
    modules = [module("sft/a.py", source), module("sft/b.py", documented), module("tests/c.py", source)]
    assert find_undocumented([*modules, module("sft/__init__.py")]) == [
        "sft/a.py:1: the file has no docstring",
        "sft/a.py:1: A has no docstring",
        "sft/a.py:2: A.f has no docstring",
    ]


def test_a_private_function_that_only_calls_itself_is_found_and_one_that_a_library_calls_is_not():
    source = """
def _a(): _a()
class B:
    def _c(self): ...
    def _d(self): self._e()
    def _e(self): B._d
class F(Model):
    def _called_by_the_library(self): ...
    @validator("x")
    def _registered(self): ...
class G(F):
    def _called_by_the_library_as_well(self): ...
class H(B):
    def _i(self): ...
def _by_name(): ...
TABLE = {"x": _by_name}
"""
    assert find_uncalled([module("sft/a.py", source), module("tests/b.py", source)]) == [
        "sft/a.py:2: nothing calls _a",
        "sft/a.py:4: nothing calls _c",
        "sft/a.py:14: nothing calls _i",
    ]


def test_a_file_or_module_that_a_docstring_or_comment_names_and_that_is_not_there_is_found():
    source = (
        '"""As sft/b.py and sft/gone.py; see sft.b.f, sft.b.g, sft.gone."""\nx = 1  # sft/old.py, path/to/metric.py'
    )
    modules = [module("sft/a.py", source), module("sft/b.py", "def f(): ..."), module("tests/c.py", "# sft/gone.py")]
    assert find_missing_paths(modules, {"sft/a.py", "sft/b.py", "tests/c.py"}) == [
        "sft/a.py:1: names sft/gone.py, which is not there",
        "sft/a.py:1: names sft.b.g, which is not there",
        "sft/a.py:1: names sft.gone, which is not there",
        "sft/a.py:2: names sft/old.py, which is not there",
        "tests/c.py:1: names sft/gone.py, which is not there",
    ]


def test_a_path_of_one_machine_is_found_and_a_placeholder_or_url_is_not():
    home, work = "/" + "home/ada/x", "/" + "work/main"
    fine = "/path/to/model ~/work/x https://example.org/work/a ./home/x $HOME/work/x data/home/x */home/x"
    assert find_machine_paths("a.md", f"cd {home}\n{fine}\nmodel: '{work}/m'") == [
        f"a.md:1: names {home.rpartition('/')[0]}; write a relative path",
        f"a.md:3: names {work}; write a relative path",
    ]
