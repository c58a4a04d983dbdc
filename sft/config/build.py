"""Settings of build_dataset.py."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sft.config.layers import ResultSettings


class BuildSettings(ResultSettings):
    """Build a dataset folder from a preset: sources, shares and sizes are in its YAML file."""

    prog: ClassVar[str] = "build_dataset.py"

    preset: str = Field(default="demo", description="name of a file in recipes/data, or the path of one of your own")
    name: str = Field(default="mixed", pattern=r"^\w[\w.-]*$", description="name of the dataset's folder")
    total: int | None = Field(
        default=None, ge=1, description="rows of all splits together: the preset's mixture in another size"
    )
    registry: Path | None = Field(
        default=None, description="names further data sets: a datasets.yaml or LLaMA-Factory's dataset_info.json"
    )
    data_dir: Path = Field(default=Path("data"), description="folder that holds the datasets")
    seed: int = Field(default=42, description="decides which rows are chosen, their split and their order")
    on_bad_row: Literal["error", "quarantine"] = Field(
        default="error", description="a row that cannot be used ends the build, or is left out and listed in the ledger"
    )
    max_bad_rows: int | None = Field(default=None, ge=0, description="fail when more rows than this are quarantined")
    on_shortage: Literal["error", "rescale", "upsample", "accept"] = Field(
        default="error",
        description="a source with too few rows: end, shrink the whole, repeat its training rows, or have fewer of it",
    )
    decontaminate: list[str] = Field(
        default=[], description="evaluation files; rows that hold one of their texts are left out (beside the preset's)"
    )
    dry_run: int | None = Field(
        default=None, ge=1, description="show the yield of so many rows of each source, and write nothing"
    )
    num_proc: int = Field(
        default=1, ge=1, description="processes that parse and filter; any number gives the same bytes"
    )
    resume: bool = Field(
        default=False, description="go on where a build of this name was interrupted: sources read to the end are kept"
    )
