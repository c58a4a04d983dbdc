"""The scripts of the root, and which settings each takes, read from their text: a script is never imported."""

import ast
from importlib import import_module
from pathlib import Path

from sft.config.layers import Settings

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def settings_class_of(script: str) -> type[Settings]:
    """What a script hands to load_settings: "train.py" -> TrainSettings."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_settings"
    ]
    name = ast.unparse(calls[0].args[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return getattr(import_module(node.module), name)
    raise LookupError(f"{script} imports no {name}")


def flags_of(settings: type[Settings]) -> list[str]:
    """Every flag a user can give: ["--data", "--lora_r", "--lora_rank", "-n"]; a field with aliases goes by these."""
    names = []
    for field, info in settings.model_fields.items():
        names += getattr(info.validation_alias, "choices", [field])
    return [f"-{name}" if len(name) == 1 else f"--{name}" for name in names]
