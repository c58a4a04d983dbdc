"""List the licence of every installed package, as its metadata names it.

    python -m benchmarks.licences            # or: make licences
Exit code 1 if a package names none.
"""

import sys
from importlib.metadata import Distribution, distributions

UNKNOWN = "UNKNOWN"


def licence_of(package: Distribution) -> str:
    """An SPDX expression, a trove classifier or the first line of the licence field; UNKNOWN if there is none."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License :: ")]
    named = sorted({line.rpartition(" :: ")[2] for line in classifiers} - {"OSI Approved"})
    first = (metadata.get("License") or "").strip().partition("\n")[0]
    return ", ".join(named) or first or UNKNOWN


def list_licences() -> list[tuple[str, str, str]]:
    """Name, version and licence of every installed package, in order: [("torch", "2.13.0", "BSD-3-Clause"), ...]."""
    found = {package.metadata["Name"].lower(): package for package in distributions()}
    return [(name, package.version, licence_of(package)) for name, package in sorted(found.items())]


def main() -> None:
    """Print the list."""
    rows = list_licences()
    for name, version, licence in rows:
        print(f"{name:32} {version:14} {licence[:100]}")
    sys.exit(any(licence == UNKNOWN for _, _, licence in rows))


if __name__ == "__main__":
    main()
