"""Many prompts at once: batches of like lengths, answers in the order of the prompts.

writer = open_writer("transformers", loaded)                         # or "vllm", where that is installed
writer.generate(prompts, decoding, progress="tuned: answers")        # list of Generated, in the order of prompts
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import torch

from sft.backend import UNSLOTH
from sft.batches.layout import GIBIBYTE, TOKENS_PER_BATCH, plan_batches
from sft.config.decoding import Decoding
from sft.console import progress as show_progress
from sft.errors import ConfigError, ModelError, one_line
from sft.generation.cache import bytes_per_token
from sft.generation.decode import count_room, decode
from sft.generation.prefix import compute_prefix
from sft.generation.selfcheck import Caching, find_caching
from sft.generation.stock import call_generate
from sft.models.loaded import LoadedModel, in_eval_mode

MAX_BATCH_ROWS = 256
CPU_CACHE_BYTES = 2**28  # 11,000 tokens of SmolLM2-135M in bf16
FREE_SHARE = 0.5  # of the memory that is free on a GPU


class Room(NamedTuple):
    """What a batch may take: tokens read in one pass, and bytes for keys and values of prompts and answers."""

    tokens: int
    cache_bytes: int


@dataclass(frozen=True)
class Generated:
    """One answer: Generated("Hello.", [19556, 30], finished=True)."""

    text: str
    token_ids: list[int]  # generated ids without the end token
    finished: bool  # False where max_new_tokens or the context cut the answer off


NOTHING_KNOWN: Mapping[int, Generated] = MappingProxyType({})


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    progress: str = "",
    known: Mapping[int, Generated] = NOTHING_KNOWN,
    on_answers: Callable[[dict[int, Generated]], None] | None = None,
    room: Room | None = None,
) -> list[Generated]:
    """The answer to each prompt (ids as ChatFormat.encode_prompt gives them), in the order of the prompts.

    A prompt's answer does not depend on the others: batches change the speed alone. `progress` names the bar shown
    while it works, "" shows none. Raises ModelError for a prompt that fills the model's context.

    known: answers of an interrupted run by index. Batches are planned as if there were none and skipped if every
    answer is known, so that rounding, which depends on the neighbours, is that of an uninterrupted run. on_answers is
    called after each batch with its answers by index.
    """
    rooms = [count_room(loaded, prompt, decoding) for prompt in prompts]
    room = room or usual_room(loaded)
    caching = Caching.NOT if loaded.backend == UNSLOTH or not prompts else find_caching(loaded)
    is_batched = loaded.backend == UNSLOTH or caching is Caching.TOGETHER
    budget = room.cache_bytes // bytes_per_token(loaded.causal_lm.config, loaded.precision.dtype) if is_batched else 0
    batches = plan_batches([len(prompt) for prompt in prompts], budget, MAX_BATCH_ROWS, padded=True, growing_by=rooms)
    answers = {place: known[place] for places in batches if all(place in known for place in places) for place in places}
    with in_eval_mode(loaded.model):
        shared = prompts if is_batched else prompts[:1]  # of one alone nothing is shared
        prefix = compute_prefix(loaded, shared) if len(answers) < len(prompts) else None
    done = 0
    with show_progress(total=len(prompts) - len(answers), description=progress, shown=bool(progress)) as bar:
        for places in batches:
            if prefix is None or places[0] in answers:
                continue
            batch = [prompts[place] for place in places]
            if caching is Caching.NOT:
                written = call_generate(loaded, batch, decoding, rooms[places[0]])
            else:
                written = decode(
                    loaded, batch, decoding, rooms[places[0]], prefix=prefix, max_tokens=room.tokens,
                    on_step=lambda rows, done=done: bar.reach(done + int(rows)),  # type: ignore[misc]
                )  # fmt: skip
            new = {place: read_answer(loaded, ids) for place, ids in zip(places, written, strict=True)}
            answers |= new
            if on_answers is not None:
                on_answers(new)
            done += len(places)
            bar.reach(done)
    return [answers[place] for place in range(len(prompts))]


def usual_room(loaded: LoadedModel) -> Room:
    """Default memory of a batch: little on a CPU, half of the free memory on a GPU."""
    if loaded.device.type != "cuda":
        return Room(TOKENS_PER_BATCH["cpu"], CPU_CACHE_BYTES)
    free = int(FREE_SHARE * torch.cuda.mem_get_info(loaded.device)[0])
    whole = free // GIBIBYTE * GIBIBYTE  # so that a little more or less of it free plans the same batches
    return Room(TOKENS_PER_BATCH["cuda"], whole or free)


def read_answer(loaded: LoadedModel, ids: list[int]) -> Generated:
    """New ids as call_generate gives them -> the answer."""
    finished = bool(ids) and ids[-1] in loaded.chat.end_ids
    token_ids = ids[:-1] if finished else ids
    return Generated(loaded.chat.spell_answer(token_ids), token_ids, finished)


GeneratorName = Literal["transformers", "vllm"]
VLLM_MEMORY_SHARE = 0.85  # of the card's free memory at its start; the scored model stays in memory
VLLM_CHUNK = 512  # prompts after which answers are handed over, and an interrupted run can continue
MAX_LORA_RANK = 256  # the largest that vLLM takes


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
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "--generator vllm: the package is not installed; run `pip install vllm`, or leave the flag out"
        )
    if decoding != "precise":
        raise ConfigError(
            f"--decoding {decoding} --generator vllm: its penalties also punish words of the question; leave one out"
        )
    if not torch.cuda.is_available():
        raise ConfigError("--generator vllm: no CUDA GPU here; leave the flag out")


def open_writer(
    name: GeneratorName, loaded: LoadedModel, adapter: Path | None = None, room: Room | None = None
) -> Writer:
    """The writer of that name for a model.

    adapter: the folder of its LoRA weights, because vLLM reads files itself. room: memory of a batch in transformers.
    """
    if name != "vllm":
        return TransformersWriter(loaded, room)
    if loaded.is_tuned and not loaded.has_adapter:
        raise ModelError("--generator vllm: it takes runs with an adapter, not freeze or full ones; leave the flag out")
    return VllmWriter(loaded, adapter)


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
    """vLLM over the files of the model: greedy, from the same prompt ids, stopping at the same end tokens.

    4-bit models run in 4 bits there, too. `adapter`: the folder of the LoRA weights that are applied.
    """

    def __init__(self, loaded: LoadedModel, adapter: Path | None) -> None:
        import vllm

        self.loaded, self.adapter = loaded, adapter
        if loaded.source.rope_scaling:
            raise ModelError("--generator vllm: it would not scale positions as this run does; leave the flag out")
        free, total = torch.cuda.mem_get_info()
        four_bit = getattr(loaded.causal_lm, "is_loaded_in_4bit", False)
        try:
            self.engine: Any = vllm.LLM(
                model=str(loaded.source.folder),
                dtype=str(loaded.precision.dtype).removeprefix("torch."),
                quantization="bitsandbytes" if four_bit else None,
                max_model_len=loaded.max_context,
                gpu_memory_utilization=round(VLLM_MEMORY_SHARE * free / total, 3),
                enable_lora=adapter is not None,
                max_lora_rank=MAX_LORA_RANK if adapter is not None else 16,
                skip_tokenizer_init=True,
                seed=0,
            )
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"--generator vllm: it cannot load {loaded.source.name} ({one_line(error, 200)}); leave the flag out"
            ) from None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        progress: str = "",
        known: Mapping[int, Generated] = NOTHING_KNOWN,
        on_answers: Callable[[dict[int, Generated]], None] | None = None,
    ) -> list[Generated]:
        """The answer to each prompt, in their order, VLLM_CHUNK at a time; vLLM forms the batches."""
        answers = dict(known)
        open_places = [place for place in range(len(prompts)) if place not in known]
        with show_progress(total=len(open_places), description=progress, shown=bool(progress)) as bar:
            for start in range(0, len(open_places), VLLM_CHUNK):
                places = open_places[start : start + VLLM_CHUNK]
                new = dict(zip(places, self._write([prompts[place] for place in places], decoding), strict=True))
                answers |= new
                if on_answers is not None:
                    on_answers(new)
                bar.update(len(places))
        return [answers[place] for place in range(len(prompts))]

    def without_adapter(self) -> Writer:
        """This engine without the LoRA weights."""
        base = copy(self)
        base.adapter = None
        return base

    def _write(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generated]:
        import vllm
        from vllm.lora.request import LoRARequest

        outputs = self.engine.generate(
            [vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
            [
                vllm.SamplingParams(
                    temperature=0.0,
                    max_tokens=count_room(self.loaded, prompt, decoding),
                    stop_token_ids=list(self.loaded.chat.end_ids),
                    detokenize=False,
                )
                for prompt in prompts
            ],
            lora_request=LoRARequest("run", 1, str(self.adapter)) if self.adapter else None,
            use_tqdm=False,
        )
        return [read_answer(self.loaded, list(output.outputs[0].token_ids)) for output in outputs]
