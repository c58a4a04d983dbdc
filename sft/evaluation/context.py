"""What more rows need to be asked just as the rows of the evaluation were."""

from dataclasses import dataclass

from sft.config.train import TrainSettings


@dataclass(frozen=True)
class Context:
    """How rows are encoded (as in training), and how many tokens a batch may hold; None: the device's usual."""

    system_prompt: str | None
    trained: TrainSettings
    max_length: int
    max_tokens: int | None = None
