"""Score a run on rows it was not trained on, beside the model it was tuned from.

Reads the run folder (model, prompt, data, split) and writes metrics.json, predictions.jsonl, report.html and report.md
into its folder evaluation/. The verdict says in words whether tuning helped. Interrupted, it continues where it was.

    python evaluate.py --run outputs/demo --rouge
    python evaluate.py --baseline outputs/earlier --fail_if 'comparison.outcome == "hurt"'      # exit code 1
"""

import sys

from sft.config.conditions import parse_condition
from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.console import run_command, say, to_json
from sft.console.commands import EXIT_FAILED
from sft.console.narration import show_path
from sft.files import held, lock_of
from sft.runs.run import Run


def main(argv: list[str] | None = None) -> None:
    settings = load_settings(EvaluateSettings, argv)
    from sft.models.adopted import open_tuned

    run = open_tuned(settings)
    busy = f"{show_path(run.path)}: another evaluation of this run is running"
    with held(lock_of(run.evaluation_dir), busy, "wait for it to end"):
        evaluate(run, settings)


def evaluate(run: Run, settings: EvaluateSettings) -> None:
    """Measure, write the folder, print the result; ends with exit code 1 where the condition of --fail_if holds."""
    from sft.evaluation import Metrics, evaluate_run, write_evaluation  # heavy: after --help, and after a run was found
    from sft.evaluation.companions import copy_comparison
    from sft.report import render_table, write_reports

    condition = parse_condition(settings.fail_if) if settings.fail_if else None
    if condition:
        condition.check_names(Metrics, settings.not_measured)  # told now, not after the measurements
    settings.announce()
    evaluation = evaluate_run(run, settings)
    write_reports(evaluation, run.evaluation_dir, language=settings.lang)
    write_evaluation(evaluation, run.evaluation_dir)
    if settings.output_file is not None:
        copy_comparison(run.evaluation_dir, settings.output_file)
    print(to_json(evaluation.metrics, indent=2) if settings.json_output else render_table(evaluation.metrics))
    say(f"written: {show_path(run.evaluation_dir)}/{', '.join(evaluation.metrics['artifacts'].values())}")
    if condition and condition.holds(evaluation.metrics):
        say(f"failed: {condition.text} ({condition.values(evaluation.metrics)})")
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    run_command(main)
