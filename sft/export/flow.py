"""A whole export: load, compare, merge, convert, compare again, and only then rename to the final folder.

result = export_run(run, settings)      # {"merged": {...}, "gguf": {"q8_0": {...}}}, as in export.json
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prompts import ChatFormat, conversation_of
from sft.config.evaluate import EvaluateSettings
from sft.config.export import ExportSettings, GgufType
from sft.console import say
from sft.data import Row
from sft.errors import RunError, one_line
from sft.evaluation.rows import EvalRow, prepare_rows, select_rows
from sft.export.agreement import Agreement, Limits, Probe, compare, probe
from sft.export.card import CARD_FILE, build_card
from sft.export.gguf_file import (
    check_convertible,
    check_vocabulary,
    estimate_gguf_bytes,
    list_shapes,
    load_gguf,
    write_gguf,
)
from sft.export.merge import load_merged, merge_adapter, save_merged, stored_dtype
from sft.export.template import MODELFILE, build_modelfile, build_template, count_same_prompts
from sft.files import check_disk_space, parse_json, staging
from sft.models.identity import check_fingerprint, tokenizer_folder
from sft.models.loaded import LoadedModel
from sft.models.loading import load_run, load_tokenizer
from sft.models.precision import Precision, decide_precision, name_dtype
from sft.models.source import FOUR_BIT, ModelSource, find_base, stored_quantisation
from sft.robustness.flips import load_hard_cases
from sft.runs.run import Run

EXPORT_FILE = "export.json"
# Measured on the embedded model (docs/results.md has the table), then given room: what a correct export differs by
# through rounding alone. A merge without the adapter, or with one layer left out, is beyond them. In fp32 nothing but
# a tie may turn over, so whole answers count there.
LIMITS: dict[str, Limits] = {
    "fp32": Limits(mean_kl=1e-8, top1=0.999, first_tokens=1.0, same_answers=0.98),
    "16-bit": Limits(mean_kl=1e-3, top1=0.98, first_tokens=0.95),
    "f16": Limits(mean_kl=1e-3, top1=0.98, first_tokens=0.95),
    "q8_0": Limits(mean_kl=1e-2, top1=0.95, first_tokens=0.9),
    "q4_k_m": Limits(mean_kl=0.25, top1=0.8, first_tokens=0.8),
}


@dataclass
class Exporter:
    """State shared by the steps of one export."""

    run: Run
    settings: ExportSettings
    loaded: LoadedModel
    rows: list[EvalRow]
    expected: Probe  # the run's answers
    template: str


def export_run(run: Run, settings: ExportSettings, output_dir: Path) -> dict[str, object]:
    """Write what settings ask for below output_dir, verified; returns what export.json then holds of it.

    Raises RunError if the disk is too small or an export differs from the run by more than LIMITS, and
    and the errors of load_run and select_rows. After any exception output_dir is unchanged.
    """
    check_portable(run, settings)
    trained = run.train_settings()
    source = find_base(run)
    dtype = stored_dtype(source, settings.dtype)
    if settings.gguf:
        check_convertible(source.folder)
    check_disk_space(output_dir, estimate_bytes(source, dtype, settings))
    with staging(output_dir) as stage:
        precision = decide_check_precision(source)
        trusted = settings.trust_remote_code
        loaded = load_run(
            run,
            allow_mismatch=settings.allow_mismatch,
            precision=precision,
            four_bit=False,
            trust_remote_code=trusted,
        )
        rows = read_rows(run, settings, loaded)
        expected = probe(loaded, rows, max_new_tokens=settings.max_new_tokens)
        template = build_template(
            loaded.chat.template,
            run.system_prompt,
            trained.think,
            has_think_block=loaded.chat.family.has_think_block,
        )
        exporter = Exporter(run, settings, loaded, rows, expected, template)
        result: dict[str, object] = {}
        result["merged"] = write_merged(exporter, stage / "merged", dtype)
        if settings.gguf:
            result["gguf"] = write_gguf_files(exporter, stage / "merged", stage / "gguf")
        if not settings.merge:  # it was only on the way
            shutil.rmtree(stage / "merged")
            del result["merged"]
        _write_record(stage / EXPORT_FILE, output_dir / EXPORT_FILE, result)
    return result


def check_portable(run: Run, settings: ExportSettings) -> None:
    """Raises RunError for what others cannot read: GGUF knows no classification heads, transformers no means."""
    if settings.gguf:
        run.check_writes("--gguf")
    if run.is_classifier and run.train_settings().pooling == "mean":
        raise RunError(
            f"{run.path.name}: its head reads the mean of all tokens, and transformers' own class would read the last "
            "one; train with --pooling last to export"
        )


def check_run(run: Run, *, allow_mismatch: bool = False, trust_remote_code: bool = False) -> None:
    """Refuse a run whose base, tokenizer, prompt or weights are not what it was trained with; no weights are loaded."""
    source = find_base(run)
    tokenizer = load_tokenizer(tokenizer_folder(run, source), trust_remote_code=trust_remote_code)
    chat = ChatFormat.from_tokenizer(tokenizer, think=run.train_settings().think)
    check_fingerprint(run, chat, source, allow_mismatch=allow_mismatch)


def read_rows(run: Run, settings: ExportSettings, loaded: LoadedModel) -> list[EvalRow]:
    """Rows the run was not trained on, encoded as in training; built-in sentences if they are unknown."""
    trained = run.train_settings()
    if run.is_adopted and settings.data is None:
        rows = [
            Row(
                id=case.case_id,
                source="hard cases",
                task="instruct",
                instruction=case.text,
                input="",
                output=case.label,
            )
            for case in load_hard_cases()[: settings.num_prompts]
        ]
        say(f"compared on {len(rows)} sentences: nobody knows the rows of {run.path.name}; --data names others")
    else:
        selection = select_rows(run, EvaluateSettings(data=settings.data, num_samples=settings.num_prompts))
        rows = selection.rows
        say(f"compared on {len(rows)} rows of the {selection.split} split of {selection.path}")
    max_length = min(trained.max_seq_length, loaded.max_context)
    return prepare_rows(rows, loaded.chat, run.system_prompt, trained, max_length, loaded.head).rows


def write_merged(exporter: Exporter, folder: Path, dtype: torch.dtype) -> dict[str, object]:
    """Merge and compare, save, read back from disk and compare again: what merging costs, and what storing costs."""
    run, loaded = exporter.run, exporter.loaded
    merged = merge_adapter(loaded)
    in_memory = probe_merged(exporter, merged)
    save_merged(merged, folder, dtype, exporter.template)
    (folder / CARD_FILE).write_text(build_card(run, "merged", title=run.path.name), encoding="utf-8")
    loaded.model = merged.model = None  # used up: one model in memory at a time
    reloaded = load_merged(folder, loaded, trust_remote_code=exporter.settings.trust_remote_code)
    found = probe(reloaded, exporter.rows, max_new_tokens=exporter.settings.max_new_tokens)
    stored = name_dtype(dtype)
    merging, storing = compare(exporter.expected, in_memory), compare(in_memory, found)
    agreement = compare(exporter.expected, found)
    say(f"merged, stored as {stored} and read back, against base and adapter: {agreement}")
    say(f"of that, storing as {stored} alone: {storing}")
    same, compared = count_same_prompts(
        reloaded.tokenizer,
        loaded.chat,
        exporter.rows,
        [conversation_of(row.row, None, with_answer=False) for row in exporter.rows],
    )
    say(f"prompts by the exported chat template: {same} of {compared} have the run's token ids")
    _refuse(f"the merged model, stored as {stored},", agreement, limits_of(dtype))
    del reloaded
    drift = measure_drift(exporter, found)
    return {
        "dtype": stored,
        "computed_in": loaded.precision.name,
        "base": run.base,
        "fingerprint": run.fingerprint.digest,
        "adapter": run.adapter,
        "agreement": agreement.to_json(),
        "merging": merging.to_json(),
        "storing": storing.to_json(),
        **({"against_four_bits": drift.to_json()} if drift else {}),
        "same_prompts": same,
        "compared_prompts": compared,
    }


def probe_merged(exporter: Exporter, merged: LoadedModel) -> Probe:
    """Answers of the merged weights before they are stored. Raises RunError if they differ from the run's."""
    if not exporter.loaded.has_adapter:  # trained whole: there was nothing to merge
        return exporter.expected
    found = probe(merged, exporter.rows, max_new_tokens=exporter.settings.max_new_tokens)
    agreement = compare(exporter.expected, found)
    say(f"merged in {merged.precision.name}, against base and adapter: {agreement}")
    _refuse("the merged model", agreement, limits_of(merged.precision.dtype))
    return found


