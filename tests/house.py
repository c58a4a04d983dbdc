"""The rules of the house as functions over source text; tests/test_house.py applies them to the repository.

Each check takes modules and returns its findings, one line each, in the form `sft/errors.py:3: imports torch; …`.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

HEAVY = ("accelerate", "bitsandbytes", "liger_kernel", "peft", "torch", "transformers", "trl", "unsloth", "unsloth_zoo")
# Rooms of sft and of sft.data, in order: each may ask those before it, never those behind it. Of two that a name lies
# in the first counts: "data" is what stands in sft/data itself beside its folders.
ROOMS = (
    "lean_imports", "errors", "text", "console", "files", "modelscope", "config", "metrics", "pages",
    "data.rows", "data.files", "data.quotas", "data.ledger", "data.folder", "data.named_files", "data.mongo",
    "data.sources", "data.likeness", "data.building", "data.extraction", "data",
    "runs", "conversation", "encoding", "robustness", "inspection",
    "backend", "batches", "kernels", "models", "generation", "scoring", "training", "evaluation", "report", "inference",
    "talk", "export", "serve",
)  # fmt: skip
# Modules of prompts in the same order; last what `import prompts` brings, which asks for them all.
PROMPTS = (
    "errors", "messages", "tools", "family", "layout", "sandbox", "template", "text_encoder", "shorten",
    "chatml",
    "task", "head", "tasks", "fingerprint",
)  # fmt: skip
# These stand on a framework; every room before them is pure and imports none.
FRAMEWORK_ROOMS = ROOMS[ROOMS.index("backend") :]
FLOORS = (*(f"prompts.{module}" for module in PROMPTS), "prompts", *(f"sft.{room}" for room in ROOMS))
MAX_LINES_SCRIPT = 120
MAX_LINES = 500
LONGER_FOR_A_REASON = {  # path: why it holds one thing all the same
    f"tests/faults/attacks_{kind}.py": "a list of attacks"
    for kind in ("inputs", "models", "disks", "settings", "mongo")
}
# An absolute path below somebody's home or work folder: names one machine. Placeholders such as /path/to are fine.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/*-])/(?:home|root|Users|work|workspace)/[\w.-]+")


# What a docstring or a comment says of the house: a file, or a module of sft with perhaps a name in it.
FILE_NAMED = re.compile(r"(?<![\w./<*{}-])(?:[\w-]+/)+[\w-]+\.py\b")
MODULE_NAMED = re.compile(r"(?<![\w.])sft(?:\.\w+)+")
# Bases that call no method which a class defines for them.
PLAIN_BASES = {"ABC", "Exception", "NamedTuple", "Protocol", "TypedDict"}


@dataclass(frozen=True)
class Module:
    """One Python file: `Module(PurePosixPath("sft/errors.py"), "import json")`."""

    path: PurePosixPath
    source: str

    @property
    def is_script(self) -> bool:
        """Whether the file is a door: it lies in the root."""
        return len(self.path.parts) == 1

    @property
    def area(self) -> str:
        """`"sft"` for sft/data/folder.py; a script's own name for a script."""
        return self.path.parts[0].removesuffix(".py")

    @property
    def room(self) -> str:
        """`"data"` for sft/data/folder.py, `"errors"` for sft/errors.py, else the empty string."""
        return self.path.parts[1].removesuffix(".py") if self.area == "sft" and len(self.path.parts) > 1 else ""


@dataclass(frozen=True)
class Import:
    """One imported name with its line: `Import("sft.data.rows", 12)`."""

    name: str
    line: int


def read_imports(module: Module) -> list[Import]:
    """All imports of a file, function bodies and import_module("…") included; relative ones are spelled out.

    `from sft import data` gives "sft" and "sft.data": whether `data` is a module is not visible from the text.
    """
    return sorted(_walk_imports(module), key=lambda found: (found.line, found.name))


