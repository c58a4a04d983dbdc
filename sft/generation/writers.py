"""Two writers of many answers behind one interface: our own loop, and vLLM as a program in an environment of its own.

writer = open_writer("vllm", loaded, weights)             # starts `vllm serve` on a free port of this machine
writer.generate(prompts, decoding)                        # list of Generated, in the order of prompts

vLLM pins versions of torch and transformers that need not be ours, so nothing of it is imported. `make vllm` installs
it into .vllm; a `vllm` on the PATH comes first.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Literal, Protocol

import torch

from sft.batches import GIBIBYTE
from sft.config.decoding import Decoding
from sft.console import progress as show_progress
from sft.console import say
from sft.errors import ConfigError, ModelError, one_line
from sft.generation.batch import NOTHING_KNOWN, Generated, Room, generate_batch, read_answer
from sft.generation.cache import bytes_per_token
from sft.generation.decode import count_room
from sft.models.files import read_json_object
from sft.models.loaded import LoadedModel
from sft.models.precision import Precision
from sft.models.source import ADAPTER_CONFIG, read_tensor_types

GeneratorName = Literal["transformers", "vllm"]
ENVIRONMENT = Path(__file__).parents[2] / ".vllm"
MISSING = "vllm is not installed; run `make vllm`, or put the `vllm` program of another environment on the PATH"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM allows as --max-lora-rank
BASE, TUNED = "base", "tuned"  # names of the two models of an evaluation
MEMORY_SHARE = 0.85  # of the card's free memory at its start; the scored model stays in memory
CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"  # GiB for keys and values; vLLM's own default is 92 % of the machine's memory
CHUNK = 512  # prompts after which answers are handed over, and an interrupted run can continue
AT_ONCE = 64  # requests that wait for an answer at the same time; vLLM forms the batches
START_S, ANSWER_S = 1800, 3600  # a large model is read from a slow disk; an answer waits for the ones before it
# Settings of PEFT with which an adapter is more than products added to layers. Read in vLLM 0.32 (lora/peft_helper.py,
# lora_model.py): it refuses some while loading and skips others without a word; older versions skip more.
UNREAD = {
    "use_dora": "DoRA", "modules_to_save": "modules_to_save", "trainable_token_indices": "trained tokens",
    "target_parameters": "trained experts", "lora_bias": "biases", "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "repeated layers", "use_bdlora": "block-diagonal LoRA", "use_qalora": "QALoRA",
    "rank_pattern": "ranks per layer", "alpha_pattern": "alphas per layer",
}  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # init_lora_weights that leave the base as it is


def find_program() -> str:
    """Path of the `vllm` program. Raises ConfigError if there is none."""
    program = shutil.which("vllm") or shutil.which("vllm", path=str(ENVIRONMENT / "bin"))
    if program is None:
        raise ConfigError(MISSING)
    return program


def describe_adapter(folder: Path, name: str) -> list[str]:
    """Flags that load an adapter under a name: ["--enable-lora", "--lora-modules", "demo=/runs/demo/adapter", ...].

    Raises ModelError for an adapter that vLLM would refuse, or load in part; the message does not say what to do.
    """
    config = read_json_object(folder / ADAPTER_CONFIG)
    found = [what for key, what in UNREAD.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append("biases")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        found.append(f"init_lora_weights {config['init_lora_weights']}")
    if (rank := int(config["r"])) > RANKS[-1]:
        found.append(f"rank {rank} (at most {RANKS[-1]})")
    tensors = read_tensor_types(folder)
    others = [tensor for tensor in tensors if not tensor.endswith((".lora_A.weight", ".lora_B.weight"))]
    others += [tensor for tensor in tensors if ".lm_head." in tensor and tensor not in others]
    if others and not found:
        found.append(f"trained weights outside the linear layers ({others[0]})")
    if found:
        raise ModelError(f"vLLM does not apply an adapter with {', '.join(found)} as it was trained")
    allowed = next(size for size in RANKS if size >= rank)
    return ["--enable-lora", "--lora-modules", f"{name}={folder}", "--max-lora-rank", str(allowed)]


def describe_precision(precision: Precision) -> list[str]:
    """fp32 on a CPU -> ["--dtype", "float32", "--enforce-eager"]: vLLM's own choice is the type the base is stored in.

    On a CPU it would first compile the model, which took five minutes for 135M weights.
    """
    eager = ["--enforce-eager"] if precision.device == "cpu" else []
    return ["--dtype", str(precision.dtype).removeprefix("torch."), *eager]


class Writer(Protocol):
    """Prompt ids -> answers. `known` and `on_answers` as in generate_batch."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        progress: str = "",
        known: Mapping[int, Generated] = NOTHING_KNOWN,
        on_answers: Callable[[dict[int, Generated]], None] | None = None,
    ) -> list[Generated]:
        """The answer to each prompt, in their order."""
        ...

    def without_adapter(self) -> "Writer":
        """This generator for the untuned model; call it within loaded.adapter_off()."""
        ...


def check_generator(name: GeneratorName, decoding: str) -> None:
    """Raise ConfigError, before any model is loaded, if the generator does not support the settings."""
    if name != "vllm":
        return
    if decoding != "precise":
        raise ConfigError(
            f"--decoding {decoding} --generator vllm: its penalties also punish words of the question; leave one out"
        )
    find_program()


def open_writer(
    name: GeneratorName, loaded: LoadedModel, weights: Path | None = None, room: Room | None = None
) -> Writer:
    """The writer of that name for a model.

    weights: the folder of its tuned weights, None for an untuned model; vLLM reads files itself. room: memory of a
    batch in transformers.
    """
    if name != "vllm":
        return TransformersWriter(loaded, room)
    return VllmWriter(loaded, weights)