def limits_of(dtype: torch.dtype) -> Limits:
    """The allowed differences of weights in a type."""
    return LIMITS["fp32" if dtype is torch.float32 else "16-bit"]


def measure_drift(exporter: Exporter, merged: Probe) -> Agreement | None:
    """How far the merged model is from the run as it was trained and evaluated, on its base in 4 bits; None if it was
    not. This is no fault of the merge: the adapter learned beside rounded weights and now is beside exact ones."""
    if exporter.run.train_settings().method != "qlora":
        return None
    settings, precision = exporter.settings, exporter.loaded.precision
    allowed, trusted = settings.allow_mismatch, settings.trust_remote_code
    trained = load_run(exporter.run, allow_mismatch=allowed, precision=precision, trust_remote_code=trusted)
    drift = compare(probe(trained, exporter.rows, max_new_tokens=settings.max_new_tokens), merged)
    say(f"for information, against the base in 4 bits it was trained on: {drift}")
    return drift


def write_gguf_files(exporter: Exporter, merged: Path, folder: Path) -> dict[str, object]:
    """One file per requested type, each read back by another reader and compared with the run."""
    folder.mkdir()
    name = exporter.run.path.name
    result: dict[str, object] = {}
    for kind in exporter.settings.gguf:
        path = folder / f"{name}-{kind}.gguf"
        write_gguf(merged, path, kind, name=name)
        check_vocabulary(path, merged)
        reread = load_gguf(path, exporter.loaded)
        found = probe(reread, exporter.rows, max_new_tokens=exporter.settings.max_new_tokens)
        agreement = compare(exporter.expected, found)
        say(f"{path.name}, {path.stat().st_size / 1e6:,.0f} MB: {agreement}")
        _refuse(path.name, agreement, LIMITS[kind])
        result[kind] = {"file": path.name, "bytes": path.stat().st_size, "agreement": agreement.to_json()}
    if exporter.settings.modelfile:
        best = exporter.settings.gguf[0]
        text = build_modelfile(f"{name}-{best}.gguf", exporter.run.system_prompt, exporter.loaded.chat)
        (folder / MODELFILE).write_text(text, encoding="utf-8")
    return result


