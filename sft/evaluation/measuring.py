"""The part of an evaluation that needs models in memory: the tuned model, then its baseline, on the same rows.

    found = measure_models(run, settings, loaded, rows, budgets, seed, find_baseline(run, settings), journal)
    found.tuned.answers, found.base      # answers of the tuned model; those of its baseline, or None

While the tuned model is loaded it also answers the probes: rewritten rows, hard cases, validation rows. The baseline is
the model the run was tuned from, another run, or any other model. An evaluation never takes more memory than the
training of its run did: what training held beside the weights (activations for the backward pass, gradients, the
optimizer's state) is divided between a forward pass, which keeps nothing, and the keys and values of answers being
generated.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PretrainedConfig

from prompts import ChatFormat, Head
from sft.batches import GIBIBYTE
from sft.config.evaluate import BASE, EvaluateSettings
from sft.config.layers import restore_settings
from sft.config.train import TrainSettings
from sft.config.tuned import TunedSettings
from sft.console import say
from sft.errors import ConfigError, RunError
from sft.evaluation.figures import FittedTemperature, count_supervised_bytes
from sft.evaluation.journal import Journal, Side, hash_of
from sft.evaluation.model_answers import (
    Asking,
    Measured,
    answer_rows,
    plan_budgets,
    read_outcomes,
    take_rows,
    text_places,
)
from sft.evaluation.probes import (
    ForgettingFigures,
    Robustness,
    fit_temperatures,
    measure_forgetting,
    measure_robustness,
)
from sft.evaluation.rows import Context, EvalRow, prepare_rows
from sft.generation.batch import Room, usual_room
from sft.generation.writers import open_writer
from sft.models.adopted import open_tuned
from sft.models.head import read_head
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_run
from sft.models.source import ADAPTER_CONFIG, describe_weights, find_source
from sft.runs.run import RUN_FILE, Run, package_versions

ON_CPU = Room(tokens=1024, cache_bytes=2**27)  # 5,800 tokens of SmolLM2-135M in bf16
FEWEST_TOKENS = 256
LEAST_CACHE_BYTES = 2**26


@dataclass(frozen=True)
class Probes:
    """The results of --robustness and --calibrate, if requested and applicable."""

    robustness: Robustness | None = None
    forgetting: ForgettingFigures | None = None
    temperatures: dict[str, FittedTemperature] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """Both models' measurements of the same rows.

    base_chat and num_bytes (of each row's supervised text) are there where the baseline has a tokenizer of its own.
    """

    rows: list[EvalRow]
    tuned: Measured
    base: Measured | None = None
    base_chat: ChatFormat | None = None
    num_bytes: list[int] | None = None
    probes: Probes = field(default_factory=Probes)

    def take(self, places: Sequence[int]) -> "Measurements":
        """These measurements for the rows at these indices."""
        return replace(
            self,
            rows=[self.rows[place] for place in places],
            tuned=take_rows(self.tuned, places),
            base=take_rows(self.base, places) if self.base else None,
            num_bytes=[self.num_bytes[place] for place in places] if self.num_bytes else None,
        )


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


def open_journal(
    run: Run,
    settings: EvaluateSettings,
    loaded: LoadedModel,
    rows: Sequence[EvalRow],
    budgets: dict[str, int],
    seed: int,
    baseline: Baseline | None,
) -> Journal:
    """The journal of this evaluation, with the answers of an interrupted one with the same settings."""
    depends_on = {
        "adapter": f"{run.adapter} on {run.base.get('weights', '')}",
        "prompts": hash_of([row.prompt_ids for row in rows]),
        "answer lengths": json.dumps(budgets, ensure_ascii=False),
        "decoding": f"{settings.decoding}, seed {seed}" if settings.decoding != "precise" else "greedy",
        "generator": settings.generator,
        "machine": f"{loaded.device.type}, {loaded.precision}",
        "batches": f"{plan_room(run, loaded)}",
        "versions": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
    }
    if baseline is not None:  # the first answers do not depend on it
        depends_on["baseline"] = f"{baseline.name}, {baseline.identity}"
    try:
        return Journal(run.evaluation_dir, depends_on)
    except OSError as error:
        raise RunError(
            f"{run.evaluation_dir}: cannot be written to ({error.strerror}); free it, or copy the run"
        ) from None


def find_baseline(run: Run, settings: EvaluateSettings) -> Baseline | None:
    """What --baseline names, before anything is loaded; None with --no-baseline.

    Raises RunError, ModelError or ConfigError for what cannot be compared with.
    """
    if not settings.has_baseline:
        return None
    if settings.baseline == BASE and not run.has_base:
        say(f"{run.path.name}: its base is unknown, so there is no comparison; name it with --base")
        return None
    if settings.baseline == BASE:
        return Baseline("base", run.base["name"], run.base.get("weights", ""))
    if any((Path(settings.baseline) / name).is_file() for name in (RUN_FILE, ADAPTER_CONFIG)):
        other = open_tuned(restore_settings(TunedSettings, {"run": settings.baseline}, "--baseline"))
        if other.path == run.path:
            raise ConfigError(f"--baseline {settings.baseline}: is the run itself; name another run or a model")
        return Baseline("run", other.path.name, f"{other.adapter} on {other.base.get('weights', '')}", other)
    source = find_source(settings.baseline)
    return Baseline("model", settings.baseline, describe_weights(source.folder))


def measure_models(
    run: Run,
    settings: EvaluateSettings,
    loaded: LoadedModel,
    rows: list[EvalRow],
    budgets: dict[str, int],
    seed: int,
    baseline: Baseline | None,
    journal: Journal,
) -> Measurements:
    """The tuned model first, then what it is compared with; two models are never in memory at once."""
    room = plan_room(run, loaded)
    trained, head = run.train_settings(), choose_classes(run, baseline)
    writer = None if head else open_writer(settings.generator, loaded, run.weights_dir, room)
    asking = Asking(writer, settings.decoding, seed, room.tokens, journal)
    tuned = _measure(loaded, rows, budgets, "tuned", asking, rouge=settings.rouge)
    probes = probe_model(run, settings, loaded, rows, tuned, seed=seed, max_tokens=room.tokens)
    if baseline is None:
        return Measurements(rows, tuned, probes=probes)
    if baseline.kind == "base":
        with loaded.adapter_off() as untuned:  # another model in memory, where the run has no adapter to switch off
            if writer is not None:
                writer = writer.without_adapter() if untuned is loaded else None
                asking = replace(asking, writer=None)  # gives the memory of another program back
                writer = writer or open_writer(settings.generator, untuned, None, room)
            asking = replace(asking, writer=writer)
            base = _measure(untuned, rows, budgets, "base", asking, rouge=settings.rouge)
            return Measurements(rows, tuned, base, probes=probes)
    num_bytes = [count_supervised_bytes(row, loaded.chat) for row in rows]
    _unload(loaded)
    del asking, writer
    other, system_prompt, its_settings = load_baseline(baseline, run, settings)
    max_length = min(settings.max_seq_length or trained.max_seq_length, other.max_context)
    its_head = head and (other.head or head)
    distinct = list({str(row.row["id"]): row.row for row in rows}.values())
    prepared = prepare_rows(
        distinct, other.chat, system_prompt, its_settings, max_length, its_head, turns=settings.turns
    )
    measured = Measurements(rows, tuned, num_bytes=num_bytes, probes=probes)
    if prepared.too_long:
        say(f"{len(prepared.too_long):,} rows do not fit {baseline.name}: both are measured on the others")
        measured = measured.take([place for place, row in enumerate(rows) if row.row["id"] not in prepared.too_long])
    room = plan_room(run, other)
    its_weights = baseline.run.weights_dir if baseline.run else None
    writer = None if head else open_writer(settings.generator, other, its_weights, room)
    asking = Asking(writer, settings.decoding, seed, room.tokens, journal)
    its_budgets = {} if head else plan_budgets(prepared.rows, other, settings.max_new_tokens)
    base = _measure(other, prepared.rows, its_budgets, "base", asking, rouge=settings.rouge)
    same_tokens = base.answers.num_tokens == measured.tuned.answers.num_tokens
    return replace(measured, base=base, base_chat=other.chat, num_bytes=None if same_tokens else measured.num_bytes)


def _measure(
    loaded: LoadedModel, rows: Sequence[EvalRow], budgets: dict[str, int], name: Side, asking: Asking, *, rouge: bool
) -> Measured:
    answers = answer_rows(loaded, rows, budgets, name, asking=asking)
    outcomes = read_outcomes(rows, answers, loaded.chat)
    return Measured(answers, outcomes, _score_rouge(rows, answers.texts) if rouge else None)


def _unload(loaded: LoadedModel) -> None:
    """Give the memory of a model back; its prompt format stays usable."""
    del loaded.model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score_rouge(rows: Sequence[EvalRow], texts: Sequence[str]) -> dict[str, list[float | None]]:
    """ROUGE of the rows that text metrics are taken over."""
    from sft.evaluation.hf_rouge import rouge_of_rows  # imports HF's evaluate, so only on request

    places = text_places(rows, asked=True)
    scores = rouge_of_rows([rows[place].reference for place in places], [texts[place] for place in places])
    rouge: dict[str, list[float | None]] = {name: [None] * len(rows) for name in scores}
    for name, values in scores.items():
        for place, value in zip(places, values, strict=True):
            rouge[name][place] = value
    return rouge


def probe_model(
    run: Run, settings: EvaluateSettings, loaded: LoadedModel, rows: Sequence[EvalRow], measured: Measured,
    *, seed: int, max_tokens: int,
) -> Probes:  # fmt: skip
    """Measure what the settings request. Without label rows there is nothing to measure, and a line says so."""
    trained = run.train_settings()
    max_length = min(settings.max_seq_length or trained.max_seq_length, loaded.max_context)
    probes = Probes()
    if settings.forgetting:
        found = measure_forgetting(loaded, run, seed=seed, max_tokens=max_tokens)
        probes = Probes(forgetting=found)
    if not (settings.robustness or settings.calibrate):
        return probes
    if not any(row.labels for row in rows):
        say("--robustness and --calibrate need label tasks, and these rows have none: left out")
        return probes
    context = Context(run.system_prompt, trained, max_length, max_tokens)
    if settings.robustness:
        num_rows = settings.robustness_rows
        found_robust = measure_robustness(loaded, rows, measured, context, num_rows=num_rows, seed=seed)
        probes = replace(probes, robustness=found_robust)
    if settings.calibrate:
        temperatures = fit_temperatures(run, settings, loaded, context, {row.row["id"] for row in rows}, seed=seed)
        probes = replace(probes, temperatures=temperatures)
    return probes


def plan_room(run: Run, loaded: LoadedModel) -> Room:
    """What a batch may take: on a GPU by the training's peak, on a CPU, where the libraries take most of it, little."""
    if loaded.device.type != "cuda":
        return ON_CPU
    usual, peak_gb = usual_room(loaded), run.metrics.get("peak_gb")
    if not isinstance(peak_gb, int | float):
        return usual
    beside = int(peak_gb * GIBIBYTE) - loaded.causal_lm.get_memory_footprint()
    return divide(beside, loaded.causal_lm.config, loaded.precision.dtype, usual)


def divide(beside_weights: int, config: PretrainedConfig, dtype: torch.dtype, usual: Room) -> Room:
    """Half of the bytes for a forward pass, half for keys and values; at most the usual, and enough to work with."""
    config, half = config.get_text_config(), beside_weights // 2
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # Activations of one layer: both halves of the gated MLP, their product, six states; twice that, for copies.
    bytes_a_token = 2 * dtype.itemsize * (3 * inner + 6 * config.hidden_size)
    return Room(
        min(usual.tokens, max(FEWEST_TOKENS, half // bytes_a_token)),
        min(usual.cache_bytes, max(LEAST_CACHE_BYTES, half)),
    )


def choose_classes(run: Run, baseline: Baseline | None) -> Head | None:
    """The head whose classes both sides choose among, if one of them has a head; None if both generate."""
    return read_head(run.weights_dir) or (baseline.head if baseline else None)


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
