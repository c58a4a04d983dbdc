"""Writing rows in a random order without reading them in one.

A read in random order costs a seek or a page fault a row wherever the spool is larger than the page cache: 2 ms, or
500 rows a second. So the spool is read once from front to back, rows are dealt to as many files as one split has parts
of 64 MB, and each part is put in order in memory.
"""

from pathlib import Path

import numpy as np

from sft.data.candidates import CandidateStore
from sft.data.mixing import Copies

PART_BYTES = 64_000_000
MAX_PARTS = 256  # open files; a split above 16 GB has larger parts


def write_rows(path: Path, store: CandidateStore, copies: Copies, scratch: Path) -> None:
    """Write these copies, one JSON line each, in their order; `scratch` takes the parts meanwhile."""
    numbers = np.frombuffer(copies.numbers, dtype=np.uint32)  # (M,) by place in the file
    order = np.argsort(numbers, kind="stable")  # (M,) places, as the spool is read
    wanted_parts = -(-store.count_bytes(numbers) // PART_BYTES)
    num_parts = max(1, min(wanted_parts, MAX_PARTS, len(numbers)))
    part_of = np.arange(len(numbers)) * num_parts // max(1, len(numbers))  # (M,) by place
    lines = store.read_lines((copies.numbers[place], copies.copies[place]) for place in order)
    with path.open("wb") as file:
        if num_parts == 1:
            file.writelines(_arrange(list(lines), order))
            return
        parts = [(scratch / f"{path.stem}-{part}").open("w+b") for part in range(num_parts)]
        for line, part in zip(lines, part_of[order], strict=True):
            parts[part].write(line)
        for number, part_file in enumerate(parts):
            part_file.seek(0)
            places = order[part_of[order] == number]
            file.writelines(_arrange(part_file.readlines(), places - places.min()))
            part_file.close()
            (scratch / f"{path.stem}-{number}").unlink()


def _arrange(lines: list[bytes], places: np.ndarray) -> list[bytes]:
    arranged = [b""] * len(lines)
    for line, place in zip(lines, places.tolist(), strict=True):
        arranged[place] = line
    return arranged