def _refuse(what: str, agreement: Agreement, limits: Limits) -> None:
    if lines := limits.exceeded_by(agreement):
        raise RunError(
            f"{what} answers differently from the run: {'; '.join(lines)}; nothing was written. Are the packages "
            "those of requirements.txt? If so, report it"
        )


def decide_check_precision(source: ModelSource) -> Precision:
    """fp32 wherever it fits, so that rounding does not hide a fault; else the GPU's 16 bits."""
    decided = decide_precision()
    if decided.device != "cpu":
        free, _ = torch.cuda.mem_get_info()
        if count_parameters(source) * 4 > 0.6 * free:
            return decided
    return Precision(decided.device, torch.float32, "to compare without rounding")


def count_parameters(source: ModelSource) -> int:
    """Number of weights of a model folder, from its file headers; an upper bound if two are stored per byte."""
    stored = sum(math.prod(shape) for _, shape in list_shapes(source.folder))
    return stored * 2 if stored_quantisation(source.folder) == FOUR_BIT else stored


def estimate_bytes(source: ModelSource, dtype: torch.dtype, settings: ExportSettings) -> int:
    """Bytes that an export needs on disk at its largest: the merged folder, kept or not, and every GGUF file."""
    parameters = count_parameters(source)
    kinds: Sequence[GgufType] = settings.gguf
    return parameters * dtype.itemsize + sum(estimate_gguf_bytes(parameters, kind) for kind in kinds)


def _write_record(path: Path, before: Path, result: dict[str, object]) -> None:
    """export.json: what earlier exports to this folder said of other files stays."""
    record: dict[str, object] = {}
    if before.is_file():
        try:
            record = dict(parse_json(before.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            say(f"WARNING {before}: cannot be read ({one_line(error, 100)}), so it begins anew")
    for name, value in result.items():
        earlier = record.get(name)
        record[name] = {**earlier, **value} if name == "gguf" and isinstance(earlier, dict) else value  # type: ignore[dict-item]
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
