"""A GGUF file read back by readers that did not write it: gguf's reader, and transformers' loader.

check_vocabulary(path, merged)         # tokens, end token and template are those of the model folder
loaded = load_gguf(path, like)         # the weights as they are after quantisation, in fp32
"""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.errors import RunError
from sft.models.loaded import LoadedModel
from sft.models.misfits import refuse_misfits
from sft.models.quiet import quiet_libraries


def check_vocabulary(path: Path, folder: Path) -> None:
    """Raise RunError where the file's chat template, end token or tokens are not those of the model folder."""
    fields = gguf.GGUFReader(path).fields
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    found = {
        "chat template": fields["tokenizer.chat_template"].contents(),
        "end token": tokens[fields["tokenizer.ggml.eos_token_id"].contents()],
        "tokens": tokens[: len(tokenizer)],
    }
    expected = {
        "chat template": tokenizer.chat_template,
        "end token": tokenizer.eos_token,
        "tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
    }
    if different := [name for name in found if found[name] != expected[name]]:
        raise RunError(f"{path.name}: {', '.join(different)} are not those of the merged model; report it")


def load_gguf(path: Path, like: LoadedModel) -> LoadedModel:
    """The file's weights in a transformers model, computing where and how `like` does; prompts are made by `like`."""
    quiet_libraries()
    with redirect_stderr(StringIO()):  # a progress bar of transformers' that no setting switches off
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=like.precision.dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            output_loading_info=True,
        )
    refuse_misfits(path.name, info)
    return replace(like, model=model.to(like.precision.device).eval())
