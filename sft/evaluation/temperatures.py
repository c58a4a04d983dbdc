"""--calibrate: a temperature for each label task, fitted on the validation rows of the run's own data.

Never on the rows that are evaluated: fitted and judged on the same rows it would flatter itself.
"""

from collections.abc import Collection
from pathlib import Path

from sft.console import say
from sft.data import open_dataset
from sft.evaluation.context import Context
from sft.evaluation.label_figures import FittedTemperature, label_places
from sft.evaluation.rows import prepare_rows, sample_by_task
from sft.label_scoring import score_labels
from sft.metrics.temperature import fit_temperature
from sft.models.loaded import LoadedModel
from sft.runs import Run

MAX_ROWS = 500  # one number is fitted; more rows take time and move it in the third digit
FEW_ROWS = 100
SPLIT = "validation"


def fit_temperatures(
    run: Run, loaded: LoadedModel, context: Context, evaluated: Collection[str], *, seed: int
) -> dict[str, FittedTemperature]:
    """Task -> its temperature: {"sentiment": FittedTemperature(1.7, "validation", 240)}.

    evaluated: ids of the rows the figures are taken over. Where they are the validation rows themselves, or there are
    none, nothing is fitted, and it is said.
    """
    trained = context.trained
    dataset = open_dataset(Path(str(run.data["path"])), eval_ratio=trained.eval_ratio, seed=trained.split_seed)
    fresh = [row for row in dataset.validation if row["id"] not in evaluated]
    if len(fresh) < len(dataset.validation) or not fresh:
        say(
            "no temperature is fitted: the rows evaluated are the validation rows, and it would flatter itself on "
            "them; build the data with a test split"
        )
        return {}
    rows = sample_by_task(fresh, MAX_ROWS, seed)
    prepared = prepare_rows(rows, loaded.chat, context.system_prompt, trained, context.max_length).rows
    fitted: dict[str, FittedTemperature] = {}
    for task, places in label_places(prepared).items():
        part = [prepared[place] for place in places]
        prompts, labels = [row.prompt_ids for row in part], [row.labels for row in part]
        scores = score_labels(
            loaded, prompts, labels, description=f"tuned: {task}, temperature", max_tokens=context.max_tokens
        )
        right = [row.labels.index(row.reference) for row in part]
        if len(part) < FEW_ROWS:
            say(f"the temperature of {task} rests on {len(part)} validation rows: too few to trust beyond these")
        fitted[task] = FittedTemperature(fit_temperature(scores, right), SPLIT, len(part))
    return fitted
