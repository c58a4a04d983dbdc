"""Delays libraries that transformers and PEFT import at once but need only for rarely used parts.

Importing them takes half of the time to a first answer: scikit-learn (for assisted generation), scipy (for object
detection), bitsandbytes with torch's compiler (for bases in 4 bits, which import it themselves), torchao (for weights
that no method here takes; it comes with Unsloth), torch._dynamo (for masks in four dimensions). Nothing that is used
here is taken away: each comes when it is used. benchmarks/start_up.py has the figures.

    install()      # from now on, for the modules named in LEAN
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

TORCH, CHECKS = "torch", "transformers.utils"  # imported when one of the modules of LEAN is


class Later:
    """A stand-in for a name in a module, which is imported when the name is called or one of its attributes is used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._find()(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._find(), name)

    def _find(self) -> Any:
        return getattr(import_module(self._module), self._name)


class _LaterModule(ModuleType):
    """A module whose names are all Later."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(self.__name__, name)


@contextmanager
def _without(check: str) -> Iterator[None]:
    """Inside, transformers finds that a package is not there: `is_sklearn_available` says no."""
    utils = import_module(CHECKS)
    before = getattr(utils, check)
    setattr(utils, check, lambda: False)
    try:
        yield
    finally:
        setattr(utils, check, before)


@contextmanager
def _later(name: str) -> Iterator[None]:
    """Inside, importing a module gives one that is loaded when it is used."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _LaterModule(name)
    try:
        yield
    finally:
        sys.modules.pop(name, None)


class _Unmarked(ModuleType):
    """A stand-in for torch._dynamo whose decorators leave functions unchanged until something imports the real one."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        real = sys.modules.get("torch._dynamo", self)
        return _leave_as_it_is if real is self else getattr(real, name)


def _leave_as_it_is(function: Any = None, *flags: object, **options: object) -> Any:
    """A decorator, with or without options."""
    return (lambda given: given) if function is None else function


def _unless_imported(mark: Callable[..., Any]) -> Callable[..., Any]:
    """A mark of torch.compiler that does nothing until torch._dynamo is there."""
    return lambda *args, **kwargs: (mark if "torch._dynamo" in sys.modules else _leave_as_it_is)(*args, **kwargs)


@contextmanager
def _unmarked() -> Iterator[None]:
    """Inside this context, functions marked for torch.compile are left uncompiled; none is called here.

    A package that transformers imports meanwhile and that needs the compiler (torchao, of Unsloth's dependencies)
    imports the real one, whose modules look names up in `torch._dynamo`: from then on both are what they always are.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    names, compiler = vars(import_module(TORCH)), import_module(f"{TORCH}.compiler")
    ours, before = _Unmarked("torch._dynamo"), {mark: getattr(compiler, mark) for mark in MARKS}
    names.setdefault("_dynamo", ours)
    vars(compiler).update({name: _unless_imported(mark) for name, mark in before.items()})
    try:
        yield
    finally:
        vars(compiler).update(before)
        if names.get("_dynamo") is ours:
            del names["_dynamo"]  # torch imports its own on first use


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, operations on the device `meta` do not import torch's compiler only to disable it.

    For loading plain weights: bitsandbytes and sharded weights need the compiler itself.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    sys.modules["torch._dynamo"] = _Unmarked("torch._dynamo")
    try:
        yield
    finally:
        del sys.modules["torch._dynamo"]


MARKS = ("allow_in_graph", "disable")
INTEGRATIONS = ("deepgemm", "finegrained_fp8", "flash_paged", "flex_attention", "sonicmoe")
MARKED = ("modeling_utils", *(f"integrations.{name}" for name in INTEGRATIONS))
DETECTORS = ("deformable_detr", "for_object_detection", "grounding_dino", "lw_detr", "rf_detr", "rt_detr")
# Module -> modules that are held off while it is imported.
LEAN = {
    "transformers.generation.candidate_generator": lambda: _without("is_sklearn_available"),
    **{f"transformers.loss.loss_{kind}": lambda: _without("is_scipy_available") for kind in DETECTORS},
    **{f"transformers.{name}": _unmarked for name in MARKED},
    "transformers.masking_utils": lambda: _later("torch._dynamo._trace_wrapped_higher_order_op"),
    "transformers.quantizers.quantizer_torchao": lambda: _without("is_torchao_available"),
    "peft.helpers": lambda: _later("bitsandbytes"),
}


class _LeanLoader(Loader):
    """Loads a module as its own loader does, with something held off meanwhile."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with LEAN[self._name]():
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_source, get_filename, ...


class _LeanFinder(MetaPathFinder):
    """Finds the modules of LEAN as usual, and has them loaded by the loader above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in LEAN:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LeanLoader(spec.loader, fullname)
        return spec


def install() -> None:
    """Hold off what LEAN names, in this process; a second call does nothing."""
    if not any(isinstance(finder, _LeanFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LeanFinder())
