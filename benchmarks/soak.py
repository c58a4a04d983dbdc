"""Are recorded passes right, step after step, beside other programs on the card?

Every micro-batch of a run is computed three times from the same weights and the same random state: replayed, replayed
again, and launched without a recording. Both replays have to agree to the last bit, and the replay with the launched
pass up to rounding. Validation and label scoring run in between as in any training. All combinations of data, method
and noise run one after the other, or with --together all at once: each is then the others' neighbour on the card.

    python -m benchmarks.soak --data reviews.jsonl,entities.jsonl --steps 2000
    python -m benchmarks.soak --data reviews.jsonl --method lora --noise 0 --together --busy 1

Prints a JSON line for each run; exit code 1 where one ended early, or where two replays of one step differed.
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

import torch

from sft.batches.layout import Batch, tensor_of, to_device
from sft.errors import one_line

ROOT = Path(__file__).resolve().parent.parent
BUSY = "import torch; a = torch.randn(4096, 4096, device='cuda', dtype=torch.bfloat16)\nwhile True:\n    a @ a"


def main() -> int:
    """Run every combination; 0 where all of them are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="files of rows, separated by commas")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--method", default="lora,qlora")
    parser.add_argument("--noise", default="0,5", help="NEFTune's alpha")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--together", action="store_true", help="all runs at once")
    parser.add_argument("--busy", type=int, default=0, help="so many processes beside them that multiply matrices")
    parser.add_argument("--seconds", type=int, help="end a run after so many seconds, however far it is")
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
            command += ["--seconds", str(options.seconds)] if options.seconds else []
            waiting.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            if not options.together:
                reports.append(_report(waiting.pop()))
        reports += [_report(process) for process in waiting]
    finally:
        for process in busy:
            process.kill()
    return int(any(report["fault"] or report["unequal_replays"] for report in reports))


def _report(process: "subprocess.Popen[str]") -> dict[str, object]:
    out, _ = process.communicate()
    report = json.loads(out.splitlines()[-1]) if process.returncode == 0 and out else {"fault": process.returncode}
    print(json.dumps(report), flush=True)
    return {"unequal_replays": 0, **report}


def soak(options: argparse.Namespace) -> dict[str, object]:
    """One run, every pass of it checked: {"steps": 2000, "fault": None, "unequal_replays": 0, ...}."""
    from transformers import TrainerCallback

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset
    from sft.training import fit
    from sft.training import trainer as stepping
    from sft.training.replay import ReplayedPasses, Size

    found = {"passes": 0, "unequal_replays": 0, "largest_loss_difference": 0.0, "largest_gradient_difference": 0.0}
    sum_of_differences = 0.0

    class CheckedPasses(ReplayedPasses):
        def run(self, batch: Batch, loss_of_hidden: Callable[[torch.Tensor, Batch], torch.Tensor]) -> torch.Tensor:
            nonlocal sum_of_differences
            before, random_state = self.flat.clone(), torch.cuda.get_rng_state()
            loss = super().run(batch, loss_of_hidden)
            replayed = self.flat.clone()
            self._start_over(before, random_state)
            again = super().run(batch, loss_of_hidden)
            found["unequal_replays"] += not (torch.equal(again, loss) and torch.equal(self.flat, replayed))
            self._start_over(before, random_state)
            difference = abs(float(self._launch(batch, loss_of_hidden) - loss))
            gradient = float((self.flat - replayed).norm() / (replayed - before).norm().clamp(min=1e-12))
            self.flat.copy_(replayed)
            found["passes"] += 1
            sum_of_differences += difference
            found["largest_loss_difference"] = max(found["largest_loss_difference"], difference)
            found["largest_gradient_difference"] = max(found["largest_gradient_difference"], gradient)
            return loss

        def _start_over(self, gradients: torch.Tensor, random_state: torch.Tensor) -> None:
            self.flat.copy_(gradients)
            torch.cuda.set_rng_state(random_state)

        def _launch(self, batch: Batch, loss_of_hidden: Callable[[torch.Tensor, Batch], torch.Tensor]) -> torch.Tensor:
            """The same pass from the same static inputs, launched kernel by kernel."""
            num_tokens = tensor_of(batch["input_ids"]).shape[1]
            recorded = self._sizes[Size.of_batch(batch)]
            output = recorded._compute()
            hidden = output[:num_tokens].detach().requires_grad_()
            loss = loss_of_hidden(hidden, to_device(batch, self.loaded.device))
            loss.backward()
            grad = torch.zeros_like(output)
            grad[:num_tokens] = hidden.grad
            for total, one in zip(self.found_by_layers, recorded._differentiate(output, grad), strict=True):
                if one is not None:
                    total += one
            return loss.detach()

    stepping.ReplayedPasses = CheckedPasses
    began = time.monotonic()

    class StopInTime(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **more: object) -> None:
            if options.seconds and time.monotonic() - began > options.seconds:
                control.should_training_stop = True

    flags = ["--model", options.model, "--data", options.data, "--method", options.method, "--cuda_graphs"]
    flags += ["--neftune_noise_alpha", options.noise, "--max_steps", str(options.steps), "--backend", "transformers"]
    flags += ["--max_seq_length", str(options.max_seq_length), "--learning_rate", "1e-3", "--eval_steps", "250"]
    flags += ["--eval_ratio", "0.02", "--system_prompt", "You are a helpful assistant."]
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
    if not found["passes"] and not fault:
        fault = "nothing was recorded"
    mean = sum_of_differences / max(1, found["passes"])
    took = time.monotonic() - began
    return (
        report
        | {"steps": trainer.state.global_step, "fault": fault}
        | found
        | {"mean_loss_difference": mean, "duration_s": round(took, 1)}
    )


if __name__ == "__main__":
    sys.exit(main())
