"""Settings of inspect_data.py: those of train.py, so that the same flags and recipe show what training would see."""

from typing import ClassVar

from pydantic import AliasChoices, Field

from sft.config.train import TrainSettings


class InspectSettings(TrainSettings):
    """Show rows as the model sees them, and how long they are. Takes every flag of train.py; DATA may come first."""

    prog: ClassVar[str] = "inspect_data.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python inspect_data.py --data data/mixed",
        "python inspect_data.py --data reviews.csv --labels bad,good --num_rows 1",
        "python inspect_data.py --config recipes/demo.yaml --html rows.html",
    )
    common: ClassVar[tuple[str, ...]] = (
        "config", "data", "model", "row", "num_rows", "html", "labels", "columns", "max_seq_length", "json_output",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {"row": "View"}

    model: str = Field("embedded", description="whose tokenizer and chat template: embedded, a hub id, or a folder")
    row: str | None = Field(None, description="show only the row with this id")
    num_rows: int = Field(
        3,
        ge=0,
        validation_alias=AliasChoices("num_rows", "n"),
        description="number of rows to show, from every source in turn",
    )
    html: str | None = Field(None, description="also write the rows and tables to this file, as one web page")
