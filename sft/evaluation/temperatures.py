"""--calibrate: a temperature for each label task, fitted on the validation rows of the run's own data.

Never on the rows that are evaluated: fitted and judged on the same rows it would flatter itself.
"""

from collections.abc import Collection

from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.data import Row
from sft.errors import DataError
from sft.evaluation.answers import score_labelled
from sft.evaluation.context import Context
from sft.evaluation.label_figures import FittedTemperature, label_places
from sft.evaluation.rows import sample_by_task, select_rows
from sft.metrics.temperature import fit_temperature
from sft.models.loaded import LoadedModel
from sft.runs import Run

MAX_ROWS = 500  # one number is fitted; more rows take time and move it in the third digit
FEW_ROWS = 100
SPLIT = "validation"


def fit_temperatures(
    run: Run,
    settings: EvaluateSettings,
    loaded: LoadedModel,
    context: Context,
    evaluated: Collection[str],
    *,
    seed: int,
) -> dict[str, FittedTemperature]:
    """Task -> its temperature: {"sentiment": FittedTemperature(1.7, "validation", 240)}.

    evaluated: ids of the rows the figures are taken over. Where they are the validation rows themselves, or there are
    none, nothing is fitted, and it is said.
    """
    try:
        validation = _read_validation_rows(run, settings)
    except DataError as error:
        say(f"no temperature is fitted: {error}")
        return {}
    fresh = [row for row in validation if row["id"] not in evaluated]
    if len(fresh) < len(validation):
        say(
            "no temperature is fitted: the rows evaluated are the validation rows, and it would flatter itself on "
            "them; build the data with a test split"
        )
        return {}
    rows = sample_by_task(fresh, MAX_ROWS, seed)
    prepared = context.prepare(rows, loaded)
    fitted: dict[str, FittedTemperature] = {}
    for task, places in label_places(prepared).items():
        part = [prepared[place] for place in places]
        scores = score_labelled(loaded, part, description=f"tuned: {task}, temperature", max_tokens=context.max_tokens)
        right = [row.labels.index(row.reference) for row in part]
        if len(part) < FEW_ROWS:
            say(f"the temperature of {task} rests on {len(part)} validation rows: too few to trust beyond these")
        fitted[task] = FittedTemperature(fit_temperature(scores, right), SPLIT, len(part))
    return fitted


def _read_validation_rows(run: Run, settings: EvaluateSettings) -> list[Row]:
    """All validation rows of the run's own data, read as its evaluation would read them. Raises DataError."""
    own = {"data": None, "split": SPLIT, "num_samples": None, "eval_ratio": None, "seed": None, "leak_check": False}
    return select_rows(run, settings.model_copy(update=own)).rows
