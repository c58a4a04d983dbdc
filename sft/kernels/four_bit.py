"""bitsandbytes if it is loaded: 4-bit weights exist only in a process that has loaded it.

Asking does not import it, which takes 1.4 s of CPU time that a model in 16 bits need not wait for.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import model as peft_lora


def linear_4bit() -> type[torch.nn.Linear] | None:
    """The class of linear layers in 4 bits; None if nothing can be one of them."""
    return getattr(sys.modules.get("bitsandbytes.nn"), "Linear4bit", None)


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a tensor is stored in 4 bits."""
    kind = getattr(sys.modules.get("bitsandbytes.nn"), "Params4bit", None)
    return kind is not None and isinstance(weight, kind) and weight.quant_state is not None


@contextmanager
def no_other_kinds() -> Iterator[None]:
    """Inside, PEFT builds an adapter without importing bitsandbytes, unless it is loaded: nothing is in 4 bits then."""
    before = peft_lora.is_bnb_available, peft_lora.is_bnb_4bit_available
    if "bitsandbytes.nn" not in sys.modules:
        peft_lora.is_bnb_available = peft_lora.is_bnb_4bit_available = lambda: False
    try:
        yield
    finally:
        peft_lora.is_bnb_available, peft_lora.is_bnb_4bit_available = before


def unpack(weight: torch.Tensor) -> torch.Tensor:
    """The values of a tensor that is packed, in the type they compute in."""
    from bitsandbytes.functional import dequantize_4bit

    values: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return values
