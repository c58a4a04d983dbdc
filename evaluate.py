"""Score a run on rows it was not trained on, beside the model it was tuned from.

Reads the run folder (model, prompt, data, split) and writes metrics.json, predictions.jsonl and report.html into its
folder evaluation/. The verdict says in words whether tuning helped.

    python evaluate.py --run outputs/demo --rouge
"""

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.console import run_command, say, to_json
from sft.runs import open_run


def main(argv: list[str] | None = None) -> None:
    settings = load_settings(EvaluateSettings, argv)
    for line in settings.describe():
        say(line)
    run = open_run(settings.run)

    from sft.evaluation import evaluate_run, write_evaluation  # heavy: after --help, and after a run was found
    from sft.report import render_table, write_report

    evaluation = evaluate_run(run, settings)
    write_report(evaluation, run.evaluation_dir / "report.html")
    write_evaluation(evaluation, run.evaluation_dir)
    print(to_json(evaluation.metrics, indent=2) if settings.json_output else render_table(evaluation.metrics))
    say(f"written: {run.evaluation_dir}/metrics.json, predictions.jsonl, report.html")


if __name__ == "__main__":
    run_command(main)
