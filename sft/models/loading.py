"""Load a model to train, a base model to talk to, or a finished run.

loaded = load_base("embedded")
loaded = load_run(open_run("outputs/latest"))      # refuses a base or prompt other than the run's

RoPE scaling is put into the config before a model is built. YaRN (2309.00071) stretches the slow rotations and leaves
the fast ones; `linear` (2306.15595) stretches all. Both are the same for rows of every length. What was
chosen is part of a base's identity: adapters go with it.
"""

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM, PeftModelForSequenceClassification
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from prompts import ChatFormat, Fingerprint, Head, ThinkPolicy
from sft.backend import UNSLOTH, is_launched_sharded, load_with_unsloth
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ModelError, RunError, one_line
from sft.files import apply_umask
from sft.kernels.experts import Nf4WithExperts, known_experts, use_packed_experts
from sft.kernels.four_bit import no_other_kinds
from sft.kernels.fp8 import check_card, keep_from_broadcast, use_fp8
from sft.kernels.fuse import fuse_kernels
from sft.kernels.lora import share_inputs, with_fused_layers
from sft.lean_imports import without_compiler
from sft.models.adopted import FINGERPRINT_FILE, open_init
from sft.models.capabilities import with_attention
from sft.models.files import check_folder, check_weight_files, list_some, read_json_object
from sft.models.head import SCORE, install_head, read_head
from sft.models.identity import BASE_WEIGHTS, check_fingerprint, tokenizer_folder
from sft.models.loaded import LoadedModel
from sft.models.methods import adapted_layers, apply_method, decoder_layers, describe_trainable, names_for_unsloth
from sft.models.misfits import find_misfits, refuse_misfits, refuse_packed_unknown
from sft.models.precision import Precision, decide_precision, precision_for_answers, precision_for_training
from sft.models.source import (
    ADAPTER_CONFIG,
    FOUR_BIT,
    ModelSource,
    check_stored_type,
    count_weights,
    describe_weights,
    find_base,
    find_source,
    quiet_libraries,
    stored_quantisation,
)
from sft.models.targets import describe_unpacked, own_names
from sft.runs.run import Run


def choose_rope_scaling(config: PreTrainedConfig, wanted: str, longest: int) -> str:
    """The RoPE scaling in full: "yarn" for rows of 100,000 tokens -> "yarn:4:32768", the tokens of pretraining last.

    Raises ModelError for a model whose positions are not rotated, or are scaled already.
    """
    kind, *numbers = wanted.split(":")
    rope, text = getattr(config, "rope_parameters", None), config.get_text_config(decoder=True)
    if text is not config or not isinstance(rope, dict) or "rope_theta" not in rope:
        raise ModelError(
            f"--rope_scaling {wanted}: a {config.model_type} model has no single rotary embedding to scale"
        )
    if (found := rope.get("rope_type", "default")) != "default":
        raise ModelError(f"--rope_scaling {wanted}: this model's config scales its positions already ({found})")
    original = int(numbers[1]) if len(numbers) > 1 else int(config.max_position_embeddings)
    factor = float(numbers[0]) if numbers else float(max(1, math.ceil(longest / original)))
    return f"{kind}:{factor:g}:{original}"


def describe_rope(config: PreTrainedConfig, scaling: str | None) -> dict[str, object]:
    """The fields of a config that make it read so, as choose_rope_scaling has it; none if nothing is scaled."""
    if scaling is None:
        return {}
    kind, factor, original = scaling.split(":")
    rope = {**config.rope_parameters, "rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = int(original)
    return {"rope_parameters": rope, "max_position_embeddings": int(float(factor) * int(original))}


# What the libraries raise over files that they cannot read or that contradict each other; their words go into ours.
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError),
    *(StrictDataclassError, SafetensorError),
)


