"""Many prompts at once: batches of like lengths, answers in the order of the prompts.

generate_batch(loaded, prompts, decoding, progress="tuned: answers")        # list of Generated, in the order of prompts
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from sft.backend import UNSLOTH
from sft.batches import GIBIBYTE, TOKENS_PER_BATCH, plan_batches
from sft.config.decoding import Decoding
from sft.console import progress as show_progress
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
    """Limits of a batch: tokens read in one pass, and bytes for keys and values of prompts and answers."""

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
