"""The requirements files as data, and what the code imports from elsewhere; tests/test_setup.py compares the two."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

from tests.house import Module, read_imports

NOT_IMPORTED = "not imported:"
# What code of ours works with where the user has installed it, and says so in one line where not.
OPTIONAL = {"datatrove", "llama-cpp-python", "llama-cpp", "triton", "vllm"}  # triton comes with torch for GPUs


@dataclass(frozen=True)
class Pin:
    """One line of a requirements file: `torch==2.13.0  # below Unsloth's cap`."""

    name: str  # as package indexes write it: rouge-score, pyyaml
    version: str  # "" where the line pins none
    reason: str


def normalise_name(name: str) -> str:
    """PyYAML -> pyyaml, rouge_score -> rouge-score (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> list[Pin]:
    """The pins of one file, in order; lines that include another file are left out."""
    text = path.read_text(encoding="utf-8").replace("\\\n", "")  # hashes stand on lines of their own
    lines = [line.strip() for line in text.splitlines()]
    pins = []
    for line in lines:
        if line and not line.startswith(("#", "-r ")):
            requirement, _, reason = line.partition("#")
            name, _, version = requirement.partition(" --hash")[0].strip().partition("==")
            pins.append(Pin(normalise_name(name), version, reason.strip()))
    return pins


def third_party_imports(modules: Iterable[Module], own: set[str]) -> dict[str, str]:
    """Distributions the modules import, with one place each: {"torch": "sft/scoring.py:13"}. own: ours."""
    providers = packages_distributions()  # {"yaml": ["PyYAML"], …} of what is installed here
    places: dict[str, str] = {}
    for module in modules:
        for found in read_imports(module):
            package = found.name.partition(".")[0]
            if package and package not in own and package not in sys.stdlib_module_names:
                distribution = normalise_name(providers.get(package, [package])[0])
                if distribution not in OPTIONAL:
                    places.setdefault(distribution, f"{module.path}:{found.line}")
    return places


def dependency_closure(names: Iterable[str]) -> set[str]:
    """The named distributions and all that they bring along here, as their installed metadata says."""
    seen: set[str] = set()
    waiting = [normalise_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        found = [Requirement(line) for line in lines]
        waiting += [
            normalise_name(one.name) for one in found if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return seen
