"""Fine-tune a chat model on a dataset folder or a file of rows.

Reads data/<name>/ or any single file. Writes outputs/<date>-<recipe>/: adapter, run.json, log.jsonl, loss.png.
    python train.py --config recipes/demo.yaml
    python train.py --model Qwen/Qwen2.5-7B-Instruct --data my_rows.jsonl --use_qlora
    python train.py --config recipes/demo.yaml --dry_run
    python train.py --output_dir outputs/demo --resume_from_checkpoint auto
"""

import shlex
import sys
from contextlib import redirect_stdout

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.console import run_command, say, to_json
from sft.console.narration import show_path
from sft.console.terminal import show_figure
from sft.runs.checkpoints import run_to_continue
from sft.runs.run import RUN_FILE


def main(argv: list[str] | None = None) -> None:
    """Parse the settings, train, and print the run folder."""
    settings = load_settings(TrainSettings, argv)
    if run := run_to_continue(settings):  # its own settings apply unless overridden
        settings = load_settings(TrainSettings, argv, below=(show_path(run.path / RUN_FILE), run.began_with()))
    elif settings.init_adapter is not None:
        from sft.models.adopted import keep_shape, list_inherited

        inherited = list_inherited(settings)
        settings = load_settings(TrainSettings, argv, below=(settings.init_adapter, inherited))
        settings = keep_shape(settings, inherited)

    from prompts.tasks import get_task
    from sft.backend import choose_backend
    from sft.data import open_dataset_of
    from sft.models.source import AUTO, EMBEDDED, find_source

    dataset = open_dataset_of(settings)
    if settings.model not in (AUTO, EMBEDDED):  # those import torch, and unsloth has to come before transformers
        find_source(settings.model, settings.revision)  # a missing model is reported now, not after seconds of imports
    settings.announce()
    with redirect_stdout(sys.stderr):  # where unsloth and deepspeed print their greetings; stdout is for the result
        backend = choose_backend(settings.backend, settings)  # imports unsloth, which has to come before transformers
        from sft.training.fit import fit
        from sft.training.processes import is_first

        result = fit(settings, dataset, backend=backend)
    if not is_first():
        return
    if settings.json_output:
        print(to_json({"run": str(result.run_dir) if result.run_dir else None, **result.metrics}))
        return
    for name, value in result.metrics.items():
        if value is not None:
            print(f"{name}: {show_figure(value)}")
    if result.run_dir:
        print(f"run: {result.run_dir}")
        folder = shlex.quote(show_path(result.run_dir))
        rouge = " --rouge" if any(get_task(row["task"]).kind == "text" for row in dataset.train) else ""  # of free text
        talk = "inference.py" if settings.is_classifier else "chat.py"
        say(f"next: python evaluate.py{rouge} --run {folder}, or python {talk} --run {folder}")


if __name__ == "__main__":
    run_command(main)
