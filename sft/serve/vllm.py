"""The run on vLLM: the arguments with which `vllm serve` prompts the model as in training.

command = build_command(run, settings)      # ["vllm", "serve", ".../export/merged", "--served-model-name", "demo", ...]

The merged weights where export.py made them of this run, else the base with the adapter. vLLM has its own decoding and
knows no tasks; the chat template brings the run's system prompt, a generation config the tokens that end an answer.
Not run against vLLM itself here: it needs a GPU.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

from prompts import ChatFormat
from sft.config.serve import ServeSettings
from sft.console import say
from sft.errors import ConfigError
from sft.files import parse_json
from sft.runs.run import Run, write_atomically
from sft.serve.guard import KEY_VARIABLE, read_api_key

MISSING = "vllm is not installed; run `pip install vllm` in an environment of its own, or use --backend native"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM allows as --max-lora-rank
TEMPLATE_FILE, GENERATION_FILE = "chat_template.jinja", "generation_config.json"


def hand_over(run: Run, settings: ServeSettings) -> NoReturn:
    """Become `vllm serve`. Raises ConfigError if vllm is missing."""
    run.check_writes("--backend vllm")
    program = shutil.which("vllm")
    if program is None:
        raise ConfigError(MISSING)
    key = read_api_key(settings.host)
    command = build_command(run, settings)
    say(" ".join(command))
    environment = {**os.environ, **({"VLLM_API_KEY": key} if key else {})}
    environment.pop(KEY_VARIABLE, None)
    os.execve(program, command, environment)


def build_command(run: Run, settings: ServeSettings) -> list[str]:
    """The whole command line; the API key is not in it. Chat template and end tokens are written to <run>/export/.

    Raises ConfigError for an adapter that vLLM does not take.
    """
    name = settings.name or run.path.name
    common = ["--host", settings.host, "--port", str(settings.port), "--max-num-seqs", str(settings.max_batch)]
    merged = run.path / "export" / "merged"
    if _is_of_this_run(run, merged):
        return ["vllm", "serve", str(merged), "--served-model-name", name, *common]
    trained = run.train_settings()
    if trained.has_adapter and (trained.use_dora or trained.modules_to_save or trained.lora_r > RANKS[-1]):
        raise ConfigError(
            f"{run.path.name}: vLLM takes no adapter with DoRA, modules_to_save or a rank above {RANKS[-1]}; run "
            f"`python export.py --run {run.path} --merge` first, then the merged weights are served"
        )
    if run.base.get("rope_scaling"):
        raise ConfigError(
            f"{run.path.name}: its positions are scaled ({run.base['rope_scaling']}), which the base's own config does "
            f"not say; run `python export.py --run {run.path} --merge` first, then the merged weights are served"
        )
    from sft.export.template import build_template  # heavy: after it is known that vllm is there
    from sft.models.identity import check_fingerprint, tokenizer_folder
    from sft.models.loading import load_tokenizer
    from sft.models.source import find_base

    trusted = settings.trust_remote_code
    source = find_base(run)
    tokenizer = load_tokenizer(tokenizer_folder(run, source), trust_remote_code=trusted)
    chat = ChatFormat.from_tokenizer(tokenizer, think=trained.think)
    check_fingerprint(run, chat, source, allow_mismatch=settings.allow_mismatch)
    export = run.path / "export"
    export.mkdir(exist_ok=True)
    text = build_template(chat.template, run.system_prompt, trained.think, has_think_block=chat.family.has_think_block)
    write_atomically(export / TEMPLATE_FILE, text)
    # The base's own config may end answers with another token than the one that was learned.
    write_atomically(export / GENERATION_FILE, json.dumps({"eos_token_id": list(chat.end_ids)}) + "\n")
    prompt = ["--chat-template", str(export / TEMPLATE_FILE), "--generation-config", str(export)]
    if trusted:
        prompt.append("--trust-remote-code")
    if not trained.has_adapter:
        tuned = ["vllm", "serve", str(run.weights_dir), "--served-model-name", name]
        return [*tuned, *prompt, *common]
    rank = next(allowed for allowed in RANKS if allowed >= trained.lora_r)
    lora = ["--enable-lora", "--lora-modules", f"{name}={run.weights_dir}", "--max-lora-rank", str(rank)]
    four_bit = ["--quantization", "bitsandbytes"] if trained.method == "qlora" else []
    return ["vllm", "serve", str(source.folder), *lora, *four_bit, *prompt, *common]


def _is_of_this_run(run: Run, merged: Path) -> bool:
    record = merged.parent / "export.json"
    if not record.is_file() or not merged.is_dir():
        return False
    try:
        made_of = parse_json(record.read_text(encoding="utf-8"))["merged"]
        return bool(made_of["adapter"] == run.adapter and made_of["fingerprint"] == run.fingerprint.digest)
    except (OSError, ValueError, LookupError, TypeError):  # of another version, damaged: it proves nothing
        return False