class TransformersWriter:
    """Batched `generate` of the model in memory, with its adapter where that is on."""

    def __init__(self, loaded: LoadedModel, room: Room | None = None) -> None:
        self.loaded, self.room = loaded, room

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        progress: str = "",
        known: Mapping[int, Generated] = NOTHING_KNOWN,
        on_answers: Callable[[dict[int, Generated]], None] | None = None,
    ) -> list[Generated]:
        """The answer to each prompt, in their order."""
        return generate_batch(
            self.loaded, prompts, decoding, progress=progress, known=known, on_answers=on_answers, room=self.room
        )

    def without_adapter(self) -> Writer:
        """Itself: adapter_off() switches the adapter in memory."""
        return self


class VllmWriter:
    """Greedy answers of vLLM to the same prompt ids, stopping at the same end tokens, in the same number format.

    `weights`: the adapter's folder, or that of a model that was tuned whole; None for the untuned model.
    """

    def __init__(self, loaded: LoadedModel, weights: Path | None = None) -> None:
        program = find_program()
        self.loaded, self.name = loaded, BASE
        folder, flags = loaded.source.folder, []
        remedy = "leave the flag out"
        if loaded.source.rope_scaling:
            raise ModelError(f"--generator vllm: it would not scale positions as this run does; {remedy}")
        if loaded.has_adapter and weights is not None:
            try:
                flags = describe_adapter(weights, TUNED)
            except ModelError as error:
                raise ModelError(f"--generator vllm: {error}; {remedy}") from None
            self.name = TUNED
        elif loaded.is_tuned and weights is not None:
            folder = weights
        environment = {**os.environ, "VLLM_API_KEY": secrets.token_hex(16)}
        if loaded.device.type == "cuda":
            free, total = torch.cuda.mem_get_info()
            flags += ["--gpu-memory-utilization", str(round(MEMORY_SHARE * free / total, 3))]
        else:
            context = bytes_per_token(loaded.causal_lm.config, loaded.precision.dtype) * loaded.max_context
            environment.setdefault(CPU_CACHE, str(-(-context // GIBIBYTE)))
        if getattr(loaded.causal_lm, "is_loaded_in_4bit", False):
            if loaded.device.type != "cuda":
                raise ModelError(f"--generator vllm: it has no base in 4 bits on a CPU; {remedy}")
            flags += ["--quantization", "bitsandbytes"]
        self.server = _Server(
            [
                program, "serve", str(folder), "--served-model-name", BASE, *flags,
                *describe_precision(loaded.precision), "--max-model-len", str(loaded.max_context),
                "--generation-config", "vllm",
            ],
            environment,
        )  # fmt: skip

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        progress: str = "",
        known: Mapping[int, Generated] = NOTHING_KNOWN,
        on_answers: Callable[[dict[int, Generated]], None] | None = None,
    ) -> list[Generated]:
        """The answer to each prompt, in their order; on_answers gets CHUNK at a time."""
        answers = dict(known)
        open_places = [place for place in range(len(prompts)) if place not in known]
        with (
            show_progress(total=len(open_places), description=progress, shown=bool(progress)) as bar,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            for start in range(0, len(open_places), CHUNK):
                places = open_places[start : start + CHUNK]
                new: dict[int, Generated] = {}
                for place, answer in zip(
                    places, pool.map(lambda place: self._answer(prompts[place], decoding), places), strict=True
                ):
                    new[place] = answer
                    bar.update(1)
                answers |= new
                if on_answers is not None:
                    on_answers(new)
        return [answers[place] for place in range(len(prompts))]

    def without_adapter(self) -> "VllmWriter":
        """This server, asked for the base."""
        base = copy(self)
        base.name = BASE
        return base

    def _answer(self, prompt: Sequence[int], decoding: Decoding) -> Generated:
        said = self.server.ask(
            {
                "model": self.name,
                "prompt": list(prompt),
                "max_tokens": count_room(self.loaded, prompt, decoding),
                "temperature": 0.0,
                "stop_token_ids": list(self.loaded.chat.end_ids),
                "return_token_ids": True,  # the end token among them
            }
        )
        return read_answer(self.loaded, list(said["choices"][0]["token_ids"]))


class _Server:
    """`vllm serve` while somebody refers to it; it ends with this object, and on Linux with this process."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [*command, "--host", "127.0.0.1", "--port", str(port)]
        say(" ".join(command))
        self.address, self.key = f"http://127.0.0.1:{port}", environment["VLLM_API_KEY"]
        # It writes as much as it likes, so into a file that nobody sees unless it fails.
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed with it)
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self.process)
        started = time.monotonic()
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() - started > START_S:
                raise ModelError(f"--generator vllm: it did not start ({self._last_error()}); leave the flag out")
            time.sleep(0.5)
        say(f"vllm was ready after {time.monotonic() - started:.0f} s")

    def ask(self, body: dict[str, object]) -> dict[str, list[dict[str, list[int]]]]:
        """The answer of /v1/completions. Raises ModelError with vLLM's own words."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.address}/v1/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
                return dict(json.load(response))
        except (OSError, ValueError) as error:
            said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else str(error)
            raise ModelError(f"--generator vllm: {one_line(said, 300)}; leave the flag out") from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _last_error(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log if "Error" in line or "error:" in line]
        return one_line(lines[-1], 300) if lines else "it said nothing"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: killed with -9, we could not tell it
