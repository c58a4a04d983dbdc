"""A script of ours that is sent a signal at a chosen place of its own training, every time the same one.

    python tests/cut_command.py SIGKILL sft.training.trainer.RowTrainer.collate 6 2 train.py --data rows.jsonl ...

The second time that the function is called after step 6, counted from there, the process sends itself the signal.
"""

import os
import runpy
import signal
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def cut(number: signal.Signals, place: str, step: int, call: int) -> None:
    """Put the signal in: `place` is a function or a method by its whole name."""
    from sft.training.trainer import RowTrainer

    trainers: list[RowTrainer] = []
    build = RowTrainer.__init__

    def build_and_keep(self: RowTrainer, *arguments: object, **more: object) -> None:
        trainers.append(self)
        build(self, *arguments, **more)

    RowTrainer.__init__ = build_and_keep
    owner, name = find_owner(place)
    function, calls = getattr(owner, name), []

    def watched(*arguments: object, **more: object) -> object:
        if trainers and trainers[-1].state.global_step == step:
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), number)
        return function(*arguments, **more)

    setattr(owner, name, watched)


def find_owner(place: str) -> tuple[object, str]:
    """`sft.training.trainer.RowTrainer.collate` -> the class, "collate"."""
    parts = place.split(".")
    length = max(n for n in range(1, len(parts)) if (ROOT / "/".join(parts[:n])).with_suffix(".py").exists())
    owner: object = import_module(".".join(parts[:length]))
    for part in parts[length:-1]:
        owner = getattr(owner, part)
    return owner, parts[-1]


def main(signal_name: str, place: str, step: str, call: str, script: str, *flags: str) -> None:
    """Put the signal in, then run the script as it is."""
    cut(signal.Signals[signal_name], place, int(step), int(call))
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
