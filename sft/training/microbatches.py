"""How many rows are on the device at once: a budget of tokens, planned from free memory, lowered when memory runs out.

The rows of an optimiser step are the recipe's, whatever the budget: their loss is a sum over tokens divided by the
tokens of the whole step, so the budget changes speed and memory and nothing that is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sft.batching import num_tokens_at_once, plan_batches
from sft.console import say
from sft.errors import UserError

ADVICE = "--use_qlora, --gradient_checkpointing or a smaller --max_seq_length take less"


class OutOfMemoryError(UserError):
    """Not even one row fits: `out of memory with one row of 2,048 tokens at a time; --use_qlora, ... take less`"""


@dataclass
class MicroBatches:
    """The budget of one process. `padded`: rows are padded to the longest, and padding takes memory, too."""

    max_tokens: int
    padded: bool = False

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of a step's rows in micro-batches within the budget: [3, 9, 2] with 10 -> [[1], [0, 2]]."""
        return plan_batches(lengths, self.max_tokens, padded=self.padded)

    def too_large(self) -> OutOfMemoryError:
        """What to raise where smaller micro-batches cannot be tried, because other processes wait."""
        half = max(1, self.max_tokens // 2)
        return OutOfMemoryError(
            f"out of memory with micro-batches of {self.max_tokens:,} tokens; go on with --micro_batch_tokens {half}"
        )

    def no_row_fits(self, length: int) -> OutOfMemoryError:
        """What to raise where a row cannot be cut any further."""
        return OutOfMemoryError(
            f"out of memory with one row of {length:,} tokens at a time; {ADVICE}; or is another program on the card "
            "(nvidia-smi)?"
        )

    def shrink(self, lengths: Sequence[int]) -> None:
        """After the device ran out of memory on a step of these rows: half of what the largest micro-batch held.

        Raises OutOfMemoryError where that held one row: nothing is left to halve.
        """
        largest = max(
            self.plan(lengths), key=lambda batch: num_tokens_at_once([lengths[i] for i in batch], self.padded)
        )
        if len(largest) == 1:
            raise self.no_row_fits(lengths[largest[0]])
        self.max_tokens = max(1, num_tokens_at_once([lengths[i] for i in largest], self.padded) // 2)
        say(
            f"out of memory with {len(largest)} rows at once: going on with micro-batches of at most "
            f"{self.max_tokens:,} tokens, and as many rows a step as before"
        )
