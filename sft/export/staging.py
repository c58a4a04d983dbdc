"""Files are written aside, checked, then renamed: a reader finds a verified export or none.

with staging(Path("outputs/demo/export")) as stage:
    ...                      # write stage/merged/ and stage/gguf/*.gguf, verify; an exception leaves nothing behind
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import RunError
from sft.locks import held

PREFIX = ".unfinished-"
WHOLE_FOLDERS = ("merged",)  # replaced as one; of another folder only the files of the same name
MARGIN = 1.05  # headers, tokenizer and file system
GB = 1e9


@contextmanager
def staging(output_dir: Path) -> Iterator[Path]:
    """A folder on the disk of output_dir, whose content moves there when the block ends without an exception.

    What an interrupted export left behind is removed first. Raises BusyError while another process exports there.
    """
    existed = output_dir.exists()
    try:
        with held(
            output_dir / f"{PREFIX}lock",
            f"{output_dir}: another export is writing here",
            "wait for it, or give --output_dir",
        ):
            for left_behind in output_dir.glob(f"{PREFIX}*/"):
                shutil.rmtree(left_behind)
            stage = Path(tempfile.mkdtemp(prefix=PREFIX, dir=output_dir))
            try:
                yield stage
                _publish(stage, output_dir)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    finally:
        if not existed and output_dir.is_dir() and not any(output_dir.iterdir()):
            output_dir.rmdir()


def _publish(stage: Path, output_dir: Path) -> None:
    for item in sorted(stage.iterdir()):
        target = output_dir / item.name
        if item.is_dir() and item.name not in WHOLE_FOLDERS:
            target.mkdir(exist_ok=True)
            for file in sorted(item.iterdir()):
                file.replace(target / file.name)
        elif item.is_dir() and target.exists():
            before = stage / f".before-{item.name}"
            target.rename(before)  # there is no rename over a folder that holds files
            item.rename(target)
        else:
            item.replace(target)


def check_disk_space(folder: Path, num_bytes: int) -> None:
    """Raise RunError, naming both figures, where fewer than num_bytes (and a margin) are free on folder's disk."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, num_bytes * MARGIN
    if free < needed:
        raise RunError(
            f"{folder}: {needed / GB:,.1f} GB needed, {free / GB:,.1f} GB free; make room, or give --output_dir on "
            "another disk"
        )
