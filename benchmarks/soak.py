"""Do recorded passes stay correct over thousands of steps, beside other programs on the card?

The loss of every micro-batch of a run is computed twice from the same weights, inputs and random state: by the
recording, and launched kernel by kernel without one. Both have to be bit-identical. Every --gradients_every passes the
whole pass is repeated both ways and the gradients are compared, too. Validation and label scoring run in between as in
any training. All combinations of data, method and noise run one after the other, or, with --together, all at once on
the same card.

    python -m benchmarks.soak --data reviews.jsonl,entities.jsonl --steps 2000
    python -m benchmarks.soak --data reviews.jsonl --method lora --noise 0 --together --busy 1

Gradients cannot be bit-identical: attention's backward pass sums in the order in which its blocks end, launched or
replayed. So the report counts how often two launches differ and how often two replays do, and how far a replay is from
a launch.

Prints a JSON line per run; exit code 1 if one ended early, a loss differed, or gradients differed by more than
rounding.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sft.batches import Batch, tensor_of, to_device
from sft.errors import one_line
from sft.kernels.lora import products_as_recorded

ROUNDING = 0.05  # of the gradients of a micro-batch, relative to their norm; a wrong tile changes many times that
ROOT = Path(__file__).resolve().parent.parent
BUSY = "import torch; a = torch.randn(4096, 4096, device='cuda', dtype=torch.bfloat16)\nwhile True:\n    a @ a"


def main() -> int:
    """Run every combination; 0 if all of them pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="files of rows, separated by commas")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--method", default="lora,qlora")
    parser.add_argument("--noise", default="0,5", help="NEFTune's alpha")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--gradients_every", type=int, default=20, help="check the gradients of every N-th pass")
    parser.add_argument("--together", action="store_true", help="all runs at once")
    parser.add_argument("--seconds", type=int, help="end every run this long after its start, loading included")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # the runs that this command starts
    options = parser.parse_args()
    if options.one:
        print(json.dumps(soak(options)), flush=True)
        return 0
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    waiting, reports = [], []
    try:
        for data, method, noise in itertools.product(
            *(getattr(options, n).split(",") for n in ("data", "method", "noise"))
        ):
            command = [sys.executable, "-m", "benchmarks.soak", "--one", "--data", data, "--method", method]
            command += ["--noise", noise, "--model", options.model, "--steps", str(options.steps)]
            command += ["--max_seq_length", str(options.max_seq_length)]
            command += ["--gradients_every", str(options.gradients_every)]
            command += ["--seconds", str(options.seconds)] if options.seconds else []
            waiting.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            if not options.together:
                reports.append(_report(waiting.pop()))
        reports += [_report(process) for process in waiting]
    finally:
        for process in busy:
            process.kill()
    return int(
        any(
            report["fault"] or report["unequal_losses"] or report["largest_gradient_difference"] > ROUNDING
            for report in reports
        )
    )


