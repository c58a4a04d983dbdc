"""Adapters: data sets whose rows need more than other names for their columns. One small file each.

An adapter turns a record as its data set has it into one in a form that the reader knows, or raises RowError. A new one
is a file here and a line in ADAPTERS; most data sets need none, `columns` and `templates` in datasets.yaml are enough.
"""

from collections.abc import Callable

from sft.data.adapters.stack_exchange import adapt_stack_exchange
from sft.data.fields import Record

__all__ = ["ADAPTERS"]

ADAPTERS: dict[str, Callable[[Record], Record]] = {"stack_exchange": adapt_stack_exchange}