def _walk_imports(module: Module) -> Iterator[Import]:
    package = module.path.parts[:-1]
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (start, node.module) if part)
            yield Import(source, node.lineno)
            yield from (Import(f"{source}.{alias.name}", node.lineno) for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and _called_name(node.func) in ("import_module", "__import__"):
            argument = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield Import(argument.value.strip("."), node.lineno)


def _called_name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def find_script_imports(modules: list[Module]) -> list[str]:
    """Imports of a script, wherever they stand. `import evaluate` is one: from the root it finds our evaluate.py."""
    scripts = [module.area for module in modules if module.is_script]
    return [
        f"{module.path}:{found.line}: imports the script {script}.py; move what is shared into sft/"
        for module in modules
        for found in read_imports(module)
        for script in scripts
        if _is_within(found.name, script)
    ]


def floor_of(name: str) -> int:
    """Index in FLOORS of what a module of prompts or sft lies in, -1 for none: floor_of("prompts.errors") is 0."""
    return next((floor for floor, room in enumerate(FLOORS) if _is_within(name, room)), -1)


def find_backward_imports(modules: list[Module]) -> list[str]:
    """Arrows that run against scripts -> sft -> prompts, or from what stands in FLOORS to what stands behind it."""
    findings = []
    for module in modules:
        forbidden = ["tests", "benchmarks"] if module.area in ("prompts", "sft") else []
        forbidden += ["sft"] if module.area == "prompts" else []
        own = floor_of(".".join(module.path.with_suffix("").parts))
        for found in read_imports(module):
            targets = [target for target in forbidden if _is_within(found.name, target)]
            floor = floor_of(found.name)
            if (str(module.path), found.name) == ("sft/__init__.py", "sft.lean_imports"):
                continue  # before anything of sft imports a library
            if module.area in ("prompts", "sft") and floor > own and _is_within(FLOORS[floor], module.area):
                targets.append(FLOORS[floor])
            findings += [f"{module.path}:{found.line}: imports {t}, which stands above it" for t in targets]
    return list(dict.fromkeys(findings))  # `from sft import x` reads as "sft" and "sft.x": one finding is enough


def find_circles(modules: list[Module]) -> list[str]:
    """Modules that import each other, over however many steps: ["sft.a, sft.b"]. What is imported for type checkers
    alone is no arrow."""
    named = {".".join(m.path.with_suffix("").parts).removesuffix(".__init__"): m for m in modules}
    arrows = {
        name: {i.name for i in read_imports(Module(m.path, _without_type_checking(m.source)))} & named.keys() - {name}
        for name, m in named.items()
    }
    for name, others in arrows.items():  # a package is imported before its modules, whichever imports them
        others -= {other for other in others if _is_within(name, other)}
    behind = {name: _reach(name, arrows) for name in arrows}
    circles = {frozenset(other for other in behind[name] if name in behind[other]) for name in behind}
    return sorted(", ".join(sorted(circle)) for circle in circles if circle)


def _without_type_checking(source: str) -> str:
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.unparse(tree)


def _reach(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """All names that arrows lead to from one, itself where they lead back."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def find_heavy_imports(modules: list[Module]) -> list[str]:
    """Frameworks imported by prompts/ or by a pure room of sft."""
    findings = [
        f"{module.path}:{found.line}: imports {package}; only FRAMEWORK_ROOMS may (tests/house.py)"
        for module in modules
        if module.area == "prompts" or (module.area == "sft" and module.room not in FRAMEWORK_ROOMS)
        for found in read_imports(module)
        for package in HEAVY
        if _is_within(found.name, package)
    ]
    return list(dict.fromkeys(findings))


def find_early_imports(modules: list[Module]) -> list[str]:
    """Scripts that import a framework or a room on one before their arguments are parsed: outside a function."""
    findings = []
    for module in (module for module in modules if module.is_script):
        top = [node for node in ast.parse(module.source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for found in read_imports(Module(module.path, "\n".join(map(ast.unparse, top)))):
            targets = [*HEAVY, *(f"sft.{room}" for room in FRAMEWORK_ROOMS)]
            findings += [f"{module.path}: imports {t} before parsing" for t in targets if _is_within(found.name, t)]
    return list(dict.fromkeys(findings))


def find_importers(modules: list[Module], package: str) -> list[str]:
    """Files that import `package`: ["sft/backend.py"]."""
    return sorted(
        str(module.path) for module in modules if any(_is_within(found.name, package) for found in read_imports(module))
    )


AUTO_CLASSES = re.compile(r"Auto[A-Z]\w*|FastLanguageModel|GenerationConfig")


def find_silent_trust(modules: list[Module]) -> list[str]:
    """Calls of from_pretrained or from_config that leave open whether a model's own code may run.

    Where `trust_remote_code` is not given, transformers asks on standard input and takes a `y` that a pipe says. The
    classes meant: transformers' Auto classes, whatever expression they stand in, and Unsloth's.
    """
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node.func)} without trust_remote_code"
        for module in modules
        for node in ast.walk(ast.parse(module.source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
        and AUTO_CLASSES.search(ast.unparse(node.func.value))
        and "trust_remote_code" not in {keyword.arg for keyword in node.keywords}
    ]


def find_long_files(modules: list[Module]) -> list[str]:
    """Scripts over 120 lines, other files over 500."""
    findings = []
    for module in modules:
        num_lines = len(module.source.splitlines())
        limit = MAX_LINES_SCRIPT if module.is_script else MAX_LINES
        if num_lines > limit and str(module.path) not in LONGER_FOR_A_REASON:
            findings.append(f"{module.path}: {num_lines} lines, at most {limit}; does it hold two things?")
    return findings


def find_utils(modules: list[Module]) -> list[str]:
    """Files or folders named after nothing: utils, helpers, common, misc."""
    return [
        f"{module.path}: name it after what it holds"
        for module in modules
        if {"util", "utils", "helper", "helpers", "common", "misc"} & {p.removesuffix(".py") for p in module.path.parts}
    ]


def find_undocumented(modules: list[Module]) -> list[str]:
    """Public modules, classes, functions and methods of prompts/ and sft/ without a docstring.

    A method that carries a decorator named `override` says what its base class says, and needs none.
    """
    findings = []
    for module in (module for module in modules if module.area in ("prompts", "sft")):
        tree = ast.parse(module.source)
        if tree.body and not ast.get_docstring(tree):
            findings.append(f"{module.path}:1: the file has no docstring")
        findings += [f"{module.path}:{line}: {name} has no docstring" for name, line in _undocumented(tree, "")]
    return findings


def _undocumented(scope: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, int]]:
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        decorators = {_called_name(decorator) for decorator in node.decorator_list}
        if not ast.get_docstring(node) and not decorators & {"override", "overload"}:
            yield f"{prefix}{node.name}", node.lineno
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{prefix}{node.name}.")


def find_uncalled(modules: list[Module]) -> list[str]:
    """Private functions, methods and classes of prompts/ and sft/ that their own file never names, save in themselves.

    What a decorator registers needs no caller, and neither does a method of a class that has one of another library's
    among its bases, or theirs: the library calls it.
    """
    modules = [module for module in modules if module.area in ("prompts", "sft")]
    trees = {str(module.path): ast.parse(module.source) for module in modules}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases_of = {node.name: {_base_name(base) for base in node.bases} - PLAIN_BASES for node in classes}
    findings = []
    for path, tree in trees.items():
        called_by_base = {
            id(method)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and _has_foreign_base(node.name, bases_of)
            for method in node.body
        }
        used = _count_names(tree)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name.startswith("_")
                and not node.name.endswith("__")
                and not node.decorator_list
                and id(node) not in called_by_base
                and used[node.name] <= _count_names(node)[node.name]
            ):
                findings.append(f"{path}:{node.lineno}: nothing calls {node.name}")
    return findings


def _has_foreign_base(name: str, bases_of: dict[str, set[str]]) -> bool:
    return any(base not in bases_of or (base != name and _has_foreign_base(base, bases_of)) for base in bases_of[name])


def _base_name(base: ast.expr) -> str:
    return _called_name(base.value if isinstance(base, ast.Subscript) else base)


def _count_names(tree: ast.AST) -> Counter[str]:
    """How often each name is used; a string counts as the name it holds: types are written so."""
    used: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            used[_called_name(node)] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.update(re.findall(r"\w+", node.value) if len(node.value) < 100 else [])
    return used


def find_missing_paths(modules: list[Module], files: set[str]) -> list[str]:
    """Docstrings and comments that name a file, or a module of sft, which is not there.

    files: every path of the repository. A path counts where its first folder is one of the repository; a module of sft
    may be followed by a name that its source holds. Modules are not looked for in tests/, whose examples are made up.
    """
    folders = {name.partition("/")[0] for name in files if "/" in name}
    sources = {".".join(m.path.with_suffix("").parts).removesuffix(".__init__"): m.source for m in modules}
    findings = []
    for module in modules:
        for line, text in _read_prose(module.source):
            named = [name for name in FILE_NAMED.findall(text) if name.partition("/")[0] in folders]
            missing = [name for name in named if name not in files]
            if module.area != "tests":
                missing += [name for name in MODULE_NAMED.findall(text) if not _is_there(name, sources)]
            findings += [f"{module.path}:{line}: names {name}, which is not there" for name in missing]
    return findings


def _is_there(name: str, sources: dict[str, str]) -> bool:
    """Whether a dotted name is a module, or a name that stands in one: sft.errors, sft.errors.DataError."""
    holder, _, last = name.rpartition(".")
    return name in sources or bool(re.search(rf"\b{last}\b", sources.get(holder, "")))


def _read_prose(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments with the line where each begins."""
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (text := ast.get_docstring(node, clean=False)):
            yield node.body[0].lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def find_machine_paths(name: str, text: str) -> list[str]:
    """Absolute paths of one machine in a text file: `docs/x.md:3: names …`."""
    return [
        f"{name}:{number}: names {match.group()}; write a relative path"
        for number, line in enumerate(text.splitlines(), 1)
        for match in MACHINE_PATH.finditer(line)
    ]
