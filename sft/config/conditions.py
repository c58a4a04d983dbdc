"""Conditions over metrics.json, for `evaluate.py --fail_if`: a small expression that can do nothing but compare.

    condition = parse_condition('classification.accuracy < 0.9 or comparison.outcome == "hurt"')
    condition.holds({"classification": {"accuracy": 0.85}, ...})        # True

Comparisons (< <= > >= == !=) of paths (`a.b`, `a["with spaces"]`), numbers and "texts", joined by and, or and
brackets. The grammar is Python's, read by its own parser; every other construct is refused at once.
"""

import ast
import keyword
import operator
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

from sft.errors import ConfigError, nearest_name

Value = float | str | bool
COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
MAX_LENGTH = 1000  # characters: no condition of a person is longer, and deep nesting cannot exhaust the stack


@dataclass(frozen=True)
class Condition:
    """A parsed condition; `text` is its source."""

    text: str
    tree: ast.expr

    @property
    def paths(self) -> list[tuple[str, ...]]:
        """Every path it names: [("classification", "accuracy")]."""
        return [path for node in _outermost(self.tree) if (path := _path_of(node))]

    def check_names(self, schema: type, not_measured: Mapping[tuple[str, ...], str] | None = None) -> None:
        """Raise ConfigError for a key or value that a TypedDict of that shape cannot have, with the nearest: a name,
        one value where there is a group, a text that its Literal does not know (a condition that would never hold).

        not_measured: groups that are not there this time, and why: {("generation", "rouge"): "comes with --rouge"}.
        """
        shapes = {path: _shape_of(path, schema) for path in self.paths}
        for path, shape in shapes.items():
            _refuse_several(path, shape)
            for group, why in (not_measured or {}).items():
                if path[: len(group)] == group:
                    raise ConfigError(f"--fail_if: {spell(path)} will not be there; {spell(group)} {why}")
        for path, text in _compared_texts(self.tree):
            if get_origin(shapes[path]) is Literal and text not in (words := get_args(shapes[path])):
                near = nearest_name(text, words) or f"; it is one of {', '.join(words)}"
                raise ConfigError(f"--fail_if: {spell(path)} is never {text!r}{near}")

    def holds(self, metrics: Mapping[str, object]) -> bool:
        """Whether the condition is true. Raises ConfigError for a path that is not there or has no single value."""
        return _evaluate(self.tree, metrics)

    def values(self, metrics: Mapping[str, object]) -> str:
        """The values it compared: `classification.accuracy is 0.85`."""
        paths = dict.fromkeys(self.paths)
        return ", ".join(f"{spell(path)} is {_show(look_up(path, metrics))}" for path in paths)


def parse_condition(text: str) -> Condition:
    """The condition in a text; raises ValueError with the reason if it is invalid."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "1if x", which Python reads and deplores on stderr
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "cannot be read"
        raise ValueError(f'is no condition ({reason}); write e.g. "classification.accuracy < 0.9"') from None
    _refuse_others(tree)
    condition = Condition(text.strip(), tree)
    if not condition.paths:
        raise ValueError('names no figure of metrics.json; write e.g. "classification.accuracy < 0.9"')
    return condition


def look_up(path: tuple[str, ...], metrics: Mapping[str, object]) -> object:
    """The value at a path; raises ConfigError with the nearest name if there is none."""
    found: object = metrics
    for place, name in enumerate(path):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
            continue
        where = f"{spell(path[:place])} has" if place else "metrics.json has"
        known = [str(key) for key in found] if isinstance(found, Mapping) else []
        alone = "; it is a list" if isinstance(found, list) else "; it is a single value"
        hint = nearest_name(name, known) or (f"; it has {', '.join(known)}" if known else alone)
        raise ConfigError(f"--fail_if: {where} no {name!r}{hint}")
    return found


def spell(path: tuple[str, ...]) -> str:
    """A path as one writes it: ("a", "b c") -> 'a["b c"]'."""
    parts = [f".{name}" if _is_plain(name) else f'["{name}"]' for name in path]
    return "".join(parts).removeprefix(".")


def _is_plain(name: str) -> bool:
    """Whether a name after a dot is read as itself: Python's parser normalises identifiers, and has keywords."""
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.is_normalized("NFKC", name)


