"""One conversation as the model sees it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row and which of them are learned.

    Encoded(input_ids=[1, 4093, 198, 5303, 2, 198], loss_mask=[0, 0, 0, 1, 1, 0]): an answer and its end token.
    """

    input_ids: list[int]
    loss_mask: list[int]  # 1 = supervised; as long as input_ids
    num_cut: int = 0  # tokens of the whole row that are not here, because it was too long
    label: int | None = None  # the class that a classification head is to say of it

    @property
    def num_supervised(self) -> int:
        """Tokens that are learned, end tokens among them."""
        return sum(self.loss_mask)

    @property
    def prompt_ids(self) -> list[int]:
        """What stands before the last answer: the ids inference sends to get it; all of a row without an answer."""
        if not any(self.loss_mask):
            return self.input_ids
        end = len(self.loss_mask) - self.loss_mask[::-1].index(1)  # one behind the last supervised token
        start = end
        while start > 0 and self.loss_mask[start - 1]:
            start -= 1
        return self.input_ids[:start]
