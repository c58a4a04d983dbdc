"""What writes the answers, behind one interface: transformers, or vLLM where it is installed.

writer = open_writer("transformers", loaded)
writer.generate(prompts, decoding, progress="tuned: answers")        # list of Generated, in the order of prompts
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from sft.config.decoding import Decoding
from sft.console import progress as show_progress
from sft.errors import ConfigError, ModelError, one_line
from sft.generation.batch import NOTHING_KNOWN, Generated, Room, generate_batch, read_answer
from sft.generation.decode import count_room
from sft.models.loaded import LoadedModel

GeneratorName = Literal["transformers", "vllm"]
VLLM_MEMORY_SHARE = 0.85  # of what is free on the card when it starts; the model to be scored stays beside it
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
        """The same for the untuned model; call it within loaded.adapter_off()."""
        ...


def check_generator(name: GeneratorName, decoding: str) -> None:
    """Raise ConfigError, before any model is loaded, where the generator cannot do what is asked."""
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

    adapter: the folder of its LoRA weights, for vLLM reads files itself. room: what a batch may take in transformers.
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
        """The same engine without the LoRA weights."""
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
