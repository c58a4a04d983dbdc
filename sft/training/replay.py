"""Forward and backward passes recorded once as CUDA graphs and replayed: one launch for a pass instead of thousands.

A step of a 7B model launches some 5,000 kernels, and a card like the H100 runs them faster than Python launches them.
A graph has fixed shapes: micro-batches are filled up to a multiple of TOKEN_STEP tokens (sft.batches.fill_up),
and each Size of the run is recorded before its first step. All sizes share one pool of memory, made by the first one,
the largest. Between the two passes the loss is computed as usual, from the hidden states.

Recordings have silently been wrong while another program used the card (docs/decisions.md). So every CHECK_EVERY-th
forward pass is launched again without its recording, and a run whose two passes differ ends.

    passes = ReplayedPasses(loaded, max_rows=8, max_tokens=8192, longest=2048)
    passes.begin_step()                                        # gradients are zero
    passes.run(batch, loss_of_hidden)                          # (), the gradients are added
    passes.end_step()                                          # processes have the same gradients
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import compress
from typing import NamedTuple

import torch
from torch import distributed
from torch.func import functional_call
from transformers import PreTrainedModel

from prompts import Encoded
from sft.batches import Batch, fill_up, flatten_rows, tensor_of, to_device
from sft.errors import RunError, one_line
from sft.kernels.lora import cast_at_once, products_as_recorded
from sft.models.loaded import LoadedModel
from sft.training.memory import free_bytes
from sft.training.processes import are_joined, world_size

TOKEN_STEP = 128  # padding costs 64 tokens per micro-batch on average; a recording takes 0.2 s
FEWEST_STEPS = 200  # of a run that is recorded by default: in a shorter one recording takes longer than it saves
MOST_FOR_COPIES = 0.1  # of the free memory, for copies of gradients
CHECK_EVERY = 200  # passes; costs one forward pass in 200
MOST_AWAY = (
    0.1  # of the norm of a token's hidden states; the same kernels are bit-identical, a wrong tile differs by far more
)

Run = Callable[[], None]

# NEFTune: uniform noise on the input embeddings while training (2310.05914), right for rows concatenated too.
# The noise of a token is scaled by alpha / sqrt(L * d), L being the length of its own row. (The trainer's built-in hook
# takes L from the shape of the batch, which is the sum of all rows here and counts padding elsewhere.)


def length_of_each_token(row_lengths: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Length of the row that each token of concatenated rows belongs to: [2, 3], 5 -> (1, 5) [2, 2, 3, 3, 3].

    num_tokens: their sum; computing it would make Python wait for the GPU.
    """
    return row_lengths.repeat_interleave(row_lengths, output_size=num_tokens)[None]


