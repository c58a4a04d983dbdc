"""What a run is compared with: the model it was tuned from, another run, or any other model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompts import Head
from sft.config.evaluate import BASE, EvaluateSettings
from sft.config.train import TrainSettings
from sft.errors import ConfigError
from sft.models.head import read_head
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_run
from sft.models.source import describe_weights, find_source
from sft.runs import RUN_FILE, Run, open_run


@dataclass(frozen=True)
class Baseline:
    """kind "base" is the run's own model with the adapter off; `run` is set for kind "run" alone.

    identity: hashes of the weights, so that answers of one are never taken for another's.
    """

    kind: Literal["base", "run", "model"]
    name: str
    identity: str
    run: Run | None = None

    @property
    def head(self) -> Head | None:
        """The classification head of another run; None of anything else."""
        return read_head(self.run.weights_dir) if self.run else None


def choose_classes(run: Run, baseline: Baseline | None) -> Head | None:
    """The head whose classes both sides choose among, since one of them can do nothing else; None where both write."""
    return read_head(run.weights_dir) or (baseline.head if baseline else None)


def find_baseline(run: Run, settings: EvaluateSettings) -> Baseline | None:
    """What --baseline names, before anything is loaded; None with --no-baseline.

    Raises RunError, ModelError or ConfigError for what cannot be compared with.
    """
    if not settings.has_baseline:
        return None
    if settings.baseline == BASE:
        return Baseline("base", run.base["name"], run.base.get("weights", ""))
    if (Path(settings.baseline) / RUN_FILE).is_file():
        other = open_run(settings.baseline)
        if other.path == run.path:
            raise ConfigError(f"--baseline {settings.baseline}: is the run itself; name another run or a model")
        return Baseline("run", other.path.name, f"{other.adapter} on {other.base.get('weights', '')}", other)
    source = find_source(settings.baseline)
    return Baseline("model", settings.baseline, describe_weights(source.folder))


def load_baseline(
    baseline: Baseline, run: Run, settings: EvaluateSettings
) -> tuple[LoadedModel, str | None, TrainSettings]:
    """The other model with the system prompt and the settings its rows are encoded by.

    Another run brings its own, as it was trained; a plain model gets those of the run it is compared with.
    """
    if baseline.run is not None:
        trusted = settings.trust_remote_code
        loaded = load_run(baseline.run, allow_mismatch=settings.allow_mismatch, trust_remote_code=trusted)
        return loaded, baseline.run.system_prompt, baseline.run.train_settings()
    trained = run.train_settings()
    loaded = load_base(
        settings.baseline,
        trained_in=trained.dtype,
        think=trained.think,
        trust_remote_code=settings.trust_remote_code,
    )
    return loaded, run.system_prompt, trained
