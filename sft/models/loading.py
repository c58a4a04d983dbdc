"""Load a model to train, a base model to talk to, or a finished run.

loaded = load_base("embedded")
loaded = load_run(open_run("outputs/latest"))      # refuses a base or prompt other than the run's
"""

import json
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.bitsandbytes import Bnb4bitDeserialize

from prompts import ChatFormat, Fingerprint, Head, ThinkPolicy
from sft.backend import UNSLOTH, load_with_unsloth
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ModelError, RunError
from sft.models.capabilities import with_attention
from sft.models.experts import Nf4WithExperts, use_packed_experts
from sft.models.fused_lora import share_inputs, with_fused_layers
from sft.models.head import install_head, read_head
from sft.models.kernels import fuse_kernels
from sft.models.loaded import LoadedModel
from sft.models.methods import adapted_layers, apply_method, describe_trainable, names_for_unsloth
from sft.models.precision import Precision, decide_precision, is_launched_sharded, precision_for_training
from sft.models.quiet import quiet_libraries
from sft.models.source import (
    FOUR_BIT,
    ModelSource,
    check_stored_type,
    describe_weights,
    find_source,
    stored_quantisation,
)
from sft.models.targets import describe_unpacked, own_names
from sft.runs import Run
from sft.staging import apply_umask

FINGERPRINT_FILE = "prompt_fingerprint.json"


def load_chat_format(name: str, *, revision: str | None = None, think: ThinkPolicy = "auto") -> ChatFormat:
    """Only the prompt format of a model, from its tokenizer's files; no weights are read."""
    return ChatFormat.from_tokenizer(
        load_tokenizer(find_source(name, revision, tokenizer_only=True).folder), think=think
    )


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    four_bit: bool = False,
    think: ThinkPolicy = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """An untuned model, ready for inference."""
    source, precision = find_source(name, revision), decide_precision(dtype)
    four_bit = four_bit or stored_quantisation(source.folder) == FOUR_BIT
    model = load_weights(source, precision, four_bit=four_bit, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source.folder)
    say(f"model {source.name}{' in 4 bits (NF4)' if four_bit else ''}, {precision}")
    chat = ChatFormat.from_tokenizer(tokenizer, think=think)
    return LoadedModel(model.eval(), tokenizer, chat, source, precision)


def load_for_training(settings: TrainSettings, backend: str, head: Head | None = None) -> LoadedModel:
    """The base model with what is trained marked, and said; with a head it has fresh random weights.

    `backend` is what choose_backend said before any import.
    """
    source, precision = find_source(settings.model, settings.revision), precision_for_training(settings)
    check_stored_type(source, settings.method)
    kind = f", head: {head.describe()}" if head else ""
    say(f"model {source.name}, {settings.method}, {precision}, backend {backend}{kind}")
    tokenizer = load_tokenizer(source.folder)
    chat = ChatFormat.from_tokenizer(tokenizer, think=settings.think)
    if backend == UNSLOTH:
        layers = adapted_layers(count_layers(source.folder), settings.lora_layers)
        model = load_with_unsloth(
            source.folder, precision.dtype, settings, layers, lambda base: names_for_unsloth(base, settings)
        )
    else:
        four_bit, trusted = settings.method == "qlora", settings.trust_remote_code
        torch.manual_seed(settings.seed)  # a head's first weights
        model = load_weights(source, precision, four_bit=four_bit, trust_remote_code=trusted, head=head)
        if head is not None:
            install_head(model, head, dropout=settings.head_dropout, pad_id=chat.pad_id)
        model = apply_method(model, settings)
    say(describe_trainable(model))
    return LoadedModel(model, tokenizer, chat, source, precision, backend, head=head)


def load_run(
    run: Run, *, allow_mismatch: bool = False, precision: Precision | None = None, four_bit: bool | None = None
) -> LoadedModel:
    """The tuned model of a finished run, with the prompt it was trained with: base and adapter, or its own weights.

    precision and four_bit: how the base is held, where not as in training (export reloads it in 16 bits).
    Raises RunError when base weights, tokenizer, template, prompt, labels or tuned weights are not the run's;
    allow_mismatch says so aloud and goes on.
    """
    settings = run.train_settings()
    source = find_source(run.base["name"], run.base.get("revision"))
    precision = precision or decide_precision(settings.dtype)
    in_four_bits = settings.method == "qlora" if four_bit is None else four_bit
    tokenizer = load_tokenizer(run.weights_dir)
    chat = ChatFormat.from_tokenizer(tokenizer, think=settings.think)
    check_fingerprint(run, chat, source, allow_mismatch=allow_mismatch)

    def load(source: ModelSource, head: Head | None = None) -> PreTrainedModel:
        trusted = settings.trust_remote_code
        model = load_weights(source, precision, four_bit=in_four_bits, trust_remote_code=trusted, head=head)
        if head is not None:
            install_head(model, head, dropout=settings.head_dropout, pad_id=chat.pad_id)
        return model

    def load_untuned() -> LoadedModel:
        say(f"loading {source.name} beside it, as it was before tuning")
        return LoadedModel(load(source).eval(), tokenizer, chat, source, precision)

    head = read_head(run.weights_dir)
    kind = f", head: {head.describe()}" if head else ""
    say(f"run {run.path.name}: {source.name}, {settings.method}, {precision}{kind}")
    if settings.has_adapter:
        base = load(source, head)
        config = with_fused_layers(PeftConfig.from_pretrained(run.weights_dir), base)
        with own_names():
            tuned = PeftModel.from_pretrained(base, run.weights_dir, config=config, use_safetensors=True)
        share_inputs(tuned)
    else:
        tuned = load(ModelSource(source.name, run.weights_dir), head)
    loaded = LoadedModel(tuned.eval(), tokenizer, chat, source, precision)
    if head is not None:
        loaded.head, loaded.max_read = head, settings.max_seq_length
    if head is not None or not settings.has_adapter:
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
        stored = AutoConfig.from_pretrained(loaded.source.folder).dtype or loaded.precision.dtype
        converted: dict[int, torch.Tensor] = {}  # by address: tied tensors stay one, and are written once
        weights = {
            name: converted.setdefault(value.data_ptr(), value.to(stored))
            for name, value in (weights or model.state_dict()).items()
        }
        model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(stored).removeprefix("torch.")  # save_pretrained writes what the model computes in
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    loaded.tokenizer.save_pretrained(folder)
    (folder / FINGERPRINT_FILE).write_text(json.dumps(fingerprint.to_json(), ensure_ascii=False, indent=2) + "\n")
    apply_umask(folder)
    return describe_weights(folder)


