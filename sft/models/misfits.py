"""Checks that saved weights match the model they are loaded into: names, number and shapes of all tensors.

The libraries fill missing weights with random numbers, ignore unknown ones, and continue. Here either
ends the load with the names.

model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, ...)
refuse_misfits("Qwen/Qwen3-1.7B", info)
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from sft.console import say
from sft.errors import ModelError
from sft.models.files import list_some
from sft.models.source import ModelSource, read_tensor_types, stored_quantisation

# Parts of a checkpoint that a text model does not have: towers of other modalities and what connects them
# to the text, and the layers that predict further tokens (multi-token prediction).
OTHER_PARTS = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|multi_?modal_projector|mtp)\.")
WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
PREFIXES = {"_orig_mod.": "torch.compile", "module.": "DataParallel", "base_model.model.": "PEFT"}


def refuse_misfits(
    name: str, info: Mapping[str, Collection], *, new: Collection[str] = (), unused: Collection[str] = ()
) -> None:
    """Raises ModelError for keys that are missing, unexpected or of another shape, in transformers' loading info.

    Its info leaves out harmless cases: tied weights, computed buffers, weights that a family lists as optional. new:
    keys that may be missing, since they get their first weights now; unused: keys that may be left over. Towers of a
    multimodal checkpoint are reported and not used.
    """
    missing = sorted(set(info["missing_keys"]) - set(new))
    unexpected = sorted(set(info["unexpected_keys"]) - set(unused))
    if towers := [key for key in unexpected if OTHER_PARTS.search(key)]:
        unexpected = [key for key in unexpected if key not in towers]
    shapes = [
        f"{key} ({_show_shape(found)}, expected {_show_shape(expected)})"
        for key, found, expected in sorted(info["mismatched_keys"])
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if found := [f"{kind}: {list_some(keys)}" for kind, keys in kinds.items() if keys]:
        raise ModelError(f"{name}: its weights do not fit its config.json; {'; '.join(found)}; {_advise(kinds)}")
    if towers:
        say(f"{name}: {len(towers)} tensors are not for text and are not used: {list_some(towers, limit=1)}")


def find_misfits(folder: Path, *, trust_remote_code: bool = False) -> Mapping[str, Collection]:
    """transformers' loading info of a folder's language model, without reading a tensor: 0.06 s for 135M weights.

    For loaders that do not report it: Unsloth's, and bitsandbytes, which accepts any shape. A folder that is
    quantised already gives an empty one, for its tensors have other shapes than its config says.
    """
    if stored_quantisation(folder) is not None:
        return {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}
    _, info = AutoModelForCausalLM.from_pretrained(
        folder,
        device_map="meta",
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return info


def refuse_packed_unknown(source: ModelSource) -> None:
    """Raises ModelError for weights that would be misread, judging by the headers of the files.

    Packed in a way that transformers does not know and so would not unpack, or in whole numbers of which the config
    does not say how to unpack them.
    """
    tensors = read_tensor_types(source.folder)
    stored = stored_quantisation(source.folder)
    if stored is not None and stored.split()[0] not in {"bitsandbytes", *AUTO_QUANTIZER_MAPPING}:
        raise ModelError(f"{source.name}: its weights are stored as {stored}, which nothing here unpacks; take another")
    whole = [name for name, kind in tensors.items() if kind in WHOLE_NUMBERS and name.endswith(".weight")]
    if stored is not None and stored.startswith("bitsandbytes") and not whole:
        raise ModelError(
            f"{source.name}: config.json says that the weights are packed by bitsandbytes, and they are plain numbers; "
            "take quantization_config out of it (--method qlora packs while it loads)"
        )
    if stored is None and whole:
        raise ModelError(
            f"{source.name}: integer weights ({list_some(whole)}), and config.json does not say how they are "
            "packed (quantization_config); restore its config.json, or take the model in 16 bits"
        )


def _advise(kinds: Mapping[str, list[str]]) -> str:
    """Advice for the kind of misfit."""
    missing = set(kinds["missing"])
    for prefix, maker in PREFIXES.items():
        if any(key.removeprefix(prefix) in missing for key in kinds["unexpected"] if key.startswith(prefix)):
            return f"names begin with {prefix!r}, as {maker} saves them: save the weights again without it"
    if kinds["unexpected"] and not missing and all(".layers." in key for key in kinds["unexpected"]):
        return "num_hidden_layers in config.json is lower than the layers saved: restore the config"
    return "restore the folder as it was saved, weights and config.json together"


def _show_shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
