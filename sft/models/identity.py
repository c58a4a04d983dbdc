"""Checks that a loaded model matches its run: base, tokenizer, template, prompt, tasks, tuned weights.

check_fingerprint(run, chat, source)      # RunError naming both values, where something differs
"""

from pathlib import Path

import torch
from safetensors import safe_open

from prompts import ChatFormat, Fingerprint
from sft.console import say
from sft.errors import ModelError, RunError
from sft.models.adopted import FINGERPRINT_FILE, recorded_base
from sft.models.files import check_weight_files, read_json_object
from sft.models.head import read_head
from sft.models.source import (
    ADAPTER_CONFIG,
    FOUR_BIT,
    ModelSource,
    describe_weights,
    find_source,
    hash_files,
    stored_quantisation,
)
from sft.runs.run import Run

BASE_WEIGHTS = "base weights"  # the part of a fingerprint that says which base it was
COMPARED_LINES = 64  # of each tensor that stays unquantised, enough to distinguish models


def tokenizer_folder(run: Run, source: ModelSource) -> Path:
    """Location of a run's tokenizer: next to its weights, or with its base if an adapter came without one."""
    beside = any((run.weights_dir / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return run.weights_dir if beside or not run.is_adopted else source.folder


def check_fingerprint(run: Run, chat: ChatFormat, source: ModelSource, *, allow_mismatch: bool = False) -> None:
    """Refuse differences from the run's record, naming both values; weights without a record are accepted.

    Source: Fingerprint.differences.
    """
    now = Fingerprint.of(chat, run.system_prompt, run.tasks, source.identity(), read_head(run.weights_dir))
    if run.is_adopted and not run.fingerprint.parts:
        run.fingerprint = now
    trained = run.fingerprint
    if trained.parts.get(BASE_WEIGHTS) != now.parts[BASE_WEIGHTS] and _is_same_in_16_bits(run, source):
        say(f"base: {source.name} in 16 bits, of which the base of the training is the copy in 4 bits")
        trained = Fingerprint({**trained.parts, BASE_WEIGHTS: now.parts[BASE_WEIGHTS]})
    differences = trained.differences(now) + ([] if run.is_adopted else _differences_of_weights(run))
    if not differences:
        return
    if not allow_mismatch:
        raise RunError(
            f"{run.path.name}: {'; '.join(differences)}; put back what it was trained with, or pass --allow_mismatch"
        )
    for line in differences:
        say(f"WARNING --allow_mismatch: {line}")


def _differences_of_weights(run: Run) -> list[str]:
    """Files of the tuned weights that changed after training, one line each."""
    folder, lines = run.weights_dir, []
    if (folder / FINGERPRINT_FILE).is_file():
        saved = Fingerprint.from_json(read_json_object(folder / FINGERPRINT_FILE))
        lines += [f"{folder.name}: {line}" for line in run.fingerprint.differences(saved)]
    else:
        lines.append(f"{folder.name}: no {FINGERPRINT_FILE} beside the weights")
    if (weights := describe_weights(folder)) != run.adapter:
        lines.append(f"{folder.name} weights: trained to {run.adapter}, now {weights}")
    elif run.files is not None:  # runs of earlier versions have no such record
        now = hash_files(folder)
        lines += [
            f"{folder.name}/{name}: written as {run.files.get(name, 'nothing')}, now {now.get(name, 'gone')}"
            for name in sorted({*run.files, *now})
            if run.files.get(name) != now.get(name)
        ]
    if run.train_settings().has_adapter:
        lines += _differences_of_scale(run)
    return lines


def _differences_of_scale(run: Run) -> list[str]:
    """Differences in rank or scale between an adapter's configuration and the run."""
    config, settings = read_json_object(run.weights_dir / ADAPTER_CONFIG), run.train_settings()
    trained = {"r": settings.lora_r, "lora_alpha": settings.lora_alpha}
    trained |= {name: getattr(settings, name) for name in ("use_rslora", "use_dora")}
    return [
        f"{run.weights_dir.name}/{ADAPTER_CONFIG}: {name} was {value!r} in training, now {config.get(name)!r}"
        for name, value in trained.items()
        if config.get(name, value) != value
    ]


def _is_same_in_16_bits(run: Run, source: ModelSource) -> bool:
    """Whether a base in 16 bits is the one whose 4-bit copy a run was trained on: what 4 bits leave alone is equal."""
    if stored_quantisation(source.folder) is not None:
        return False
    name = recorded_base(run.weights_dir) if run.is_adopted else run.base["name"]
    try:
        packed = find_source(str(name), run.base.get("revision") if not run.is_adopted else None).folder
    except ModelError:  # the base is gone, so it cannot be compared
        return False
    if stored_quantisation(packed) != FOUR_BIT:
        return False
    ours, theirs = _sample_plain_tensors(source.folder), _sample_plain_tensors(packed)
    shared = [name for name, value in theirs.items() if name in ours and ours[name].shape == value.shape]
    return bool(shared) and all(torch.equal(ours[name].to(theirs[name].dtype), theirs[name]) for name in shared)


def _sample_plain_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The first lines of every tensor of a folder that holds plain numbers: norms and embeddings, in a 4-bit one."""
    found = {}
    for path in check_weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                value = file.get_slice(name)[:COMPARED_LINES]
                if value.is_floating_point() and "absmax" not in name and "quant_map" not in name:
                    found[name] = value
    return found
