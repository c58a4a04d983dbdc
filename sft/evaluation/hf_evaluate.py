"""The Hugging Face package `evaluate`, although a script of ours has the same name.

From the project's root `import evaluate` finds our evaluate.py first. So the package is loaded from where it is
installed and put in sys.modules under its name: its own `import evaluate`, that of its metric files and of any
library after it then get the package, too.

    evaluate = load_hf_evaluate()
    evaluate.load("path/to/metric.py").compute(predictions=[...], references=[...])
"""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from sft.errors import ConfigError

NAME = "evaluate"


def load_hf_evaluate() -> ModuleType:
    """The package; the first call imports it (and transformers with it), later ones return the same object.

    Raises ConfigError if it is not installed.
    """
    try:
        start = Path(str(distribution(NAME).locate_file(f"{NAME}/__init__.py"))).resolve()
    except PackageNotFoundError:
        raise ConfigError(
            f"the Python package {NAME!r} is missing; pip install {NAME}, or leave out --rouge and --metric"
        ) from None
    present = sys.modules.get(NAME)
    if present is not None and _is_from(present, start):
        return present
    return _load(start)


def _is_from(module: ModuleType, start: Path) -> bool:
    return bool(module.__file__) and Path(str(module.__file__)).resolve() == start


def _load(start: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, start, submodule_search_locations=[str(start.parent)])
    if spec is None or spec.loader is None:
        raise ConfigError(f"{start}: cannot be imported; reinstall it with pip install --force-reinstall {NAME}")
    before = sys.modules.get(NAME)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module  # before it runs: the package imports itself by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(NAME)
        if before is not None:
            sys.modules[NAME] = before
        raise
    return module