def _report(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate()
    report = {"unequal_losses": 0, "largest_gradient_difference": 0.0}
    report |= json.loads(out.splitlines()[-1]) if process.returncode == 0 and out else {"fault": process.returncode}
    print(json.dumps(report), flush=True)
    return report


def soak(options: argparse.Namespace) -> dict[str, object]:
    """Run one combination and check every pass: {"steps": 2000, "fault": None, "unequal_losses": 0, ...}."""
    began = time.monotonic()
    from transformers import TrainerCallback

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training import fit
    from sft.training import trainer as stepping
    from sft.training.replay import ReplayedPasses, Size

    found = {"passes": 0, "unequal_losses": 0, "largest_loss_difference": 0.0}
    found |= {"gradients_checked": 0, "unequal_launches": 0, "unequal_replays": 0, "largest_gradient_difference": 0.0}

    class CheckedPasses(ReplayedPasses):
        def run(self, batch: Batch, loss_of_hidden: Callable[[torch.Tensor, Batch], torch.Tensor]) -> torch.Tensor:
            checks_gradients = found["passes"] % options.gradients_every == 0
            random_state = torch.cuda.get_rng_state()
            before = self.flat.clone() if checks_gradients else None
            loss = super().run(batch, loss_of_hidden)
            state_after = torch.cuda.get_rng_state()
            torch.cuda.set_rng_state(random_state)
            if before is None:
                with torch.no_grad():
                    launched = self._launch(batch, loss_of_hidden)
            else:
                replayed = self.flat.clone()
                self.flat.copy_(before)
                again = super().run(batch, loss_of_hidden)
                found["unequal_replays"] += not (torch.equal(again, loss) and torch.equal(self.flat, replayed))
                self.flat.copy_(before)
                torch.cuda.set_rng_state(random_state)
                self._launch(batch, loss_of_hidden)
                once = self.flat.clone()
                self.flat.copy_(before)
                torch.cuda.set_rng_state(random_state)
                launched = self._launch(batch, loss_of_hidden)
                found["unequal_launches"] += not torch.equal(once, self.flat)
                size = (replayed - before).norm().clamp(min=1e-12)
                _note_largest(found, "largest_gradient_difference", float((self.flat - replayed).norm() / size))
                found["gradients_checked"] += 1
                self.flat.copy_(replayed)
            torch.cuda.set_rng_state(state_after)
            difference = abs(float(launched) - float(loss))
            found["passes"] += 1
            found["unequal_losses"] += difference != 0
            _note_largest(found, "largest_loss_difference", difference)
            return loss

        def _launch(self, batch: Batch, loss_of_hidden: Callable[[torch.Tensor, Batch], torch.Tensor]) -> torch.Tensor:
            """Repeat the pass from the same static inputs, launched kernel by kernel; the same kernels are chosen."""
            num_tokens = tensor_of(batch["input_ids"]).shape[1]
            recorded = self._sizes[Size.of_batch(batch)]
            with products_as_recorded():
                output = recorded._compute()
                hidden = output[:num_tokens].detach().requires_grad_(output.requires_grad)
                loss = loss_of_hidden(hidden, to_device(batch, self.loaded.device))
                if not output.requires_grad:
                    return loss
                loss.backward()
                grad = torch.zeros_like(output)
                grad[:num_tokens] = hidden.grad
                for total, one in zip(self.found_by_layers, recorded._differentiate(output, grad), strict=True):
                    if one is not None:
                        total += one
            return loss.detach()

    stepping.ReplayedPasses = CheckedPasses

    class StopInTime(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **more: object) -> None:
            if options.seconds and time.monotonic() - began > options.seconds:
                control.should_training_stop = True

    flags = ["--model", options.model, "--data", options.data, "--method", options.method, "--cuda_graphs"]
    flags += ["--neftune_noise_alpha", options.noise, "--max_steps", str(options.steps), "--backend", "transformers"]
    rate = "1e-3" if options.method in ("lora", "qlora") else "1e-4"
    flags += ["--max_seq_length", str(options.max_seq_length), "--learning_rate", rate, "--eval_steps", "250"]
    flags += ["--max_dropped", "0.5", "--eval_ratio", "0.04", "--system_prompt", "You are a helpful assistant."]
    settings = load_settings(TrainSettings, flags)
    rows = open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed)
    if "label" in rows.train[0]:  # scoring labels takes other paths through the model, between the steps
        settings = settings.model_copy(update={"metric_for_best_model": "eval_accuracy"})
    prepared = fit.prepare(settings, rows, settings.backend)
    report: dict[str, object] = {"data": Path(options.data).name, "method": options.method, "noise": options.noise}
    with tempfile.TemporaryDirectory() as folder:
        trainer = fit.build_trainer(settings, prepared, Path(folder), [StopInTime()], fit.tell_plan)
        fault = None
        try:
            trainer.train_from(None, prepared.num_steps)
            torch.cuda.synchronize()
        except RuntimeError as error:  # the card gave up: what was found so far is still worth telling
            fault = one_line(error, 120)
    if trainer.passes is None and not fault:  # from then on nothing was checked
        fault = "recordings were given up" if found["passes"] else "nothing was recorded"
    validation = [
        {name: round(log[name], 4) for name in ("eval_loss", "eval_accuracy") if name in log}
        for log in trainer.state.log_history
        if "eval_loss" in log
    ]
    took = round(time.monotonic() - began, 1)
    report |= {"steps": trainer.state.global_step, "fault": fault, **found}
    return report | {"validation": validation, "duration_s": took}


def _note_largest(found: dict[str, float], name: str, value: float) -> None:
    found[name] = max(found[name], value)


if __name__ == "__main__":
    sys.exit(main())
