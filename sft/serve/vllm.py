"""The run on vLLM: the arguments with which `vllm serve` prompts the model as in training.

command = build_command(run, settings)      # ["vllm", "serve", ".../export/merged", "--served-model-name", "demo", ...]

The merged weights where export.py made them of this run, else the base with the adapter. vLLM has its own decoding and
knows no tasks; the chat template brings the run's system prompt, a generation config the tokens that end an answer and
greedy decoding for requests that ask for none.
"""

import json
import os
from pathlib import Path
from typing import NoReturn

import torch

from prompts import ChatFormat
from sft.config.serve import ServeSettings
from sft.console import say
from sft.errors import ConfigError, ModelError
from sft.files import parse_json
from sft.generation.writers import CPU_CACHE, describe_adapter, describe_precision, find_program
from sft.models.precision import precision_for_answers
from sft.runs.run import Run, write_atomically
from sft.serve.guard import KEY_VARIABLE, read_api_key

TEMPLATE_FILE, GENERATION_FILE = "chat_template.jinja", "generation_config.json"


def hand_over(run: Run, settings: ServeSettings) -> NoReturn:
    """Become `vllm serve`. Raises ConfigError if vllm is missing."""
    run.check_writes("--backend vllm")
    program = find_program()
    key = read_api_key(settings.host)
    command = build_command(run, settings)
    say(" ".join(command))
    environment = {**os.environ, **({"VLLM_API_KEY": key} if key else {})}
    environment.pop(KEY_VARIABLE, None)
    environment.setdefault(CPU_CACHE, "4")  # GPUs do not read it
    os.execve(program, command, environment)


def build_command(run: Run, settings: ServeSettings) -> list[str]:
    """The whole command line; the API key is not in it. Chat template and end tokens are written to <run>/export/.

    Raises ConfigError for an adapter that vLLM does not take.
    """
    name = settings.name or run.path.name
    merged, export = run.path / "export" / "merged", run.path / "export"
    is_merged = _is_of_this_run(run, merged)
    trained = run.train_settings()
    lora: list[str] = []
    remedy = f"run `python export.py --run {run.path} --merge` first, then the merged weights are served"
    if not is_merged and trained.has_adapter:
        try:
            lora = describe_adapter(run.weights_dir, name)
        except ModelError as error:
            raise ConfigError(f"{run.path.name}: {error}; {remedy}") from None
    if not is_merged and run.base.get("rope_scaling"):
        raise ConfigError(
            f"{run.path.name}: its positions are scaled ({run.base['rope_scaling']}), which the base's own config does "
            f"not say; {remedy}"
        )
    if lora and trained.method == "qlora":
        if not torch.cuda.is_available():
            raise ConfigError(f"{run.path.name}: vLLM has no base in 4 bits on a CPU; {remedy}")
        lora += ["--quantization", "bitsandbytes"]
    from sft.export.template import build_template  # heavy: after what it refuses
    from sft.models.files import read_json_object
    from sft.models.identity import check_fingerprint, tokenizer_folder
    from sft.models.loading import count_weights, load_tokenizer
    from sft.models.source import find_base

    trusted = settings.trust_remote_code
    export.mkdir(exist_ok=True)
    prompt = ["--generation-config", str(export)]
    if is_merged:  # it has the template
        folder, end_ids = merged, read_json_object(merged / GENERATION_FILE)["eos_token_id"]
    else:
        source = find_base(run)
        folder = source.folder if lora else run.weights_dir
        tokenizer = load_tokenizer(tokenizer_folder(run, source), trust_remote_code=trusted)
        chat = ChatFormat.from_tokenizer(tokenizer, think=trained.think)
        check_fingerprint(run, chat, source, allow_mismatch=settings.allow_mismatch)
        has_block = chat.family.has_think_block
        text = build_template(chat.template, run.system_prompt, trained.think, has_think_block=has_block)
        write_atomically(export / TEMPLATE_FILE, text)
        prompt += ["--chat-template", str(export / TEMPLATE_FILE)]
        end_ids = list(chat.end_ids)
    # The base's own config may end answers with another token than the one that was learned, and vLLM takes its
    # sampling from there too; ours is greedy unless a request says otherwise.
    config = {"eos_token_id": end_ids, "temperature": 0.0}
    write_atomically(export / GENERATION_FILE, json.dumps(config) + "\n")
    precision = precision_for_answers(trained.dtype, count_weights(folder))
    served = [*lora, *([] if lora else ["--served-model-name", name]), *describe_precision(precision)]
    if trusted:
        prompt.append("--trust-remote-code")
    common = ["--host", settings.host, "--port", str(settings.port), "--max-num-seqs", str(settings.max_batch)]
    return ["vllm", "serve", str(folder), *served, *prompt, *common]


def _is_of_this_run(run: Run, merged: Path) -> bool:
    record = merged.parent / "export.json"
    if not record.is_file() or not merged.is_dir():
        return False
    try:
        made_of = parse_json(record.read_text(encoding="utf-8"))["merged"]
        return bool(made_of["adapter"] == run.adapter and made_of["fingerprint"] == run.fingerprint.digest)
    except (OSError, ValueError, LookupError, TypeError):  # of another version, damaged: it proves nothing
        return False
