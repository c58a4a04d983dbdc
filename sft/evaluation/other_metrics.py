"""--metric: any metric of Hugging Face's `evaluate`, by name or by the path of its folder or file.

A metric whose predictions are text is given the generated answers of the rows that ROUGE is taken over; one whose
predictions are numbers the classes of the label rows, as their places among the classes, and one place more for an
answer that is none of them.

A name is looked up on the hub, and its code is run: name only what you trust. A path needs no hub.

    metric = load_metric("metrics/exact_match")
    metric.summarise(rows, texts, outcomes)      # {"figures": {"exact_match": 0.5}, "num_rows": 10, ...}
"""

import atexit
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypedDict

from sft.errors import ConfigError, one_line
from sft.evaluation.hf_evaluate import load_hf_evaluate
from sft.evaluation.model_answers import Outcome, classes_of, text_places
from sft.evaluation.rows import EvalRow


class OtherFigures(TypedDict):
    """The result of one metric. figures: its numbers by name; a list of one number per row is reported as its mean.

    left_out: names of results that are no numbers.
    """

    figures: dict[str, float | None]
    left_out: list[str]
    num_rows: int
    over: Literal["texts", "labels"]
    signature: str


@dataclass(frozen=True)
class OtherMetric:
    """A loaded metric under its requested name."""

    name: str
    module: Any  # evaluate.EvaluationModule, which carries no types

    def summarise(self, rows: Sequence[EvalRow], texts: Sequence[str], outcomes: Sequence[Outcome]) -> OtherFigures:
        """Its figures over the rows it applies to. Raises ConfigError if it cannot be computed of them."""
        takes_numbers, wraps = _read_features(self.module)
        if takes_numbers:
            places = [place for place, outcome in enumerate(outcomes) if outcome.reference is not None]
            classes = classes_of([rows[place] for place in places])
            given: list[object] = [_number_of(outcomes[place].generated, classes) for place in places]
            wanted: list[object] = [_number_of(outcomes[place].reference, classes) for place in places]
        else:
            places = text_places(rows, asked=True)
            given = [texts[place] for place in places]
            wanted = [rows[place].reference for place in places]
        if not places:
            raise ConfigError(
                f"--metric {self.name}: it compares numbers, and none of the rows has labels; leave it out"
            )
        result = self._compute(given, [[reference] for reference in wanted] if wraps else wanted)
        figures = {name: found for name, value in result.items() if (found := _read_figure(value)) is not _NO_FIGURE}
        return {
            "figures": {str(name): value for name, value in figures.items()},
            "left_out": sorted(str(name) for name in set(result) - set(figures)),
            "num_rows": len(places),
            "over": "labels" if takes_numbers else "texts",
            "signature": f"evaluate:{version('evaluate')}|{self.module.name}",
        }

    def _compute(self, predictions: list[object], references: list[object]) -> Mapping[str, object]:
        try:
            found = self.module.compute(predictions=predictions, references=references)
        except Exception as error:  # any code may be in a metric; the user has to know that it was this one
            raise ConfigError(f"--metric {self.name}: it failed ({_reason(error)}); fix it or leave it out") from error
        return found if isinstance(found, Mapping) else {self.name: found}


HUB_NAME = re.compile(r"(?!.*\.py$)\w[\w.-]*(/[\w.-]+)?")  # bertscore, owner/name
_NO_FIGURE: Any = object()


def load_metric(name: str) -> OtherMetric:
    """The metric with this name, folder or .py file. Raises ConfigError if there is none."""
    evaluate = load_hf_evaluate()
    path = Path(name)
    is_local = name.strip() != "" and path.exists()
    if not is_local and not HUB_NAME.fullmatch(name):
        raise ConfigError(f"--metric {name!r}: no such file or folder; give the path of a metric, or a name on the hub")
    cache = tempfile.mkdtemp(prefix="metric-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    try:
        module = evaluate.load(name, cache_dir=cache, keep_in_memory=True)
    except ImportError as error:
        raise ConfigError(f"--metric {name}: {_reason(error)}") from None
    except Exception as error:  # its loader passes on errors of the network, the disk and the metric's code
        hub = "give the path of a metric's folder, or a name on the hub where it can be reached"
        code = path if path.suffix == ".py" else path / f"{path.resolve().name}.py"
        advice = f"{code} has to hold a class of evaluate.Metric" if is_local else hub
        raise ConfigError(f"--metric {name}: cannot be loaded ({_reason(error)}); {advice}") from None
    return OtherMetric(name, module)


def _read_features(module: Any) -> tuple[bool, bool]:
    """Whether the metric compares numbers, and whether it wants a list of references for each prediction."""
    features = module.features
    first = features[0] if isinstance(features, list) else features  # several layouts: the first one serves
    prediction, reference = first["predictions"], first["references"]
    takes_numbers = getattr(prediction, "dtype", "string").startswith(("int", "uint", "float"))
    return takes_numbers, not hasattr(reference, "dtype") or getattr(reference, "dtype", "") == "list"


def _number_of(label: str | None, classes: Sequence[str]) -> int:
    return len(classes) if label is None else classes.index(label)


def _read_figure(value: object) -> float | None:
    """A number, the mean of a list of numbers, None for one that is not finite; else _NO_FIGURE."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        value = sum(value) / len(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NO_FIGURE
    return float(value) if math.isfinite(value) else None


def _reason(error: Exception) -> str:
    return one_line(error, 300) or type(error).__name__
