"""Settings of inspect_data.py: those of train.py, so that the same flags and recipe show what training would see."""

from typing import ClassVar

from pydantic import AliasChoices, Field

from sft.config.train import TrainSettings


class InspectSettings(TrainSettings):
    """Show rows as the model sees them, and how long they are. Takes every flag of train.py; DATA may stand first."""

    prog: ClassVar[str] = "inspect_data.py"

    model: str = Field("embedded", description="whose tokenizer and chat template: embedded, a hub id, or a folder")
    row: str | None = Field(None, description="show the row of this id, and nothing else")
    num_rows: int = Field(
        3, ge=0, validation_alias=AliasChoices("num_rows", "n"), description="rows to show, from every source in turn"
    )
    html: str | None = Field(None, description="also write the rows and tables as one page to this file")
