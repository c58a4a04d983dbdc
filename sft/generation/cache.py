"""Keys and values of a batch, in memory allocated once: new ones are written in place, nothing is copied.

transformers' own cache lays everything together anew with each token. At 64 rows that takes as long as reading it, and
the ever larger pieces leave a CPU's memory in fragments: 4.7 GB where 1.3 are needed.

    cache = BatchCache(model.config, num_rows=16, num_columns=150)
    model(..., past_key_values=cache.rows(slice(0, 8), length=0))     # the first eight, in the same memory
    cache.keep([0, 3, 5])                                             # the other rows leave
    cache.join(another)                                               # its rows come after these
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

GROWTH = 256  # minimum number of columns added at once, so that not every token copies the cache


@dataclass
class Memory:
    """Keys and values of one layer, (num_rows, H, num_columns, D) each, allocated with the first ones.

    Zeros, for columns of padding are read, too: times a weight of zero, anything finite is nothing.
    """

    num_rows: int
    num_columns: int
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None

    def take(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory, in the type and on the device of these."""
        if self.keys is None or self.values is None:
            self.keys, self.values = (
                part.new_zeros(self.num_rows, part.shape[1], self.num_columns, part.shape[3]) for part in (keys, values)
            )
        return self.keys, self.values

    def make_room(self, num_columns: int) -> None:
        """Allocate at least this many columns; written ones stay where they are."""
        if num_columns <= self.num_columns:
            return
        more = max(num_columns - self.num_columns, GROWTH)
        self.num_columns += more
        if self.keys is not None and self.values is not None:
            self.keys, self.values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))


class WrittenLayer(DynamicLayer):
    """The rows `first` to `last` of a layer's memory, of which `length` columns are written."""

    def __init__(self, memory: Memory, first: int, last: int, length: int = 0) -> None:
        super().__init__()
        self.memory, self.first, self.last, self.length = memory, first, last, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write columns (B, H, N, D) after those there are; all of them, (B, H, T, D) each."""
        start, self.length = self.length, self.length + key_states.shape[2]
        self.memory.make_room(self.length)
        memory = self.memory.take(key_states, value_states)
        rows = [part[self.first : self.last] for part in memory]
        for part, new in zip(rows, (key_states, value_states), strict=True):
            part[:, :, start : self.length] = new
        self.is_initialized = True
        self.keys, self.values = (part[:, :, : self.length] for part in rows)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns that are written."""
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last columns; their number is negative, as transformers wants it."""
        self.length += tokens_to_remove

    def keep(self, indices: torch.Tensor, padding: int = 0) -> None:
        """Keep only these rows, without the first columns."""
        old, length = self.memory, self.length
        self.length -= padding
        self.memory, self.first, self.last = Memory(len(indices), old.num_columns - padding), 0, len(indices)
        if old.keys is not None and old.values is not None:
            for part, new in zip((old.keys, old.values), self.memory.take(old.keys, old.values), strict=True):
                new[:, :, : self.length] = part[indices.to(part.device), :, padding:length]

    def join(self, other: "WrittenLayer") -> None:
        """Take in the rows of another layer after these; all of them end in the same column."""
        parts, num_rows = (self, other), self.memory.num_rows + other.memory.num_rows
        length = max(self.length, other.length)
        memory = Memory(num_rows, max(length + GROWTH, *(part.memory.num_columns for part in parts)))
        start = 0
        for part in parts:
            written = part.memory
            assert written.keys is not None
            assert written.values is not None
            rows = slice(start, start + written.num_rows)
            for old, new in zip((written.keys, written.values), memory.take(written.keys, written.values), strict=True):
                new[rows, :, length - part.length : length] = old[:, :, : part.length]
            start = rows.stop
        self.memory, self.first, self.last, self.length = memory, 0, num_rows, length


class BatchCache(DynamicCache):
    """An empty cache of this many rows and columns. Layers that keep anything else than all keys and values (a sliding
    window, the state of a linear attention) stay transformers' own.
    """

    def __init__(self, config: PretrainedConfig, num_rows: int, num_columns: int) -> None:
        super().__init__(config=config)
        self.config = config
        self.layers: list[DynamicLayer] = [
            WrittenLayer(Memory(num_rows, num_columns), 0, num_rows) if type(layer) is DynamicLayer else layer
            for layer in self.layers
        ]

    @property
    def keeps_all(self) -> bool:
        """Whether every layer keeps keys and values of every position: rows can then be read part by part."""
        return all(type(layer) is WrittenLayer for layer in self.layers)

    def rows(self, rows: slice, length: int) -> "BatchCache":
        """These rows with their first `length` columns, as a separate cache over the same memory.

        Only where the cache keeps_all.
        """
        part = BatchCache(self.config, 0, 0)
        part.layers = [WrittenLayer(layer.memory, rows.start, rows.stop, length) for layer in self.layers]
        return part

    def mark_written(self, num_columns: int) -> None:
        """Mark this many columns of all rows as written, after all parts."""
        for layer in self.layers:
            layer.length, layer.is_initialized = num_columns, True

    def keep(self, indices: Sequence[int], padding: int = 0) -> None:
        """Keep only these rows, without the first columns, if any (only if the cache keeps_all)."""
        rows = torch.tensor(indices)
        for layer in self.layers:
            layer.keep(rows, padding) if type(layer) is WrittenLayer else layer.reorder_cache(rows)

    def join(self, other: "BatchCache") -> None:
        """Take in the rows of another cache after these, padded on the left; only where both keep_all."""
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.join(new)


def bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Memory of one token's keys and values, at most: Qwen2.5-7B in bf16 -> 57,344."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * dtype.itemsize)