def load_chat_format(
    name: str, *, revision: str | None = None, think: ThinkPolicy = "auto", trust_remote_code: bool = False
) -> ChatFormat:
    """Only the prompt format of a model, from its tokenizer's files; no weights are read."""
    return ChatFormat.from_tokenizer(
        load_tokenizer(find_source(name, revision, tokenizer_only=True).folder, trust_remote_code=trust_remote_code),
        think=think,
    )


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    trained_in: str = "auto",
    four_bit: bool = False,
    think: ThinkPolicy = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """An untuned model, ready for inference.

    dtype: what it computes in; auto: as precision_for_answers says, of a model beside a run that was trained_in this.
    """
    source = find_source(name, revision)
    four_bit = four_bit or stored_quantisation(source.folder) == FOUR_BIT
    asked = None if dtype == "auto" else decide_precision(dtype)
    precision = asked or _precision_of(source, trained_in, four_bit=four_bit)
    model = load_weights(source, precision, four_bit=four_bit, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source.folder, trust_remote_code=trust_remote_code)
    say(f"model {source.name}{' in 4 bits (NF4)' if four_bit else ''}, {precision}")
    chat = ChatFormat.from_tokenizer(tokenizer, think=think)
    return LoadedModel(model.eval(), tokenizer, chat, source, precision)


def load_for_training(settings: TrainSettings, backend: str, head: Head | None = None) -> LoadedModel:
    """The base model with its trainable weights marked and printed; with a head, which has fresh random weights.

    `backend` is what choose_backend said before any import.
    """
    source, precision = find_source(settings.model, settings.revision), precision_for_training(settings)
    check_stored_type(source, settings.method)
    in_fp8 = settings.base_dtype == "fp8"
    if in_fp8:
        check_card()
    kind = f", head: {head.describe()}" if head else ""
    say(f"model {source.name}, {settings.method}, {precision}, backend {backend}{kind}")
    four_bit, trusted = settings.method == "qlora", settings.trust_remote_code
    if settings.rope_scaling:
        config = read_config(source, trust_remote_code=trusted)
        chosen = choose_rope_scaling(config, settings.rope_scaling, settings.max_seq_length)
        source = replace(source, rope_scaling=chosen)
        say(f"positions are scaled: --rope_scaling {chosen}")
    tokenizer = load_tokenizer(source.folder, trust_remote_code=trusted)
    chat = ChatFormat.from_tokenizer(tokenizer, think=settings.think)
    if backend == UNSLOTH:
        config = read_config(source, trust_remote_code=trusted)
        check_fit(source, trust_remote_code=trusted)  # Unsloth does not report it
        layers = adapted_layers(int(config.get_text_config().num_hidden_layers), settings.lora_layers)
        model = load_with_unsloth(
            source.folder, precision.dtype, settings, layers, lambda base: names_for_unsloth(base, settings)
        )
    else:
        torch.manual_seed(settings.seed)  # a head's first weights
        model = load_weights(source, precision, four_bit=four_bit, trust_remote_code=trusted, head=head)
        if in_fp8:
            say("frozen layers are multiplied in FP8; validation is, too; the adapter goes onto the base in 16 bits")
            use_fp8(decoder_layers(model))
        if head is not None:
            install_head(model, head, dropout=settings.head_dropout, pad_id=chat.pad_id)
            if settings.head_init == "xavier":
                torch.nn.init.xavier_uniform_(model.get_submodule(SCORE).weight)
        init = open_init(settings)
        model = apply_method(model, settings) if init is None else go_on_from(init, model, source, settings)
        if in_fp8:
            keep_from_broadcast(model)
    say(describe_trainable(model))
    return LoadedModel(model, tokenizer, chat, source, precision, backend, head=head)


