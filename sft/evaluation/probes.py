"""What the tuned model is asked beyond the rows, while it is in memory: rewritten rows, hard cases, validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.evaluation.context import Context
from sft.evaluation.label_figures import FittedTemperature
from sft.evaluation.outcomes import Measured
from sft.evaluation.robustness import Robustness, measure_robustness
from sft.evaluation.rows import EvalRow
from sft.evaluation.temperatures import fit_temperatures
from sft.models.loaded import LoadedModel
from sft.runs import Run


@dataclass(frozen=True)
class Probes:
    """What was asked for of --robustness and --calibrate, and applies."""

    robustness: Robustness | None = None
    temperatures: dict[str, FittedTemperature] = field(default_factory=dict)


def probe_model(
    run: Run, settings: EvaluateSettings, loaded: LoadedModel, rows: Sequence[EvalRow], measured: Measured,
    *, seed: int, max_tokens: int,
) -> Probes:  # fmt: skip
    """Ask what the settings want. Without label rows there is nothing to ask, and that is said."""
    if not (settings.robustness or settings.calibrate):
        return Probes()
    if not any(row.labels for row in rows):
        say("--robustness and --calibrate are about label tasks, of which these rows hold none: left out")
        return Probes()
    trained = run.train_settings()
    max_length = min(settings.max_seq_length or trained.max_seq_length, loaded.max_context)
    context = Context(run.system_prompt, trained, max_length, max_tokens)
    robustness, temperatures = None, {}
    if settings.robustness:
        num_rows = settings.robustness_rows
        robustness = measure_robustness(loaded, rows, measured, context, num_rows=num_rows, seed=seed)
    if settings.calibrate:
        temperatures = fit_temperatures(run, loaded, context, {row.row["id"] for row in rows}, seed=seed)
    return Probes(robustness, temperatures)
