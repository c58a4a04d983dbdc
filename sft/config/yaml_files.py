"""Reads YAML without losing anything a user wrote: one mapping, no duplicate keys, mistakes with file and line.

Depth and size are limited: a few lines of aliases, each ten times the one before, hold more than any memory.

read_yaml(Path("recipes/demo.yaml"))      # {"model": "embedded", "learning_rate": "1e-3", ...}
"""

from collections.abc import Hashable
from pathlib import Path

import yaml

from sft.errors import ConfigError, nearest_name, one_line

TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"  # `<<: *other`, which is no key
MAX_DEPTH = 50  # of lists and mappings in one another
MAX_VALUES = 100_000  # with every alias expanded
LONGEST_NUMBER = 256  # bits

KINDS = {"int": "number", "float": "number", "bool": "truth value", "timestamp": "date"}


class _Loader(yaml.SafeLoader):
    """YAML that refuses, with the line, duplicate keys, impossible values, and endless structures."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Read a node, unless it is nested too deep."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _problem(f"nested more than {MAX_DEPTH} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> object:
        """Make values of nodes, unless their aliases multiply or turn in a circle."""
        if _count_values(node, {}) > MAX_VALUES:
            raise _problem(f"its aliases expand to more than {MAX_VALUES:,} values", node.start_mark)
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Make a value of a node; pyyaml's conversions raise any error of int() and datetime()."""
        kind = node.tag.removeprefix(TAG)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            raise _problem(f"{str(node.value)[:40]!r} is no {KINDS.get(kind, kind)}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:  # hexadecimal, say: it could not be printed
            raise _problem(f"{str(node.value)[:40]!r} has too many digits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        if isinstance(node, yaml.MappingNode):  # super() refuses others
            keys: set[object] = set()
            for key_node, _ in node.value:
                if key_node.tag == MERGE:
                    continue
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, Hashable):
                    raise _problem("a list or a mapping cannot be a key", key_node.start_mark)
                if key in keys:
                    raise _problem(f"key {key!r} is given twice", key_node.start_mark)
                keys.add(key)
        return super().construct_mapping(node, deep)


def _problem(text: str, mark: yaml.Mark) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, mark)


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a node and below, aliases expanded; known: counts by id, 0 while a node is being counted."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise _problem("a value contains itself", node.start_mark)
        return known[id(node)]
    known[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_count_values(child, known) for child in children)
    return known[id(node)]


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file that holds one mapping; raises ConfigError naming file and line.

    YAML itself reads 1e-3 as text and 1.0e-3 as a number; the settings' types make a number of both.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        here = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        there = f"; {path.parent} has {', '.join(here)}" if here else f"; {path.parent} has no *.yaml"
        raise ConfigError(f"{path}: no such file{nearest_name(str(path), here) or there}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file in UTF-8") from None
    except (ValueError, OverflowError) as error:  # pyyaml's scanner makes a character of "\\UFFFFFFFF"
        raise ConfigError(f"{path}: not YAML ({one_line(error)}); fix the line") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = one_line(getattr(error, "problem", None) or error)
        raise ConfigError(f"{where}: not YAML ({problem}); fix the line") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: has no settings; write `name: value` lines")
    return content