@contextmanager
def embedding_noise(model: PreTrainedModel, alpha: float | None, row_lengths: torch.Tensor | None) -> Iterator[None]:
    """Add noise to the output of the input embeddings inside this context, in training mode only.

    row_lengths: the length of the row each token belongs to, broadcastable to the ids: (1, T) or (B, 1). None if
    tokens belong to several rows, which would need different noise.
    """
    if not alpha or not model.training:
        yield
        return

    if row_lengths is None:
        raise ValueError("each row has its own noise on the embeddings, so rows cannot share prefixes")

    def add_noise(module: torch.nn.Module, inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        scale = alpha / (row_lengths.to(embedded.device) * embedded.shape[-1]).sqrt()
        return embedded + (torch.rand_like(embedded) * 2 - 1) * scale[..., None].to(embedded.dtype)

    hook = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()


def records_unasked(num_steps: int, has_adapter: bool) -> bool:
    """Whether a run of this many steps is recorded by default. Several processes and whole weights are recorded only on
    request, until benchmarks/soak.py has compared 2,000 of their steps."""
    return num_steps >= FEWEST_STEPS and world_size() == 1 and has_adapter


def records_weights(loaded: LoadedModel) -> bool:
    """Whether passes that train whole weights (full, freeze) can be recorded: in one process, if the second copy of
    their gradients that a recording holds is small."""
    if loaded.has_adapter or world_size() > 1:
        return False
    num_trained = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    return num_trained * torch.float32.itemsize <= MOST_FOR_COPIES * free_bytes()


class RecordingError(RuntimeError):
    """A pass cannot be recorded; the text says why."""


class Size(NamedTuple):
    """Shape of a recorded pass: the key by which its CUDA graph is found again."""

    num_tokens: int
    num_keys: int  # keys that all segments see, in sum; 0 without shared prefixes

    @classmethod
    def of(cls, num_tokens: int, num_keys: int) -> "Size":
        """The shape for a batch of this many tokens and keys: (3640, 0) -> (3712, 0); (1000, 2500) -> (1024, 4096)."""
        filled = round_up(num_tokens)
        if not num_keys:
            return cls(filled, 0)
        times = (num_keys + filled - num_tokens - 1) // filled  # a power of two holds them
        return cls(filled, filled << times.bit_length())

    @classmethod
    def of_batch(cls, batch: Batch) -> "Size":
        """The shape for a flat batch, as flatten_rows makes it."""
        keys = batch.get("key_places")
        return cls.of(tensor_of(batch["input_ids"]).shape[1], 0 if keys is None else len(tensor_of(keys)))


class ReplayedPasses:
    """The passes of one process. Adds to `.grad` of the model's trained weights, which are views of one flat tensor."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_rows: int,
        max_tokens: int,
        longest: int,
        noise_alpha: float | None = None,
        autocast: torch.dtype | None = None,
        record: "GraphRecorder | Rerun | None" = None,
    ) -> None:
        """max_rows, max_tokens: of a micro-batch. longest: tokens of the longest row.

        autocast: the type that layers are computed in where their weights are trained in fp32; None: their own.
        record: makes of a pass (and what prepares its first recording) what repeats it.
        """
        self.loaded, self.max_rows, self.longest, self.noise_alpha = loaded, max_rows, longest, noise_alpha
        self.autocast = autocast
        self.record = record or GraphRecorder()
        self.weights = [weight for weight in loaded.model.parameters() if weight.requires_grad]
        self.flat = torch.zeros(sum(weight.numel() for weight in self.weights), device=loaded.device)
        parts = self.flat.split([weight.numel() for weight in self.weights])
        self.gradients = [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]
        # Recordings use aliases of the weights, on the same memory: with several processes the gradients of the weights
        # themselves belong to DDP, on a stream that a recording must not touch.
        names = {weight: name for name, weight in loaded.causal_lm.base_model.named_parameters()}
        inside = [weight in names for weight in self.weights]  # a head is outside the layers: it learns from the loss
        self.aliases = {names[weight]: weight.detach().requires_grad_() for weight in compress(self.weights, inside)}
        self.found_by_layers = list(compress(self.gradients, inside))  # where the gradients of the aliases go
        shape = (round_up(max(max_tokens, longest)), loaded.causal_lm.config.hidden_size)
        dtype = torch.float32 if autocast else loaded.precision.dtype  # autocast may leave the hidden states in fp32
        self.hidden = torch.empty(shape, dtype=dtype, device=loaded.device)  # (T, D)
        self.grad_hidden = torch.empty_like(self.hidden)
        self._sizes: dict[Size, _Recorded] = {}
        self._num_runs = 0

    def begin_step(self) -> None:
        """Set every gradient to zero; the optimizer will find them in `.grad`."""
        if not self.loaded.causal_lm.training:
            self.loaded.model.train()
        self.flat.zero_()
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient

    def run(self, batch: Batch, loss_of_hidden: Callable[[torch.Tensor, Batch], torch.Tensor]) -> torch.Tensor:
        """Loss of a flat batch, detached; its gradients are added.

        Raises RecordingError if a size cannot be recorded, RunError where a recording computes something else.
        """
        size = Size.of_batch(batch)
        num_tokens = size.num_tokens
        filled = self._fill_up(batch, size)
        self.record_sizes([size])
        recorded = self._sizes[size]
        for name, value in filled.items():
            recorded.inputs[name].copy_(value)
        batch = to_device(batch, self.loaded.device)  # now, because after the forward pass the copies would wait for it
        if self._num_runs % CHECK_EVERY == 0:
            recorded.check_forward()
        else:
            recorded.forward()
        self._num_runs += 1
        hidden = self.hidden[:num_tokens].detach().requires_grad_()
        loss = loss_of_hidden(hidden, batch)
        loss.backward()
        self.grad_hidden[:num_tokens].copy_(hidden.grad)
        recorded.backward()
        return loss.detach()

    def record_sizes(self, sizes: Iterable["Size"]) -> None:
        """Record passes of these sizes, the largest first; raises RecordingError if that cannot be done."""
        pad_id = self.loaded.chat.pad_id
        for size in sorted(set(sizes) - self._sizes.keys(), reverse=True):
            num_rows = min(self.max_rows, max(1, size.num_tokens // self.longest))
            row = Encoded([pad_id] * min(self.longest, size.num_tokens), [1] * min(self.longest, size.num_tokens))
            batch = flatten_rows([row] * num_rows)
            batch["key_places"] = torch.arange(tensor_of(batch["input_ids"]).shape[1])
            try:
                self._sizes[size] = _Recorded(self, self._fill_up(batch, size))
            except RuntimeError as error:  # out of memory among them
                self.forget()
                raise RecordingError(one_line(_first(error), 200)) from None

    def _fill_up(self, batch: Batch, size: "Size") -> dict[str, torch.Tensor]:
        rows = 2 * self.max_rows - 1 if size.num_keys else self.max_rows  # leaves and branches of a tree
        return fill_up(batch, size.num_tokens, rows, self.loaded.chat.pad_id, size.num_keys or None)

    def end_step(self) -> None:
        """Average the gradients over the processes."""
        if are_joined():
            distributed.all_reduce(self.flat)
            self.flat /= distributed.get_world_size()

    def forget(self) -> None:
        """Drop all recordings and their memory."""
        self._sizes.clear()
        self.record.forget()


class _Recorded:
    """The passes for one number of tokens."""

    def __init__(self, passes: ReplayedPasses, filled: dict[str, torch.Tensor]) -> None:
        self.passes, self.num_tokens = passes, filled["input_ids"].shape[1]
        device = passes.loaded.device
        self.inputs = {name: value.to(device) for name, value in filled.items()}
        # transformers takes a mask of four dimensions as it is, and does not look at positions for rows (and wait)
        self.no_mask = torch.zeros(1, 1, 1, 1, device=device)
        self.output: torch.Tensor | None = None  # with its autograd graph, from the forward pass to the backward pass
        self.forward = passes.record(self._forward, self._rehearse)
        self.backward = passes.record(self._backward, _do_nothing)

    def _compute(self) -> torch.Tensor:
        """The layers' output, (T, D)."""
        loaded, lengths = self.passes.loaded, self.inputs.get("row_lengths")
        of_token = None if lengths is None else length_of_each_token(lengths, self.num_tokens)
        noise = embedding_noise(loaded.causal_lm, self.passes.noise_alpha, of_token)
        with loaded.flat_rows(), noise, cast_at_once(loaded.model), self._in_autocast():
            inputs = {
                **{name: value for name, value in self.inputs.items() if name != "row_lengths"},
                "attention_mask": self.no_mask,
                "max_length_q": self.passes.longest,
                "max_length_k": self.passes.longest,
                "use_cache": False,
            }
            output = functional_call(loaded.causal_lm.base_model, self.passes.aliases, kwargs=inputs)
        hidden: torch.Tensor = output.last_hidden_state.squeeze(0)
        return hidden

    def _in_autocast(self) -> AbstractContextManager[object]:
        """Autocast as in the trainer, but without its cache, whose casts of weights would outlive the recording."""
        dtype = self.passes.autocast
        kind = self.passes.loaded.device.type
        return torch.autocast(kind, dtype=dtype, cache_enabled=False) if dtype else contextlib.nullcontext()

    def _forward(self) -> None:
        self.output = self._compute()
        self.passes.hidden[: self.num_tokens].copy_(self.output.detach())

    def check_forward(self) -> None:
        """Compare the replayed forward pass with a launched one; raises RunError if they differ by more than
        rounding."""
        device = self.passes.loaded.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), products_as_recorded():
            launched = self._compute().float()
        self.forward()
        away = (self.passes.hidden[: self.num_tokens] - launched).norm(dim=-1) / launched.norm(dim=-1).clamp(min=1e-9)
        largest = float(away.nan_to_num(nan=float("inf")).max())
        if largest > MOST_AWAY:
            raise RunError(
                f"a replayed CUDA graph gave hidden states {largest:.2g} of their size away from the same pass without "
                "it: what was learned since the last checkpoint may be wrong; resume it with "
                "--resume_from_checkpoint auto --no-cuda_graphs"
            )

    def _backward(self) -> None:
        given = self.passes.grad_hidden[: self.num_tokens]
        assert self.output is not None  # a forward pass came before
        found = self._differentiate(self.output, given)
        added = [
            (total, one.float())
            for total, one in zip(self.passes.found_by_layers, found, strict=True)
            if one is not None
        ]
        torch._foreach_add_(*(list(part) for part in zip(*added, strict=True)))
        self.output = None  # returns its activations to the pool, for the other sizes

    def _rehearse(self) -> None:
        """Run both passes once as a warm-up, so that kernels are compiled and libraries allocate their workspaces."""
        output = self._compute()
        self._differentiate(output, torch.zeros_like(output))

    def _differentiate(self, output: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with self.passes.loaded.flat_rows():  # layers may be recomputed
            found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                output, list(self.passes.aliases.values()), grad.to(output.dtype), allow_unused=True
            )
        return found