def check_fingerprint(run: Run, chat: ChatFormat, source: ModelSource, *, allow_mismatch: bool = False) -> None:
    """Refuse what differs from the run's record, naming both values. Source: Fingerprint.differences."""
    tasks = [str(task) for task in run.data["tasks"]]  # type: ignore[attr-defined]
    now = Fingerprint.of(chat, run.system_prompt, tasks, source.identity(), read_head(run.weights_dir))
    differences = run.fingerprint.differences(now)
    beside_weights = run.weights_dir / FINGERPRINT_FILE
    if beside_weights.is_file():
        saved = Fingerprint.from_json(json.loads(beside_weights.read_text(encoding="utf-8")))
        differences += [f"{run.weights_dir.name}: {line}" for line in run.fingerprint.differences(saved)]
    else:
        differences.append(f"{run.weights_dir.name}: no {FINGERPRINT_FILE} beside the weights")
    if (weights := describe_weights(run.weights_dir)) != run.adapter:
        differences.append(f"{run.weights_dir.name} weights: trained to {run.adapter}, now {weights}")
    if not differences:
        return
    if not allow_mismatch:
        raise RunError(
            f"{run.path.name}: {'; '.join(differences)}; put back what it was trained with, or pass --allow_mismatch"
        )
    for line in differences:
        say(f"WARNING --allow_mismatch: {line}")


def load_weights(
    source: ModelSource,
    precision: Precision,
    *,
    four_bit: bool = False,
    trust_remote_code: bool = False,
    head: Head | None = None,
) -> PreTrainedModel:
    """A causal language model in memory, on its device; four_bit: NF4 with double quantisation (QLoRA, 2305.14314).

    With a head it is a ...ForSequenceClassification; where the folder has no weights for its head, they are random.
    """
    quiet_libraries()
    if head is None and read_head(source.folder):
        raise ModelError(f"{source.name}: holds a classification head and no language model; name its base, or the run")
    quantisation = None
    if four_bit and stored_quantisation(source.folder) is None:
        quantisation = Nf4WithExperts(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    try:
        model = with_attention(
            lambda name: (AutoModelForSequenceClassification if head else AutoModelForCausalLM).from_pretrained(
                source.folder,
                dtype=precision.dtype,
                device_map=None if is_launched_sharded() else {"": precision.device},  # pieces go to their cards later
                attn_implementation=name,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **({"quantization_config": quantisation} if quantisation else {}),  # None would hide how it is stored
                **({"id2label": head.id2label, "label2id": head.label2id} if head else {}),
            )
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{source.name}: cannot be loaded ({' '.join(str(error).split())[:200]}); check its files"
        ) from None
    if not four_bit and stored_quantisation(source.folder) == FOUR_BIT:
        model = unpack_model(model, precision)
    if four_bit:
        _keep_gradients_on_cpu(model)
        use_packed_experts(model)
        if left := describe_unpacked(model):
            say(left)
    fuse_kernels(model)
    return model


def unpack_model(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """A model that is stored in 4 bits, in 16 or 32: the values that its 4 bits stand for, to be merged and saved."""
    plain: PreTrainedModel = model.dequantize(dtype=precision.dtype)
    conversions = plain._weight_conversions  # what reading it took; the packing itself cannot be reversed by saving
    plain._weight_conversions = [
        conversion
        for conversion in conversions
        if not any(isinstance(step, Bnb4bitDeserialize) for step in getattr(conversion, "operations", ()))
    ]
    return plain


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, with an end and a padding token that are not the same."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no usable tokenizer ({' '.join(str(error).split())[:200]})") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{folder}: no tokenizer.json; save the tokenizer with transformers 4 or later first")
    return tokenizer


def count_layers(folder: Path) -> int:
    """Decoder layers of a model that is not loaded yet."""
    return int(AutoConfig.from_pretrained(folder).num_hidden_layers)


def _keep_gradients_on_cpu(model: PreTrainedModel) -> None:
    """On processors with AVX512-BF16, bitsandbytes 0.50.2 repacks 4-bit weights in the first evaluation; training on
    then loses gradients without a word (15 of 21 lora_B were zero). The flag below keeps the plain path."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
