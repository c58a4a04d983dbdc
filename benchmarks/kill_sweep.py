"""A run that is killed at chosen points of writing its checkpoints, and goes on by `auto`.

    python benchmarks/kill_sweep.py --points 200      # last line: {"points": 200, "survived": 200, ...}

One process loads everything and forks: a child trains and kills itself with SIGKILL at the n-th line of Python that is
executed while a checkpoint is written or old ones are deleted; another child resumes and must come to the same weights.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.tiny import make_tiny_model, write_rows

STEPS, EVERY = 6, 2
IN_TORCH = ("serialization.py", "staging.py", "saving.py", "checkpoints.py", "trainer.py", "shutil.py", "pathlib.py")


class LineCounter:
    """Counts executed lines while a checkpoint is written; at the one asked for, the process is gone."""

    def __init__(self, fatal: int | None) -> None:
        self.count, self.fatal = 0, fatal

    def trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if not frame.f_code.co_filename.endswith(IN_TORCH):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace

    def watch(self, function: Callable[..., object]) -> Callable[..., object]:
        def watched(*args: object, **kwargs: object) -> object:
            before = sys.gettrace()
            sys.settrace(self.trace)
            try:
                return function(*args, **kwargs)
            finally:
                sys.settrace(before)

        return watched


def run_child(work: Callable[[], None]) -> int:
    """Fork, work, and how it ended: an exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def sweep(model: Path, rows: Path, folder: Path, num_points: int) -> dict[str, object]:
    """Kill at num_points points spread evenly over all lines of saving; see what became of each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)  # a fork copies one thread only
    from safetensors.torch import load_file

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training.fit import fit
    from sft.training.saving import SavesCheckpoints

    def train(output: Path, *more: str, counter: LineCounter | None = None) -> None:
        flags = ["--model", str(model), "--data", str(rows), "--output_dir", str(output), "--method", "lora"]
        flags += ["--dtype", "fp32", "--max_steps", str(STEPS), "--eval_steps", str(EVERY), "--warmup_steps", "0"]
        flags += [
            "--learning_rate",
            "1e-2",
            "--save_total_limit",
            "2",
            "--max_seq_length",
            "192",
            "--system_prompt",
            "Be brief.",
            *more,
        ]
        settings = load_settings(TrainSettings, flags)
        if counter:
            SavesCheckpoints._save_checkpoint = counter.watch(SavesCheckpoints._save_checkpoint)  # type: ignore
        fit(settings, open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed))

    def weights(output: Path) -> dict[str, object]:
        return load_file(output / "adapter/adapter_model.safetensors")

    log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    counted = folder / "count"

    def count() -> None:
        counter = LineCounter(None)
        train(folder / "whole", counter=counter)
        counted.write_text(str(counter.count))

    assert run_child(count) == 0, (folder / "said.txt").read_text()
    total, expected = int(counted.read_text()), weights(folder / "whole")
    survived, most_lost, began = 0, 0, time.monotonic()
    for number in range(num_points):
        output, fatal = folder / f"run-{number}", 1 + number * total // num_points
        assert run_child(lambda: train(output, counter=LineCounter(fatal))) == -signal.SIGKILL  # noqa: B023
        steps = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
        done = max(line["step"] for line in steps)
        from sft.checkpoints import newest_checkpoint, step_of

        newest = newest_checkpoint(output)
        most_lost = max(most_lost, done - (step_of(newest) if newest else 0))
        resumed = run_child(lambda: train(output, "--resume_from_checkpoint", "auto"))  # noqa: B023
        same = resumed == 0 and all(torch.equal(expected[key], value) for key, value in weights(output).items())
        survived += same
        if same:
            shutil.rmtree(output)
    return {
        "points": num_points,
        "survived": survived,
        "lines_of_saving": total,
        "most_steps_lost": most_lost,
        "save_interval": EVERY,
        "duration_s": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Kill at many points, on a tiny model unless another is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        model = options.model or make_tiny_model(folder / "model")
        rows = options.rows or write_rows(folder / "rows.jsonl")
        print(json.dumps(sweep(model, rows, folder, options.points)))


if __name__ == "__main__":
    main()
