"""Data: rows from anywhere, one reader, exact mixtures, and books that balance.

from sft.data import open_dataset

dataset = open_dataset("data/mixed")             # a folder made by build_dataset.py, or any file of rows
dataset.train[0]                                 # {"id": "reviews-17", "source": "reviews", "task": "sentiment", ...}
"""

from sft.data.dataset import Dataset, open_dataset, open_dataset_of
from sft.data.files.reader import BadRow, FoundRow, RowReader
from sft.data.rows.canonical import Entity, Row, Turn
from sft.data.rows.reading import Reading

__all__ = [
    "BadRow",
    "Dataset",
    "Entity",
    "FoundRow",
    "Reading",
    "Row",
    "RowReader",
    "Turn",
    "open_dataset",
    "open_dataset_of",
]
