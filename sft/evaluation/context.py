"""What more rows need to be asked just as the rows of the evaluation were."""

from collections.abc import Sequence
from dataclasses import dataclass

from sft.config.train import TrainSettings
from sft.data import Row
from sft.evaluation.rows import EvalRow, prepare_rows
from sft.models.loaded import LoadedModel


@dataclass(frozen=True)
class Context:
    """How rows are encoded (as in training), and how many tokens a batch may hold; None: the device's usual."""

    system_prompt: str | None
    trained: TrainSettings
    max_length: int
    max_tokens: int | None = None

    def prepare(self, rows: Sequence[Row], loaded: LoadedModel) -> list[EvalRow]:
        """Rows as the model is asked them; those that do not fit are left out. Raises DataError where none fits."""
        prepared = prepare_rows(rows, loaded.chat, self.system_prompt, self.trained, self.max_length, loaded.head)
        return prepared.rows
