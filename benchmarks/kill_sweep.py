"""Kill a run at chosen points while it writes its checkpoints, and resume it with `auto`.

    python benchmarks/kill_sweep.py --points 200      # last line: {"points": 200, "survived": 200, ...}

A run on a tiny model forks at each of its checkpoints: the child writes the checkpoint into a copy of the run folder
and is killed (SIGKILL) before one of the system calls that change files; with enough points, before every such call.
Each folder is then resumed with `auto`, and has to reach the log and the weights of the run that was not killed.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.system_calls import run_child, run_traced
from tests.tiny import make_tiny_model, write_rows

STEPS, EVERY, NUM_SAVES = 6, 2, 3
RECIPE = f"--method lora --dtype fp32 --max_steps {STEPS} --eval_steps {EVERY} --warmup_steps 0 --learning_rate 1e-2"
RECIPE += " --save_total_limit 2 --max_seq_length 192"
FIGURES = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens")


@dataclass
class Sweep:
    """What became of the killed runs; `most_steps_lost`: logged steps that no complete checkpoint contained."""

    points: int
    survived: int
    calls_per_save: list[int]
    most_steps_lost: int
    save_interval: int
    duration_s: float


def train(model: Path, rows: Path, output: Path, *more: str) -> None:
    """The run, as train.py starts it."""
    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training.fit import fit

    flags = ["--model", str(model), "--data", str(rows), "--output_dir", str(output), *RECIPE.split(), *more]
    settings = load_settings(TrainSettings, [*flags, "--system_prompt", "Be brief."])
    fit(settings, open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed))


def train_and_die(model: Path, rows: Path, folder: Path, num_points: int) -> None:
    """A whole run in folder/whole; from each of its saves, copies of it whose save was killed: folder/run-2-17."""
    from sft.training.saving import CheckpointedTrainer

    save = CheckpointedTrainer._save_checkpoint

    def save_into(trainer: CheckpointedTrainer, run: Path) -> None:
        trainer.args.output_dir = str(run / "checkpoints")
        save(trainer, trainer.model, None)
        trainer.finish_saving()

    def die_often(trainer: CheckpointedTrainer, *arguments: object) -> None:
        step, whole = trainer.state.global_step, folder / "whole"
        trainer.finish_saving()  # a fork has no threads but the one that forks
        shutil.copytree(whole, folder / "counted")
        counted = run_traced(lambda: save_into(trainer, folder / "counted"))
        assert counted.code == 0
        shutil.rmtree(folder / "counted")
        (folder / f"calls-{step}").write_text(str(counted.num_calls))
        share = num_points // NUM_SAVES + (step // EVERY <= num_points % NUM_SAVES)
        for point in range(share):
            fatal = 1 + point * counted.num_calls // share
            run = shutil.copytree(whole, folder / f"run-{step}-{point}")
            ended = run_traced(lambda: save_into(trainer, run), fatal=fatal)  # noqa: B023
            assert ended.code == -signal.SIGKILL, f"step {step}, call {fatal}: ended with {ended.code}"
        save(trainer, *arguments)

    CheckpointedTrainer._save_checkpoint = die_often  # type: ignore[method-assign]  # of this process, which is a child
    train(model, rows, folder / "whole")


def sweep(model: Path, rows: Path, folder: Path, num_points: int) -> Sweep:
    """Kill at num_points points, spread evenly over all calls of a save, and resume each run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)  # a fork copies one thread only
    from safetensors.torch import load_file

    from sft.runs.checkpoints import newest_checkpoint, step_of
    from sft.training.log import read_log

    def figures(run: Path) -> list[list[float | None]]:
        return [[line.get(name) for name in FIGURES] for line in read_log(run / "log.jsonl")]

    train(model, rows, folder / "unused", "--dry_run")  # what is imported here, no child has to import
    began = time.monotonic()
    assert ends_well(run_child(lambda: train_and_die(model, rows, folder, num_points)))
    losses, weights = figures(folder / "whole"), load_file(folder / "whole/adapter/adapter_model.safetensors")
    survived, most_lost, killed = 0, 0, sorted(folder.glob("run-*"))
    for run in killed:
        done = max(line["step"] for line in read_log(run / "log.jsonl"))
        newest = newest_checkpoint(run)
        most_lost = max(most_lost, int(done) - (step_of(newest) if newest else 0))
        if not ends_well(run_child(lambda: train(model, rows, run, "--resume_from_checkpoint", "auto"))):  # noqa: B023
            continue
        tuned = load_file(run / "adapter/adapter_model.safetensors")
        if figures(run) == losses and all(torch.equal(weights[name], tuned[name]) for name in weights):
            survived += 1
            shutil.rmtree(run)  # those that did not survive stay, to be looked at
    calls = [int((folder / f"calls-{step}").read_text()) for step in range(EVERY, STEPS + 1, EVERY)]
    return Sweep(len(killed), survived, calls, most_lost, EVERY, round(time.monotonic() - began, 1))


def ends_well(pid: int) -> bool:
    """Wait for a child."""
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Kill at many points; the output of the runs is in <folder>/said.txt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="folder of the runs; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        os.dup2(os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT), 2)
        found = sweep(make_tiny_model(folder / "model"), write_rows(folder / "rows.jsonl"), folder, options.points)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
