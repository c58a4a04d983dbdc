"""Rows too long for gradient checkpointing: layers computed in pieces of tokens, their inputs waiting on the host.

A decoder layer is two computations that look at one token at a time, and attention between them, which looks at all:

    x (1, T, D) -> queries, keys, values          norm, projections, rotary embedding: PIECE tokens at once
    attention -> mixed (1, T, H, D)               whole; its kernel needs memory for T, not for T x T
    x, mixed -> x (1, T, D)                       projection, norm, MLP: PIECE tokens at once

Only the input of each layer is kept for the backward pass (1604.06174). It is copied to page-locked main memory while
the next layer computes, and back while the layer above is differentiated. So a 7B model needs about a dozen
tensors (T, D) on the device, however many layers it has and however wide its MLP is.

    rows = LongRows(model)
    rows.install()          # from now on flat rows are computed in pieces; cached generation is unchanged
    rows.host_bytes(80_000) # 16_056_320_000
    rows.remove()

The layers themselves stay transformers': each piece runs the layer's own forward. Queries, keys and values are caught
when it calls its attention function; a second run skips the projections and gets the result of attention instead.
`why_not` says for which families this does not work.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, PreTrainedModel

from sft.backend import UNSLOTH
from sft.batches import GIBIBYTE
from sft.errors import ModelError
from sft.kernels import attention
from sft.kernels.lora import cast_at_once, keep_unpacked
from sft.models.loaded import LoadedModel
from sft.models.methods import decoder_layers
from sft.models.selfcheck import find_difference, make_rows
from sft.training.memory import HostStore, OutOfMemoryError, free_host_bytes

PIECE = 4096  # tokens; more are hardly faster, and the MLP of 7B takes 0.9 GB of activations for this many
NAME = "in_pieces"  # name of the attention function that catches queries, keys and values
SHARE_OF_HOST = 0.9  # share of the free main memory that layer inputs may take
KERNELS = ("_varlen_attn", "_scaled_dot_product_flash_attention_for_cpu")  # whose outputs are the first one's
READS = ("q_proj", "k_proj", "v_proj")  # names of layers whose outputs are known in the second run


class LongRows:
    """The layers of one model, and the store of their inputs."""

    def __init__(self, model: PreTrainedModel, *, piece: int | None = None, draws: bool = False) -> None:
        """draws: layers draw random numbers in training (dropout), the same ones whenever a piece is computed."""
        self.model, self.piece, self.draws = model, piece or PIECE, draws
        self.store = HostStore(model.device)
        self.keeps_attention = False  # outputs of attention wait on the host, too, where that has room for both
        self._replaced: list[tuple[torch.nn.Module, Callable[..., torch.Tensor] | None]] = []

    def install(self, most_tokens: int = 0) -> None:
        """Compute the layers in pieces, training and scoring; host buffers are made for this many tokens at once.

        What is installed already only learns of the tokens.
        """
        self.keeps_attention = self.host_bytes(most_tokens, keeps=True) <= SHARE_OF_HOST * free_host_bytes()
        self.store.most_tokens, self.store.num_ahead = most_tokens, 1 + self.keeps_attention
        if self._replaced:
            return
        for place, layer in enumerate(decoder_layers(self.model)):
            self._replaced.append((layer, vars(layer).get("forward")))
            layer.forward = partial(self._forward, place, layer, layer.forward)

    def remove(self) -> None:
        """The layers as they were."""
        for layer, before in self._replaced:
            del layer.forward
            if before is not None:
                layer.forward = before
        self._replaced = []
        self.store.free()

    def why_not(self, loaded: LoadedModel, *, is_sharded: bool = False) -> str:
        """Why layers cannot be computed in pieces; "" if they can, proven by short rows in pieces of few tokens."""
        if loaded.backend == UNSLOTH:
            return "Unsloth has layers of its own; take --backend transformers"
        if is_sharded:
            return "sharded weights are gathered for one layer at a time"
        if not loaded.layers.flat or loaded.layers.apart:
            return loaded.layers.why or "its layers carry a state from token to token"
        return find_difference(self.model, make_rows(loaded.tokenizer), self._in_small_pieces(), loaded.autocast)

    def demand(self, loaded: LoadedModel, *, is_sharded: bool) -> None:
        """Raises ModelError if layers cannot be computed in pieces."""
        if why := self.why_not(loaded, is_sharded=is_sharded):
            raise ModelError(f"--activation_offloading: {why}")

    @contextmanager
    def _in_small_pieces(self) -> Iterator[None]:
        usual, self.piece = self.piece, 7
        self.install()
        try:
            yield
        finally:
            self.piece = usual
            self.remove()

    def host_bytes(self, num_tokens: int, *, keeps: bool | None = None) -> int:
        """Main memory that this many tokens take in all processes of this machine; keeps: with outputs of attention."""
        config, layers = self.model.config.get_text_config(decoder=True), decoder_layers(self.model)
        width, num_heads = int(config.hidden_size), int(config.num_attention_heads)
        if self.keeps_attention if keeps is None else keeps:
            width += num_heads * int(getattr(config, "head_dim", None) or width // num_heads)
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return processes * len(layers) * num_tokens * width * self.model.dtype.itemsize

    @property
    def is_installed(self) -> bool:
        """Whether layers are computed in pieces now."""
        return bool(self._replaced)

    @property
    def token_bytes(self) -> int:
        """Bytes per token on the device while attention is differentiated, the peak for long rows.

        Counted are the layer's input and the one copied next, with gradients; queries, keys, values and the output of
        attention, with gradients; and in the kernel (FlashAttention 2) the gradient of queries in fp32 and those of
        keys and values for each query head. Qwen2.5-7B: 97,280 bytes.
        """
        config = self.model.config.get_text_config(decoder=True)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        queries, keys = (size * int(n) for n in (config.num_attention_heads, config.num_key_value_heads))
        ahead = config.hidden_size + queries * self.keeps_attention
        numbers = 3 * config.hidden_size + ahead + 2 * queries + 2 * (queries + 2 * keys)
        return int(numbers * self.model.dtype.itemsize + queries * (4 + 2 * self.model.dtype.itemsize))

    def check_host(self, num_tokens: int) -> None:
        """Raises OutOfMemoryError if main memory has no room for the layer inputs of this many tokens."""
        needed, free = self.host_bytes(num_tokens, keeps=False), SHARE_OF_HOST * free_host_bytes()
        if needed > free:
            raise OutOfMemoryError(
                f"the layer inputs of a row of {num_tokens:,} tokens take {needed / GIBIBYTE:.1f} GB of main memory, "
                f"and {max(free, 0) / GIBIBYTE:.1f} are available; lower --max_seq_length, or free main memory"
            )

    def _forward(
        self,
        place: int,
        layer: torch.nn.Module,
        usual: Callable[..., torch.Tensor],
        hidden_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> torch.Tensor:
        """The forward of a decoder layer: (1, T, D) -> (1, T, D)."""
        is_flat = self.model.config._attn_implementation == attention.NAME and len(hidden_states) == 1
        if not is_flat or kwargs.get("past_key_values") is not None:
            return usual(hidden_states, *args, **kwargs)
        run = _Run(self, place, layer, usual, args, kwargs, hidden_states.shape[1], layer.training and self.draws)
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        if torch.is_grad_enabled() and (weights or hidden_states.requires_grad):
            output: torch.Tensor = _Layer.apply(run, hidden_states, *weights)
            return output
        return run.forward(hidden_states)


class _Layer(torch.autograd.Function):
    """A decoder layer that keeps nothing on the device."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, run: "_Run", x: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor:
        """x (1, T, D) -> (1, T, D). weights: the layer's trained weights."""
        kind = x.device.type
        ctx.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        ctx.random = _random_states(x.device) if run.draws else None
        ctx.run, ctx.weights = run, weights  # which belong to the model, so no reference here keeps them alive
        run.rows.store.put(2 * run.place, x, run.num_tokens)
        kernel = _Kernel() if run.rows.keeps_attention else None
        output = run.forward(x, kernel)
        ctx.rest = kernel.put_away(run.rows.store, 2 * run.place + 1, run.num_tokens) if kernel else None
        return output

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad (1, T, D) -> the gradients of x and of the weights."""
        run: _Run = ctx.run
        kernel = _Kernel((run.rows.store.take(2 * run.place + 1), *ctx.rest)) if ctx.rest else None
        x = run.rows.store.take(2 * run.place)
        # Without autocast's cache: weights cast without gradients would be reused where gradients are needed.
        with torch.autocast(x.device.type, **ctx.autocast, cache_enabled=False), _fork(ctx.random, x.device) as again:
            found = run.backward(x, grad, ctx.weights, kernel, needs_x=ctx.needs_input_grad[1], again=again)
        return None, *found


class _Run(NamedTuple):
    """One call of a decoder layer."""

    rows: LongRows
    place: int
    layer: torch.nn.Module
    usual: Callable[..., torch.Tensor]  # its own forward
    args: tuple[object, ...]
    kwargs: dict[str, object]
    num_tokens: int
    draws: bool

    def forward(self, x: torch.Tensor, kernel: "_Kernel | None" = None) -> torch.Tensor:
        """The layer's output (1, T, D), without gradients. kernel: keeps the output of attention."""
        with self._entered() as seam:
            heads = self._read(seam, x)
            with kernel or nullcontext():
                mixed = seam.attend(*heads)
            del heads
            output = torch.empty_like(x)
            for part in self._parts():
                output[:, part] = self._finish(seam, x[:, part], mixed[:, part], part)
        return output

    def backward(
        self,
        x: torch.Tensor,
        grad: torch.Tensor,
        weights: tuple[torch.Tensor, ...],
        kernel: "_Kernel | None",
        *,
        needs_x: bool,
        again: Callable[[], None],
    ) -> list[torch.Tensor | None]:
        """Gradients of x (None if it needs none) and of the weights, from that of the output, grad (1, T, D).

        kernel: has the output of attention from the forward pass. again: restores the random state at the layer's
        start.
        """
        grad_x = torch.empty_like(x) if needs_x else None
        total: list[torch.Tensor | None] = [None] * len(weights)

        def differentiate(outputs: Any, grads: Any, *own: torch.Tensor) -> list[torch.Tensor | None]:
            """Gradients of `own`; those of the weights are added up."""
            found = torch.autograd.grad(outputs, [*own, *weights], grads, allow_unused=True)
            for number, one in enumerate(found[len(own) :]):
                held = total[number]
                total[number] = one if held is None or one is None else held.add_(one)
                total[number] = held if one is None else total[number]
            return list(found[: len(own)])

        with self._entered() as seam:
            heads = [tensor.requires_grad_() for tensor in self._read(seam, x)]
            with torch.enable_grad(), kernel or nullcontext():
                mixed = seam.attend(*heads)
            grad_mixed = torch.empty_like(mixed)
            for part in self._parts():
                with torch.enable_grad():
                    piece = x[:, part].detach().requires_grad_(needs_x)
                    own = mixed[:, part].detach().requires_grad_()
                    output = self._finish(seam, piece, own, part)
                found = differentiate([output], [grad[:, part]], *([own, piece] if needs_x else [own]))
                grad_mixed[:, part] = found[0]
                if grad_x is not None:
                    grad_x[:, part] = found[1]
            grad_heads = torch.autograd.grad(mixed, heads, grad_mixed)
            del mixed, grad_mixed, heads
            again()
            for part in self._parts():
                with torch.enable_grad():
                    piece = x[:, part].detach().requires_grad_(needs_x)
                    caught = zip(self._catch(seam, piece, part), grad_heads, strict=True)
                    pairs = [(head, of_head[:, :, part]) for head, of_head in caught if head.requires_grad]
                if pairs:
                    found = differentiate(*zip(*pairs, strict=True), *([piece] if needs_x else []))
                    if grad_x is not None:
                        grad_x[:, part] += found[0]
        return [grad_x, *total]

    def _read(self, seam: "_Seam", x: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values of all tokens, (1, heads, T, size) each; in memory (1, T, heads, size)."""
        whole: list[torch.Tensor] = []
        with torch.no_grad():
            for part in self._parts():
                heads = self._catch(seam, x[:, part], part)
                if not whole:
                    shapes = [(1, self.num_tokens, head.shape[1], head.shape[3]) for head in heads]
                    whole = [head.new_empty(shape).transpose(1, 2) for head, shape in zip(heads, shapes, strict=True)]
                for tensor, head in zip(whole, heads, strict=True):
                    tensor[:, :, part] = head
        return whole

    def _catch(self, seam: "_Seam", piece: torch.Tensor, part: slice) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of a piece (1, n, D): (1, heads, n, size) each."""
        seam.mixed = None
        try:
            self._call(piece, part)
        except _Reached as reached:
            return reached.heads
        raise ModelError(f"{type(self.layer).__name__} does not call an attention function that can be exchanged")

    def _finish(self, seam: "_Seam", piece: torch.Tensor, mixed: torch.Tensor, part: slice) -> torch.Tensor:
        """The layer's output for a piece (1, n, D), from what attention gave for it: mixed (1, n, H, D)."""
        seam.mixed = mixed
        with seam.projections_left_out(piece):
            return self._call(piece, part)

    def _call(self, piece: torch.Tensor, part: slice) -> torch.Tensor:
        args = [_cut(value, part, self.num_tokens) for value in self.args]
        kwargs = {name: _cut(value, part, self.num_tokens) for name, value in self.kwargs.items()}
        output = self.usual(piece, *args, **kwargs)
        if not isinstance(output, torch.Tensor):
            raise ModelError(f"{type(self.layer).__name__} returns more than hidden states")
        return output

    def _parts(self) -> list[slice]:
        """[0:4096], [4096:8192], ..., the last one shorter."""
        size, end = self.rows.piece, self.num_tokens
        return [slice(start, min(start + size, end)) for start in range(0, end, size)]

    @contextmanager
    def _entered(self) -> Iterator["_Seam"]:
        """The layer's attention function is ours inside; 4-bit weights are unpacked and adapters cast once for all."""
        config, seam = self.rows.model.config, _Seam()
        before, config._attn_implementation = config._attn_implementation, NAME
        _SEAMS.append(seam)
        keep_unpacked(self.layer)
        try:
            with cast_at_once(self.layer):
                yield seam
        finally:
            keep_unpacked(self.layer, keep=False)
            _SEAMS.remove(seam)
            config._attn_implementation = before


class _Kernel(TorchDispatchMode):
    """Keeps the output of attention's kernel, or returns a kept one instead of computing it.

    It works below autograd, so the backward pass uses these outputs as if autograd had saved them.
    """

    def __init__(self, given: tuple[torch.Tensor, ...] = ()) -> None:
        super().__init__()
        self.given = given
        self.taken: list[tuple[torch.Tensor, ...]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation inside comes through here."""
        if operation._schema.name.split("::")[1] not in KERNELS:
            return operation(*args, **(kwargs or {}))
        if self.given:
            return self.given
        self.taken.append(operation(*args, **(kwargs or {})))
        return self.taken[-1]

    def put_away(self, store: HostStore, place: int, num_tokens: int) -> tuple[torch.Tensor, ...] | None:
        """Into the store what all tokens take memory for; returns the rest, None if it was no single kernel."""
        if len(self.taken) != 1:
            return None
        mixed, *rest = self.taken[0]
        store.put(place, mixed, num_tokens)
        return tuple(rest)


class _Reached(Exception):
    """A layer has come to its attention."""

    def __init__(self, *heads: torch.Tensor) -> None:
        self.heads = heads


class _Seam:
    """The point where a layer is split during its computation: its attention function."""

    def __init__(self) -> None:
        self.mixed: torch.Tensor | None = None  # what attention gave for a piece; None while its first half runs
        self.module: torch.nn.Module | None = None  # the layer's attention
        self.arguments: dict[str, Any] = {}
        self.known: dict[str, int] = {}  # projections that the second half can do without, and how wide they are

    def stand_in(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **arguments: Any,
    ) -> tuple[torch.Tensor, None]:
        """The attention function of a piece."""
        if self.mixed is not None:
            return self.mixed, None
        heads, children = (query, key, value), dict(module.named_children())
        widths = [head.shape[1] * head.shape[3] for head in heads]
        self.module, self.arguments = module, {"attention_mask": attention_mask, **arguments}
        # A wider one gives more than heads (gates), which is needed after attention.
        self.known = {
            name: width
            for name, width in zip(READS, widths, strict=True)
            if getattr(children.get(name), "out_features", None) == width
        }
        raise _Reached(*heads)

    def attend(self, *heads: torch.Tensor) -> torch.Tensor:
        """Attention over all tokens: (1, heads, T, size) each -> (1, T, H, D)."""
        return attention.attend_flat(self.module, *heads, **self.arguments)[0]

    @contextmanager
    def projections_left_out(self, like: torch.Tensor) -> Iterator[None]:
        """Inside this context, the projections before attention return zeros: their output is not read again."""
        assert self.module is not None
        layers = [self.module.get_submodule(name) for name in self.known]
        before = [vars(layer).get("forward") for layer in layers]
        for layer, width in zip(layers, self.known.values(), strict=True):
            layer.forward = lambda x, width=width: like.new_zeros(*x.shape[:-1], width)
        try:
            yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                del layer.forward
                if own is not None:
                    layer.forward = own


def _cut(value: object, part: slice, num_tokens: int) -> object:
    """An argument of a layer for one piece: tensors with all tokens (1, T, ...) are cut, everything else is
    unchanged."""
    if isinstance(value, torch.Tensor):
        return value[:, part] if value.dim() > 1 and value.shape[:2] == (1, num_tokens) else value
    return tuple(_cut(one, part, num_tokens) for one in value) if isinstance(value, tuple) else value


def _random_states(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _fork(states: list[torch.Tensor] | None, device: torch.device) -> Iterator[Callable[[], None]]:
    """Inside, random numbers are those that followed upon these states, and what it yields puts them back to there."""

    def put_back() -> None:
        if states is not None:
            torch.set_rng_state(states[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(states[1], device)

    if states is None:
        yield put_back
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        put_back()
        yield put_back


def _attend(module: torch.nn.Module, *heads: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, None]:
    """The attention function under our name."""
    return _SEAMS[-1].stand_in(module, *heads, **arguments)


_SEAMS: list[_Seam] = []  # of the layers that are being computed, the last one counts
AttentionInterface.register(NAME, _attend)