def go_on_from(init: Run, model: PreTrainedModel, source: ModelSource, settings: TrainSettings) -> PeftModel:
    """The base with the adapter of an earlier run on it, its weights trainable and in fp32.

    Raises RunError if the adapter is known to be of another base; --allow_mismatch says so aloud and continues.
    """
    if (known := init.fingerprint.parts.get(BASE_WEIGHTS)) not in (None, now := source.identity()["weights"]):
        line = f"--init_adapter {settings.init_adapter}: trained on a base of weights {known}, {source.name} has {now}"
        if not settings.allow_mismatch:
            raise RunError(f"{line}; name its own base with --model, or pass --allow_mismatch")
        say(f"WARNING --allow_mismatch: {line}")
    config = read_adapter_config(init.weights_dir)
    config.inference_mode, config.lora_dropout = False, settings.lora_dropout
    say(f"continues from the adapter {init.weights_dir}")
    return load_adapter(model, init.weights_dir, config, is_trainable=True)


def load_run(
    run: Run,
    *,
    allow_mismatch: bool = False,
    precision: Precision | None = None,
    four_bit: bool | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The tuned model of a finished run, with the prompt it was trained with: base and adapter, or its own weights.

    precision and four_bit: how the base is held, where not as in training (export reloads it in 16 bits).
    trust_remote_code: whether code that comes with base or run may run; what the run was trained with does not count,
    since a run may come from anybody. Raises RunError when base weights, tokenizer, template, prompt, labels or tuned
    weights are not the run's; allow_mismatch says so aloud and continues.
    """
    settings = run.train_settings()
    source = find_base(run)
    in_four_bits = settings.method == "qlora" if four_bit is None else four_bit
    precision = precision or _precision_of(source, settings.dtype, four_bit=in_four_bits)
    tokenizer = load_tokenizer(tokenizer_folder(run, source), trust_remote_code=trust_remote_code)
    chat = ChatFormat.from_tokenizer(tokenizer, think=settings.think)
    check_fingerprint(run, chat, source, allow_mismatch=allow_mismatch)

    def load(source: ModelSource, head: Head | None = None) -> PreTrainedModel:
        model = load_weights(source, precision, four_bit=in_four_bits, trust_remote_code=trust_remote_code, head=head)
        if head is not None:
            install_head(model, head, dropout=settings.head_dropout, pad_id=chat.pad_id)
        return model

    def load_untuned() -> LoadedModel:
        say(f"loading {source.name} too, the model before tuning")
        return LoadedModel(load(source).eval(), tokenizer, chat, source, precision)

    head = read_head(run.weights_dir)
    kind = f", head: {head.describe()}" if head else ""
    say(f"run {run.path.name}: {source.name}, {settings.method}, {precision}{kind}")
    if settings.has_adapter:
        config = read_adapter_config(run.weights_dir)  # before the base is loaded: a fault in it is reported at once
        tuned = load_adapter(load(source, head), run.weights_dir, config)
        can_switch = config.bias == "none"  # biases that were tuned stay when PEFT switches an adapter off
    else:
        tuned, can_switch = load(ModelSource(source.name, run.weights_dir), head), False
    loaded = LoadedModel(tuned.eval(), tokenizer, chat, source, precision)
    if head is not None:
        loaded.head, loaded.max_read = head, settings.max_seq_length
    if head is not None or (run.has_base and not can_switch):
        loaded.load_untuned = load_untuned
    return loaded


def save_tuned(
    loaded: LoadedModel, folder: Path, fingerprint: Fingerprint, *, weights: dict[str, torch.Tensor] | None = None
) -> str:
    """Adapter or model, tokenizer and fingerprint in one folder, safetensors only; returns the hash of the weights.

    A model goes back to the type its base is stored in; an adapter stays fp32. With a head there is a config: what it
    reads, and the names of its classes. `weights`: the state dict, where several processes had to gather it first.
    """
    model = loaded.model
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
        if loaded.head is not None:
            model.config.architectures = [type(loaded.causal_lm).__name__]
            model.config.save_pretrained(folder)
    else:
        stored = read_stored_dtype(loaded.source.folder) or loaded.precision.dtype
        converted: dict[int, torch.Tensor] = {}  # by address: tied tensors stay one, and are written once
        weights = {
            name: converted.setdefault(value.data_ptr(), value.to(stored))
            for name, value in (weights or model.state_dict()).items()
        }
        model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(stored).removeprefix("torch.")  # save_pretrained writes the computing dtype
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    loaded.tokenizer.save_pretrained(folder)
    (folder / FINGERPRINT_FILE).write_text(json.dumps(fingerprint.to_json(), ensure_ascii=False, indent=2) + "\n")
    apply_umask(folder)
    return describe_weights(folder)


def load_weights(
    source: ModelSource,
    precision: Precision,
    *,
    four_bit: bool = False,
    trust_remote_code: bool = False,
    head: Head | None = None,
) -> PreTrainedModel:
    """A causal language model in memory, on its device; four_bit: NF4 with double quantisation (QLoRA, 2305.14314).

    With a head it is a ...ForSequenceClassification; if the folder has no weights for its head, they are random.
    Raises ModelError for files that cannot be read, and for tensors that are missing, left over or of another shape.
    """
    quiet_libraries()
    own_head = read_head(source.folder)
    if head is None and own_head:
        raise ModelError(f"{source.name}: has a classification head, not a language model; name its base, or the run")
    config = read_config(source, trust_remote_code=trust_remote_code)
    refuse_packed_unknown(source)
    quantisation = None
    if four_bit and stored_quantisation(source.folder) is None:
        quantisation = Nf4WithExperts(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
        check_fit(source, trust_remote_code=trust_remote_code)  # bitsandbytes accepts any shape
    info: dict[str, Collection[object]] = {}

    def load(attention: str) -> PreTrainedModel:
        loaded, found = (AutoModelForSequenceClassification if head else AutoModelForCausalLM).from_pretrained(
            source.folder,
            dtype=precision.dtype,
            device_map=None if is_launched_sharded() else {"": precision.device},  # pieces go to their cards later
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            **({"quantization_config": quantisation} if quantisation else {}),  # None would hide how it is stored
            output_loading_info=True,
            **describe_rope(config, source.rope_scaling),
            ignore_mismatched_sizes=True,  # refused here, with all others
            **({"id2label": head.id2label, "label2id": head.label2id} if head else {}),
        )
        info.update(found)
        return loaded

    is_plain = not four_bit and stored_quantisation(source.folder) is None and not is_launched_sharded()
    with _told_in_one_line(source, "cannot be loaded"), without_compiler() if is_plain else nullcontext():
        model = with_attention(load)
    if os.environ.get("RANK", "0") == "0":  # of several processes the others may get their weights from the first
        new = [] if head is None or own_head else [f"{SCORE}.weight"]
        refuse_misfits(source.name, info, new=new, unused=["lm_head.weight"] if head else [])
    if not four_bit and stored_quantisation(source.folder) == FOUR_BIT:
        model = unpack_model(model, precision)
    if four_bit:
        if is_launched_sharded() and known_experts(model):
            raise ModelError(
                f"{source.name}: experts in 4 bits cannot be sharded over several GPUs (FSDP, ZeRO-3): train with "
                "--method lora, or start one process for each GPU with torchrun alone"
            )
        _keep_gradients_on_cpu(model)
        use_packed_experts(model)
        if left := describe_unpacked(model):
            say(left)
    fuse_kernels(model)
    return model


def unpack_model(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """A 4-bit model dequantised to 16 or 32 bits, to be merged and saved."""
    from transformers.integrations.bitsandbytes import Bnb4bitDeserialize  # imports bitsandbytes

    plain: PreTrainedModel = model.dequantize(dtype=precision.dtype)
    conversions = plain._weight_conversions  # what reading it took; the packing itself cannot be reversed by saving
    plain._weight_conversions = [
        conversion
        for conversion in conversions
        if not any(isinstance(step, Bnb4bitDeserialize) for step in getattr(conversion, "operations", ()))
    ]
    return plain


def check_fit(source: ModelSource, *, trust_remote_code: bool) -> None:
    """Raises ModelError if a folder's weights are not those of the language model that its config describes."""
    quiet_libraries()
    check_folder(source.folder)
    refuse_packed_unknown(source)
    with _told_in_one_line(source, "cannot be loaded"):
        info = find_misfits(source.folder, trust_remote_code=trust_remote_code)
    unused = [f"{SCORE}.weight"]  # a head beside a language model, where one is loaded for another head
    refuse_misfits(source.name, info, unused=unused)


def read_config(source: ModelSource, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """A folder's configuration; raises ModelError for one that transformers cannot make sense of."""
    check_folder(source.folder)
    with _told_in_one_line(source, "its config.json cannot be used"):
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, with an end and a padding token that are not the same."""
    check_folder(folder)
    source = ModelSource(str(folder), folder)
    try:
        with _told_in_one_line(source, "no usable tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        if type(error) is not Exception:  # tokenizers raises this very class for a file that it cannot read
            raise
        raise ModelError(f"{folder}: no usable tokenizer ({one_line(error, 200)})") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{folder}: no tokenizer.json; save the tokenizer with transformers 4 or later first")
    return tokenizer


def read_adapter_config(folder: Path) -> LoraConfig:
    """The configuration of a saved adapter; raises ModelError if it cannot be read, or is no LoRA's."""
    source = ModelSource(str(folder), folder)
    read_json_object(folder / ADAPTER_CONFIG)
    with _told_in_one_line(source, f"its {ADAPTER_CONFIG} cannot be used"):
        config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ModelError(
            f"{folder}: an adapter of kind {config.peft_type}, and only LoRA is known here; merge it with PEFT first"
        )
    config.inference_mode = True
    return config


def load_adapter(base: PreTrainedModel, folder: Path, config: LoraConfig, *, is_trainable: bool = False) -> PeftModel:
    """A base with a saved adapter on it; raises ModelError where a tensor is missing, left over or of another shape."""
    check_weight_files(folder)
    make = PeftModelForSequenceClassification if config.task_type == "SEQ_CLS" else PeftModelForCausalLM
    told = _told_in_one_line(ModelSource(str(folder), folder), "the adapter does not fit its base")
    with told, own_names(), no_other_kinds():
        if not is_launched_sharded():  # weights in pieces are put together by the layer that holds them
            with_fused_layers(config, base)
        tuned = make(base, config)
        found = tuned.load_adapter(str(folder), "default", is_trainable=is_trainable, use_safetensors=True)
    kinds = {"missing": found.missing_keys, "unexpected": found.unexpected_keys}
    if lines := [f"{kind}: {list_some(sorted(keys))}" for kind, keys in kinds.items() if keys]:
        raise ModelError(f"{folder}: the adapter does not fit its base; {'; '.join(lines)}; restore the folder")
    share_inputs(tuned)
    return tuned


def read_stored_dtype(folder: Path) -> torch.dtype | None:
    """The stored type of the weights according to the folder's config; None if it has none."""
    config = read_json_object(folder / "config.json")
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(found := getattr(torch, str(part.get(key)), None), torch.dtype):
                return found
    return None


def _precision_of(source: ModelSource, trained_in: str, *, four_bit: bool) -> Precision:
    """How a model computes that answers and is scored."""
    return precision_for_answers(trained_in, 0 if four_bit else count_weights(source.folder))


@contextmanager
def _told_in_one_line(source: ModelSource, what: str) -> Iterator[None]:
    """Turn a library's error about a folder's files into one line that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        text, advice = one_line(error), "check its files"
        if "trust_remote_code" in text:
            text, advice = "it brings code of its own", "read that code, then pass --trust_remote_code to run it"
        elif "allocate memory" in text:
            advice = "free memory, or take a smaller model"
        raise ModelError(f"{source.name}: {what} ({text[:300] or type(error).__name__}); {advice}") from None


def _keep_gradients_on_cpu(model: PreTrainedModel) -> None:
    """On processors with AVX512-BF16, bitsandbytes 0.50.2 repacks 4-bit weights in the first evaluation; training on
    then loses gradients without a word (15 of 21 lora_B were zero). The flag below keeps the plain path."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
