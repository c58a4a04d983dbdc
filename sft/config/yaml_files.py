"""Reading YAML so that nothing a user wrote is lost: one mapping, no key twice, mistakes with file and line.

read_yaml(Path("recipes/demo.yaml"))      # {"model": "embedded", "learning_rate": "1e-3", ...}
"""

from pathlib import Path

import yaml

from sft.errors import ConfigError, nearest_name

MERGE = "tag:yaml.org,2002:merge"  # `<<: *other`, which is no key


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys: list[object] = []
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: not YAML ({problem}); mend the line") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no settings; write `name: value` lines")
    return content
