"""What runs and what is installed: safetensors only, nobody's code unasked, hashes, licences."""

import ast
from collections.abc import Iterator
from pathlib import Path

from benchmarks.licences import UNKNOWN, list_licences
from tests.commands import ROOT
from tests.requirements import read_pins

SOURCES = [*sorted((ROOT / "sft").rglob("*.py")), *sorted((ROOT / "prompts").rglob("*.py")), *ROOT.glob("*.py")]
PICKLES = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def calls_of(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls of methods of these names in the code, each with its place."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}", node


def keywords_of(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


def test_whatever_loads_a_model_says_whether_its_own_code_may_run():
    silent = [
        where
        for where, call in calls_of("from_pretrained", "from_config")
        if "trust_remote_code" not in keywords_of(call) and "PeftConfig" not in where and "PeftModel" not in where
    ]
    assert silent == []  # PEFT runs no code of a folder


def test_models_are_read_from_safetensors_alone():
    loose = [
        where
        for where, call in calls_of("from_pretrained")
        if "ForCausalLM" in where and not keywords_of(call) & {"use_safetensors", "gguf_file"}
    ]
    assert loose == []
    assert [where for where, call in calls_of("load") if ".torch.load" in where or ": torch.load" in where] == []


def test_nothing_imports_a_module_that_unpickles():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in PICKLES]
    assert found == []


def test_what_is_installed_without_its_dependencies_is_pinned_by_hash():
    path = ROOT / "requirements-embedded.txt"
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if "--hash=sha256:" not in line] == []
    assert len(lines) == len(read_pins(path))
    assert all(pin.version and pin.reason for pin in read_pins(path))


def test_every_package_that_is_installed_names_its_licence():
    listed = {name: licence for name, _, licence in list_licences()}
    for name in ("requirements-cpu.txt", "requirements-embedded.txt"):
        for pin in read_pins(ROOT / name):
            spelled = [key for key in (pin.name, pin.name.replace("-", "_")) if key in listed]
            if spelled:  # requirements of other machines may not be installed here
                assert listed[spelled[0]] != UNKNOWN, pin.name


def test_security_md_says_what_is_promised():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("safetensors alone", "--trust_remote_code", "make licences", "Report"))
    assert Path(ROOT / "docs/reliability.md").is_file()