def _shape_of(path: tuple[str, ...], schema: object) -> object:
    """The type at a path; None if it is not declared, and known once it is measured."""
    for place, name in enumerate(path):
        while get_origin(schema) in (NotRequired, Required):
            (schema,) = get_args(schema)
        if get_origin(schema) is dict:
            schema = get_args(schema)[1]
        elif is_typeddict(schema):
            hints = get_type_hints(schema)
            if name not in hints:
                near = nearest_name(name, hints) or f"; it may have {', '.join(hints)}"
                raise ConfigError(f"--fail_if: {spell(path[:place]) or 'metrics.json'} has no {name!r}{near}")
            schema = hints[name]
        else:
            return None
    return schema


def _refuse_several(path: tuple[str, ...], shape: object) -> None:
    """Raises ConfigError for a path that ends at a group or a list."""
    if is_typeddict(shape):
        raise ConfigError(
            f"--fail_if: {spell(path)} is no single value; choose one of {', '.join(get_type_hints(shape))}"
        )
    if get_origin(shape) is dict:
        raise ConfigError(f"--fail_if: {spell(path)} is not a single value; name one inside it")
    if get_origin(shape) is list:
        raise ConfigError(f"--fail_if: {spell(path)} is a list; conditions are over single values")


def _compared_texts(tree: ast.expr) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every path that a text has to equal, or not to equal, and that text."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    for node in compared:
        for op, (left, right) in zip(node.ops, pairwise(_compared(node)), strict=True):
            for path, other in ((_path_of(left), right), (_path_of(right), left)):
                is_text = isinstance(other, ast.Constant) and isinstance(other.value, str)
                if path and is_text and isinstance(op, ast.Eq | ast.NotEq):
                    yield path, str(ast.literal_eval(other))


def _refuse_others(node: ast.expr) -> None:
    """Walk the whole expression once; only what _evaluate knows passes."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _refuse_others(part)
        return
    strange = next((part for part in _compared(node) if not _path_of(part) and not _is_constant(part)), None)
    if strange is None and isinstance(node, ast.Compare) and not all(type(op) in COMPARISONS for op in node.ops):
        strange = node
    if strange is not None:
        raise ValueError(
            f'`{ast.unparse(strange)}` is not part of a condition; it compares paths, numbers and "texts" by '
            "< <= > >= == !=, and joins comparisons by and, or"
        )
    if not isinstance(node, ast.Compare):
        raise ValueError('compares nothing; write e.g. "classification.accuracy < 0.9"')


def _is_constant(node: ast.expr) -> bool:
    """A number, with or without a sign, or a text."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float | str)


def _compared(node: ast.expr) -> list[ast.expr]:
    return [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node]


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    return (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def _outermost(node: ast.expr) -> Iterator[ast.expr]:
    """Nodes that are paths, each as a whole."""
    if _path_of(node):
        yield node
        return
    for child in _operands(node):
        yield from _outermost(child)


def _path_of(node: ast.expr) -> tuple[str, ...]:
    """("a", "b c") for a["b c"] or a."b c"'s kin; () for anything that is no path."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := _path_of(node.value)):
        return (*before, node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and (before := _path_of(node.value)):
        return (*before, str(node.slice.value))
    return ()


def _evaluate(node: ast.expr, metrics: Mapping[str, object]) -> bool:
    if isinstance(node, ast.BoolOp):
        decide = all if isinstance(node.op, ast.And) else any
        return decide([_evaluate(part, metrics) for part in node.values])  # a list: every name is looked up
    assert isinstance(node, ast.Compare)
    values = [_value(part, metrics) for part in _compared(node)]
    for op, (left, right) in zip(node.ops, pairwise(values), strict=True):
        if isinstance(left, str) != isinstance(right, str):
            raise ConfigError(f"--fail_if: {ast.unparse(node)} compares a text with a number ({left!r}, {right!r})")
        if not COMPARISONS[type(op)](left, right):
            return False
    return True


def _value(node: ast.expr, metrics: Mapping[str, object]) -> Value:
    path = _path_of(node)
    if not path:
        constant: Value = ast.literal_eval(node)
        return constant
    found = look_up(path, metrics)
    if found is None:
        raise ConfigError(f"--fail_if: {spell(path)} is null: these rows give no such figure")
    if not isinstance(found, int | float | str):
        inside = f"; choose one of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ConfigError(f"--fail_if: {spell(path)} is no single value{inside}")
    return found


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
