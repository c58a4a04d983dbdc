"""The run of a command; tuned weights without a run.json are adopted, that is, get a made-up one.

    run = open_tuned(settings)      # of --run outputs/demo, --run saves/lora, --adapter owner/name, or outputs/latest

What a run.json would contain is read from the files: method and shape from adapter_config.json, the base from there or
from --model, and of weights that this project wrote the prompt from the fingerprint beside them. What nobody wrote down
is assumed and said: the chat template as it is, no task, no data. What cannot be assumed is refused.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prompts import Fingerprint, PromptError
from prompts.tasks import get_task
from sft.config.layers import restore_settings
from sft.config.train import VOCABULARY, TrainSettings
from sft.config.tuned import TunedSettings
from sft.console import say
from sft.console.narration import say_once
from sft.errors import ConfigError, ModelError, RunError
from sft.models.files import read_json_object
from sft.models.source import (
    ADAPTER_CONFIG,
    EMBEDDED,
    FOUR_BIT,
    ModelSource,
    describe_weights,
    embedded_model_folder,
    find_source,
    find_weights,
    stored_quantisation,
)
from sft.runs.run import COMPLETE, OUTPUTS, RUN_FILE, Run, open_run

ELSEWHERE = OUTPUTS / "others"  # for evaluations and exports of weights in a cache
FINGERPRINT_FILE = "prompt_fingerprint.json"  # what save_tuned writes beside weights
UNKNOWN_LENGTH = 2**20  # tokens: the length of the training rows is unknown, so the model's context is the limit
NO_SYSTEM_PROMPT = "the chat template's own"  # as Fingerprint.of writes it
# The files that an adapter's weights need, and those that come with it unless a run says otherwise.
SHAPE = ("lora_r", "lora_alpha", "lora_layers", "target_modules", "use_dora", "use_rslora", "modules_to_save")
KIND = ("method", "lora_dropout", "head", "labels", "pooling", "head_dropout", "think")
TASK = re.compile(r"task (.+)")


def open_tuned(named: TunedSettings, *, or_else: str = "") -> Run:
    """The run that --run or --adapter names (default outputs/latest), or one made up for weights without a run.json.

    or_else: what else the user can do if there is none. Raises RunError, ModelError or ConfigError for what cannot
    be used or known.
    """
    folder = Path(named.run) if named.run is not None else None
    if named.adapter is not None:
        run = _adopt_named(named.adapter, named)
    elif folder is not None and not (folder / RUN_FILE).is_file() and (found := _weights_in(folder)):
        run = _adopt_named(str(found), named)
    elif named.is_untuned:
        run = adopt(find_source(str(named.model)), None, named.system_prompt)
    else:
        run = open_run(folder, or_else=or_else)
    if not run.is_adopted:
        if named.system_prompt not in (None, run.system_prompt) and not named.allow_mismatch:
            raise ConfigError(
                f"--system_prompt: {run.path.name} was trained under {run.system_prompt!r}, and is asked so; leave it "
                "out, or pass --allow_mismatch"
            )
        if named.system_prompt is not None:
            run.system_prompt = named.system_prompt
        run.base_now = named.base or named.model
    return run


def adopt(weights: ModelSource, base: str | None, system_prompt: str | None = None) -> Run:
    """A run made for tuned weights, an adapter or a full model; base: None if its own files name it.

    A whole model whose base nobody names is compared with nothing. Raises ModelError for an adapter that names none.
    """
    folder = weights.folder
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    config: Mapping[str, Any] = read_json_object(folder / ADAPTER_CONFIG) if is_adapter else {}
    base = base or _base_in(config)
    if is_adapter and base is None:
        raise ModelError(f"{weights.name}: its {ADAPTER_CONFIG} names no base; give it with --model")
    source = _find_base(str(base), weights.name, config) if base is not None else weights
    settings: dict[str, object] = _settings_of(config, source) if is_adapter else {"method": "full"}
    saved = _read_fingerprint(folder)
    parts = saved.parts if saved else {}
    source = replace(source, rope_scaling=parts.get("base rope_scaling"))
    recorded = parts.get("system prompt", NO_SYSTEM_PROMPT)
    own = None if recorded == NO_SYSTEM_PROMPT else str(ast.literal_eval(recorded))
    if saved and system_prompt not in (None, own):
        raise ConfigError(f"--system_prompt: {weights.name} was trained under {own!r}; leave it out")
    tasks, unknown = _tasks_of(parts)
    policy = parts.get("think policy", "none")
    settings |= {
        "model": source.name,
        "system_prompt": own if saved else system_prompt,
        "think": "auto" if policy == "none" else policy,
        "max_seq_length": UNKNOWN_LENGTH,
    }
    run = Run(
        path=folder if weights.name == str(folder) else ELSEWHERE / weights.name.replace("/", "--"),
        status=COMPLETE,
        settings=settings,
        origins={},
        base={"name": source.name, **source.identity(), **({"revision": source.revision} if source.revision else {})},
        system_prompt=own if saved else system_prompt,
        fingerprint=Fingerprint({name: part for name, part in parts.items() if name not in unknown}),
        data={"tasks": tasks},
        adapter=describe_weights(folder),
        quantisation="nf4" if settings["method"] == "qlora" else None,
        weights=folder,
        has_base=base is not None,
    )
    run.train_settings()  # an unreadable configuration is reported at once
    say_once(_describe(run, weights, has_record=saved is not None, unknown=unknown), about=folder)
    return run


def open_init(settings: TrainSettings) -> Run | None:
    """The run, made up or not, whose adapter --init_adapter names; None if training starts with a fresh one.

    Raises ModelError if its weights are whole: those are a --model.
    """
    if settings.init_adapter is None:
        return None
    named = (
        {"run": settings.init_adapter} if Path(settings.init_adapter).is_dir() else {"adapter": settings.init_adapter}
    )
    if "model" in settings.origins:
        named["base"] = settings.model
    run = open_tuned(restore_settings(TunedSettings, named, "--init_adapter"))
    if not run.train_settings().has_adapter:
        raise ModelError(f"{settings.init_adapter}: full weights, not an adapter; continue from them with --model")
    return run


def list_inherited(settings: TrainSettings) -> dict[str, object]:
    """What a run that continues from --init_adapter has of it, where nothing else is given: base, shape and prompt."""
    run = open_init(settings)
    assert run is not None
    trained = run.train_settings()
    own = {name: value for name, value in trained.model_dump().items() if name in (*SHAPE, *KIND)}
    own |= {
        "model": run.base["name"],
        "revision": run.base.get("revision"),
        "rope_scaling": run.base.get("rope_scaling"),
        "system_prompt": run.system_prompt,
    }
    return own


def keep_shape(settings: TrainSettings, inherited: Mapping[str, object]) -> TrainSettings:
    """The settings with the adapter's own rank, scale and layers, which no recipe changes any more.

    A recipe's differing setting is reported; a flag's is refused (ConfigError).
    """
    kept = {name: inherited[name] for name in SHAPE if getattr(settings, name) != inherited[name]}
    for name, value in kept.items():
        wanted, origin = getattr(settings, name), settings.origins.get(name, "default")
        if origin == "flag":
            raise ConfigError(
                f"--{name} {wanted}: --init_adapter has {value}, which training keeps; leave --{name} out"
            )
        say(f"{name} = {value}, as --init_adapter has it, not {wanted} ({origin})")
    return settings.model_copy(update=kept)


def describe_lineage(settings: TrainSettings) -> list[dict[str, object]]:
    """The adapters that a run continues from, the first one first, for its run.json; [] for a fresh adapter."""
    run = open_init(settings)
    if run is None:
        return []
    facts = {"run": None if run.is_adopted else str(run.path)} | {
        "weights": run.adapter,
        "base": run.base,
        "data": run.data.get("path"),
        "data_sha256": run.data.get("sha256"),
    }
    return [*run.lineage, {"adapter": str(settings.init_adapter), "fingerprint": run.fingerprint.digest, **facts}]


def _adopt_named(name: str, named: TunedSettings) -> Run:
    weights = find_weights(name)
    beside = weights.folder.parent
    if (beside / RUN_FILE).is_file() and (run := open_run(beside)).weights_dir.resolve() == weights.folder.resolve():
        return run  # the whole record is a folder up
    return adopt(weights, named.base or named.model, named.system_prompt)


def _weights_in(folder: Path) -> Path | None:
    """The tuned weights in a folder without a run.json: itself, or the adapter/ or model/ of a run that lost it."""
    for place in (folder, folder / "adapter", folder / "model"):
        if (place / ADAPTER_CONFIG).is_file() or (place / "config.json").is_file():
            return place
    return None


def recorded_base(folder: Path) -> str | None:
    """The base named in an adapter's files; None for full weights, or if it names none."""
    path = folder / ADAPTER_CONFIG
    return _base_in(read_json_object(path)) if path.is_file() else None