class GraphRecorder:
    """Records passes as CUDA graphs in one pool of memory."""

    def __init__(self) -> None:
        self.pool: tuple[int, int] | None = None

    def __call__(self, run: Run, rehearse: Run) -> Run:
        """Record the pass and return a function that replays it; `rehearse` runs before the very first recording."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                rehearse()
            torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # NCCL has a thread that queries events at any time; without it nothing may touch the GPU meanwhile.
        mode = "thread_local" if distributed.is_available() and distributed.is_initialized() else "global"
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=mode):
            run()
        replay: Run = graph.replay
        return replay

    def forget(self) -> None:
        """Start a new pool with the next recording."""
        self.pool = None


class Rerun:
    """Records nothing and runs the pass each time: a stand-in that tests the handling of batches on any machine."""

    def __call__(self, run: Run, rehearse: Run) -> Run:
        """The pass itself."""
        return run

    def forget(self) -> None:
        """Nothing was kept."""


def round_up(num_tokens: int) -> int:
    """To the next multiple of TOKEN_STEP: 3640 -> 3712."""
    return -(-num_tokens // TOKEN_STEP) * TOKEN_STEP


def _first(error: BaseException) -> BaseException:
    """The first error in a recording, not the one that ending it raised afterwards."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _do_nothing() -> None: ...
