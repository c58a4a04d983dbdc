"""The adapter added into the base's weights, and the result as a folder in transformers' layout.

merge_adapter(loaded)                                        # loaded.model is a plain transformers model afterwards
save_merged(loaded, folder, torch.bfloat16, template)
reloaded = load_merged(folder, loaded, trust_remote_code=False)
"""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer

from prompts.family import TEXT_END, TURN_END
from sft.errors import RunError
from sft.files import apply_umask
from sft.models.head import install_head
from sft.models.loaded import LoadedModel
from sft.models.loading import load_weights, read_stored_dtype
from sft.models.precision import DTYPES
from sft.models.source import ModelSource

SHARD_SIZE = "5GB"


def merge_adapter(loaded: LoadedModel) -> LoadedModel:
    """The model with the adapter added into its weights; the given model is consumed.

    Each layer is added up in fp32 and rounded once, back to the type it is held in. A base in 4 bits would be rounded
    to 4 bits again, which loses most of what was learned (RunError: load it in 16 bits).
    """
    if not loaded.has_adapter:
        return loaded
    for name, layer in loaded.model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        weight = layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
        if not weight.dtype.is_floating_point:
            raise RunError(f"{name} is held in {weight.dtype}; reload the base in 16 bits before merging")
        held = weight.dtype
        layer.get_base_layer().to(torch.float32)
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:  # peft's word for weights that are not finite
            raise RunError(f"{name}: {error}; this adapter cannot be merged, train again") from None
        layer.get_base_layer().to(held)
    return replace(loaded, model=loaded.model.unload())


def stored_dtype(source: ModelSource, wanted: str = "auto") -> torch.dtype:
    """Type of the merged weights: --dtype, else the base's stored type."""
    if wanted != "auto":
        return DTYPES[wanted]
    return read_stored_dtype(source.folder) or torch.bfloat16


def save_merged(loaded: LoadedModel, folder: Path, dtype: torch.dtype, template: str) -> None:
    """Weights (safetensors, shards of 5 GB), config, generation config and tokenizer that need nothing of this project.

    The end token is <|im_end|> everywhere, as trained: a base model's own files may name another.
    """
    model, chat, tokenizer = loaded.causal_lm, loaded.chat, loaded.tokenizer
    model.to(dtype)
    model.config.dtype = dtype
    model.config.use_cache = True
    turn_end = chat.encoder.control_tokens[TURN_END]
    model.config.eos_token_id, model.config.pad_token_id = turn_end, chat.pad_id
    if loaded.head is None:
        model.generation_config.eos_token_id = list(chat.end_ids)
        model.generation_config.pad_token_id = chat.pad_id
    with redirect_stderr(StringIO()):  # a progress bar of transformers' that no setting switches off
        model.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_SIZE)
    tokenizer.eos_token = TURN_END
    if TEXT_END in chat.encoder.control_tokens:
        tokenizer.pad_token = TEXT_END
    tokenizer.chat_template = template
    tokenizer.clean_up_tokenization_spaces = False  # true would take blanks before punctuation out of answers
    tokenizer.save_pretrained(folder)
    apply_umask(folder)


def load_merged(folder: Path, like: LoadedModel, *, trust_remote_code: bool) -> LoadedModel:
    """The written model, read back from disk, on the same device and in the same precision as `like`."""
    source = ModelSource(like.source.name, folder)
    model = load_weights(source, like.precision, head=like.head, trust_remote_code=trust_remote_code).eval()
    if like.head is not None:
        install_head(model, like.head, dropout=0.0, pad_id=like.chat.pad_id)
    return replace(like, model=model, source=source)
