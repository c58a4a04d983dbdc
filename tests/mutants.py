"""Do the tests of a module fail where it is wrong? Small faults are put into it, one at a time, and its tests are run.

    make mutants FILE=sft/training/memory.py
    make mutants FILE=sft/data/ledger.py TESTS="tests/data/test_ledger.py tests/data/building" COUNT=40

Faults are of the kinds that people make: < for <=, and for or, a condition, a filter or a statement left out, a number
off by one, two arguments swapped, min for max. COUNT of them are drawn, with each kind in turn, by a fixed seed. Each
is tried in a child process of its own, in which the module is read with the fault; no file is changed. Prints those
that no test notices (some change nothing: that is for a reader to see); exit code 1 where they are a tenth or more.
"""

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType
from typing import NamedTuple

SEED = 1
LIMIT = 0.1  # share of the faults that may go unnoticed
TIMEOUT_S = 20  # beside three times what the tests take without a fault; a module that hangs is noticed, too
PRELOADED = ("pytest", "hypothesis", "numpy", "torch", "transformers", "peft", "trl", "datasets")  # not ours: kept

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
}  # fmt: skip
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
Put = Callable[[ast.AST], None]  # puts another node in the place of one


class Fault(NamedTuple):
    """One small change: what kind, in which line, and how it is made in the tree it was found in."""

    kind: str
    line: int
    make: Callable[[], None]


def find_faults(tree: ast.Module) -> list[Fault]:
    """All faults that can be put into a tree, in the order of its nodes; annotations, texts and asserts are let be."""
    return [fault for node, put in _walk(tree) for fault in _faults_of(node, put)]


def _walk(parent: ast.AST) -> Iterator[tuple[ast.AST, Put]]:
    for name, value in ast.iter_fields(parent):
        if name in ("annotation", "returns", "decorator_list") or isinstance(value, ast.Assert):
            continue
        slots = value if isinstance(value, list) else [value]
        for index, node in enumerate(slots):
            if isinstance(node, ast.AST) and not isinstance(node, ast.Assert) and not _is_for_types(node):

                def put(new: ast.AST, name: str = name, index: int = index, is_list: bool = slots is value) -> None:
                    if is_list:
                        getattr(parent, name)[index] = new
                    else:
                        setattr(parent, name, new)

                yield node, put
                yield from _walk(node)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _faults_of(node: ast.AST, put: Put) -> Iterator[Fault]:
    line = getattr(node, "lineno", 0)

    def replace(kind: str, new: Callable[[], ast.AST]) -> Fault:
        return Fault(kind, line, lambda: put(ast.copy_location(new(), node)))

    match node:
        case ast.Compare(ops=[only]) if type(only) in COMPARISONS:
            yield Fault("comparison", line, lambda: setattr(node, "ops", [COMPARISONS[type(only)]()]))
        case ast.BoolOp(op=op, values=values):
            other = ast.And() if isinstance(op, ast.Or) else ast.Or()
            yield Fault("and/or", line, lambda: setattr(node, "op", other))
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield replace("operand", partial(_join, op, rest))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield replace("not", lambda: operand)
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield Fault("arithmetic", line, lambda: setattr(node, "op", ARITHMETIC[type(op)]()))
        case ast.Constant(value=bool() as value):
            yield replace("constant", lambda: ast.Constant(not value))
        case ast.Constant(value=int() as value):
            yield replace("constant", lambda: ast.Constant(value + 1))
        case ast.Constant(value=float() as value):
            yield replace("constant", lambda: ast.Constant(value * 2 + 0.5))
        case ast.Call(func=ast.Name(id=name)) if name in TWINS:
            yield Fault("min/max, any/all", line, lambda: setattr(node.func, "id", TWINS[name]))
        case ast.Call(args=[first, second, *rest]) if not isinstance(first, ast.Starred):
            yield Fault("arguments", line, lambda: setattr(node, "args", [second, first, *rest]))
        case ast.If() | ast.IfExp() | ast.While():
            if not isinstance(node, ast.While):
                yield Fault("condition", line, lambda: setattr(node, "test", ast.Constant(True)))
            yield Fault("condition", line, lambda: setattr(node, "test", ast.Constant(False)))
        case ast.comprehension(ifs=[_, *_]):
            line = node.ifs[0].lineno
            yield Fault("filter", line, lambda: setattr(node, "ifs", []))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield replace("statement", ast.Pass)
        case ast.Return(value=ast.expr()):
            yield Fault("return", line, lambda: setattr(node, "value", ast.copy_location(ast.Constant(None), node)))


