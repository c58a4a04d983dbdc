"""The part of an evaluation that needs models in memory: one after the other, on the same rows."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from prompts import ChatFormat
from sft.config.evaluate import EvaluateSettings
from sft.console import say
from sft.errors import RunError
from sft.evaluation.answers import Asking, answer_rows, plan_budgets
from sft.evaluation.baseline import Baseline, choose_classes, load_baseline
from sft.evaluation.figures import count_supervised_bytes
from sft.evaluation.journal import Journal, Side, hash_of
from sft.evaluation.outcomes import Measured, read_outcomes, text_places
from sft.evaluation.probes import Probes, probe_model
from sft.evaluation.room import plan_room
from sft.evaluation.rows import EvalRow, prepare_rows
from sft.evaluation.subsets import take_rows
from sft.generation.backends import Writer, open_writer
from sft.models.loaded import LoadedModel
from sft.runs import Run, package_versions


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
        """The same for the rows at these places."""
        return replace(
            self,
            rows=[self.rows[place] for place in places],
            tuned=take_rows(self.tuned, places),
            base=take_rows(self.base, places) if self.base else None,
            num_bytes=[self.num_bytes[place] for place in places] if self.num_bytes else None,
        )


def open_journal(
    run: Run,
    settings: EvaluateSettings,
    loaded: LoadedModel,
    rows: Sequence[EvalRow],
    budgets: dict[str, int],
    seed: int,
    baseline: Baseline | None,
) -> Journal:
    """The journal of this evaluation, with what an interrupted one of the same settings left in it."""
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
    if baseline is not None:  # what is generated first does not depend on it
        depends_on["baseline"] = f"{baseline.name}, {baseline.identity}"
    try:
        return Journal(run.evaluation_dir, depends_on)
    except OSError as error:
        raise RunError(
            f"{run.evaluation_dir}: cannot be written to ({error.strerror}); free it, or copy the run"
        ) from None


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
    writer = None if head else open_writer(settings.generator, loaded, run.adapter_dir, room)
    asking = Asking(writer, settings.decoding, seed, room.tokens, journal)
    tuned = _measure(loaded, rows, budgets, "tuned", asking, rouge=settings.rouge)
    probes = probe_model(run, settings, loaded, rows, tuned, seed=seed, max_tokens=room.tokens)
    if baseline is None:
        return Measurements(rows, tuned, probes=probes)
    if baseline.kind == "base":
        with loaded.adapter_off() as untuned:  # another model in memory, where the run has no adapter to switch off
            without: Writer | None = None
            if writer is not None:
                is_beside = untuned is not loaded
                without = (
                    open_writer(settings.generator, untuned, None, room) if is_beside else writer.without_adapter()
                )
            asking = replace(asking, writer=without)
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
    its_adapter = baseline.run.adapter_dir if baseline.run else None
    writer = None if head else open_writer(settings.generator, other, its_adapter, room)
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
    from sft.hf_rouge import rouge_of_rows  # imports HF's evaluate: only where it is asked for

    places = text_places(rows, asked=True)
    scores = rouge_of_rows([rows[place].reference for place in places], [texts[place] for place in places])
    rouge: dict[str, list[float | None]] = {name: [None] * len(rows) for name in scores}
    for name, values in scores.items():
        for place, value in zip(places, values, strict=True):
            rouge[name][place] = value
    return rouge