def _base_in(config: Mapping[str, Any]) -> str | None:
    """The base that an adapter_config.json names; the embedded model by its name, since its folder is a cache's."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name.strip():
        return None
    if Path(name).is_dir() and Path(name).name.startswith("smollm2-135m-instruct-"):
        return EMBEDDED if Path(name).resolve() == embedded_model_folder().resolve() else name
    return name


def _find_base(base: str, adapter: str, config: Mapping[str, Any]) -> ModelSource:
    try:
        return find_source(base)
    except ModelError as error:
        if base != config.get("base_model_name_or_path"):
            raise
        raise ModelError(
            f"{adapter}: the base that its {ADAPTER_CONFIG} names: {error}; name it with --model"
        ) from None


def _settings_of(config: Mapping[str, Any], source: ModelSource) -> dict[str, object]:
    """What TrainSettings says of an adapter, from its adapter_config.json: {"method": "lora", "lora_r": 8, ...}."""
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
    names |= {name: name for name in ("use_dora", "use_rslora", "modules_to_save", "target_modules")}
    found = {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) not in (None, [])}
    targets = found.pop("target_modules", [])
    if isinstance(targets, list) and not {*targets} & {*VOCABULARY}:  # else a pattern, or what train.py trains whole
        found["target_modules"] = sorted(targets)
    if int(found.get("lora_alpha", 1)) != found.get("lora_alpha", 1):
        del found["lora_alpha"]  # PEFT allows halves
    four_bit = stored_quantisation(source.folder) == FOUR_BIT
    return {"method": "qlora" if four_bit else "lora", **found}


def _read_fingerprint(folder: Path) -> Fingerprint | None:
    if not (folder / FINGERPRINT_FILE).is_file():
        return None
    try:
        return Fingerprint.from_json(read_json_object(folder / FINGERPRINT_FILE))
    except PromptError as error:
        raise RunError(f"{folder / FINGERPRINT_FILE}: {error}") from None


def _tasks_of(parts: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Tasks that a fingerprint names and this installation knows, and the names of its parts about others."""
    tasks, unknown = [], []
    for part in parts:
        if found := TASK.fullmatch(part):
            try:
                tasks.append(get_task(found[1]).name)
            except PromptError:
                unknown.append(part)
    return tasks, unknown


def _describe(run: Run, weights: ModelSource, *, has_record: bool, unknown: list[str]) -> str:
    """The one line that says which prompt is used, and whether it is known or assumed."""
    what = "an adapter" if run.train_settings().has_adapter else "a whole model"
    prompt = "the chat template's own system prompt" if run.system_prompt is None else repr(run.system_prompt)
    if has_record:
        known = ", ".join(run.tasks) or "none that is known here"
        lost = f"; {', '.join(unknown)}: described in its run.json, which is not here" if unknown else ""
        return f"{weights.name}: {what} without its run.json; prompted as in training: {prompt}, tasks {known}{lost}"
    sets = " (--system_prompt sets another)" if run.system_prompt is None else ""
    return (
        f"{weights.name}: {what} without a run.json, so its prompt is assumed: the chat template, {prompt}{sets}, a "
        "text as it stands"
    )