def _join(op: ast.boolop, values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.BoolOp(op, values)


def choose_faults(faults: Sequence[Fault], count: int, seed: int) -> list[int]:
    """Indices of `count` faults, each kind in turn, in the order of their lines."""
    rng, of_kind = random.Random(seed), defaultdict(list)
    for index, fault in enumerate(faults):
        of_kind[fault.kind].append(index)
    kinds = [rng.sample(indices, len(indices)) for _, indices in sorted(of_kind.items())]
    in_turn = [indices[turn] for turn in range(len(faults)) for indices in kinds if turn < len(indices)]
    return sorted(in_turn[:count], key=lambda index: (faults[index].line, index))


def put_in(source: str, index: int) -> tuple[ast.Module, str]:
    """The tree with one fault, and `17: a < b -> a <= b`, the line before and after."""
    tree = ast.parse(source)
    before = copy.deepcopy(tree)
    fault = find_faults(tree)[index]
    fault.make()
    ast.fix_missing_locations(tree)
    pairs = zip(ast.unparse(before).splitlines(), ast.unparse(tree).splitlines(), strict=False)
    was, now = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
    return tree, f"{fault.line}: {was} -> {now or 'nothing'}"


class Faulty(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds one module, by name, as a tree that is not that of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """That of the module; its file is told, for tests that read it."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self, submodule_search_locations=None)

    def get_code(self, fullname: str) -> CodeType:
        """The tree, compiled."""
        return compile(self.tree, str(self.path), "exec")

    def get_source(self, fullname: str) -> str:
        """The file as it is."""
        return self.path.read_text(encoding="utf-8")


def run_tests(tests: Sequence[str], timeout_s: float, faulty: Faulty | None = None) -> bool:
    """Whether the tests pass in time, in a child process."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if faulty is not None:
            sys.meta_path.insert(0, faulty)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider", *tests])))
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)  # what its tests have started, too
    os.waitpid(child, 0)
    return False


def mirrored_test(path: Path) -> Path:
    """sft/data/ledger.py -> tests/data/test_ledger.py; prompts/tools.py -> tests/prompts/test_tools.py."""
    parts = path.parts[1:] if path.parts[0] == "sft" else path.parts
    return Path("tests", *parts[:-1], f"test_{path.name}")


def main() -> int:
    """Try the faults; 0 where fewer than a tenth go unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tests", default="", help="files or folders, separated by blanks; default: the mirrored test")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    tests = options.tests.split() or [str(mirrored_test(options.file))]
    if missing := [test for test in tests if not Path(test.partition("::")[0]).exists()]:
        parser.error(f"{missing[0]} is not there; name the tests of {options.file}: TESTS=...")
    sys.path.insert(0, os.getcwd())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in PRELOADED:  # once, before the forks: importing them takes longer than most tests
        importlib.import_module(name)
    began = time.monotonic()
    if not run_tests(tests, 3600):
        parser.error(f"{' '.join(tests)} fail as they are; mend them first")
    timeout_s = TIMEOUT_S + 3 * (time.monotonic() - began)
    source = options.file.read_text(encoding="utf-8")
    module = ".".join(options.file.with_suffix("").parts).removesuffix(".__init__")
    chosen = choose_faults(find_faults(ast.parse(source)), options.count, options.seed)
    survived = 0
    for index in chosen:
        tree, shown = put_in(source, index)
        if run_tests(tests, timeout_s, Faulty(module, options.file.resolve(), tree)):
            survived += 1
            print(f"survives: {options.file}:{shown}", flush=True)
    print(f"{options.file}: {survived} of {len(chosen)} faults go unnoticed by {' '.join(tests)}")
    return int(survived >= LIMIT * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
