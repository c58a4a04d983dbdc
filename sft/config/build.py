"""Settings of build_dataset.py."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sft.config.layers import ResultSettings


class BuildSettings(ResultSettings):
    """Build a dataset folder from a preset: sources, shares and sizes are in its YAML file."""

    prog: ClassVar[str] = "build_dataset.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python build_dataset.py --preset demo",
        "python build_dataset.py --preset demo --dry_run 1000",
        "python build_dataset.py --preset my_mixture.yaml --name mine --on_bad_row quarantine",
    )

    preset: str = Field(default="demo", description="name of a file in recipes/data, or the path of your own")
    name: str = Field(default="mixed", pattern=r"^\w[\w.-]*$", description="name of the dataset's folder")
    total: int | None = Field(
        default=None, ge=1, description="rows of all splits together: the same mixture in another size"
    )
    registry: Path | None = Field(
        default=None, description="file with further data sets: a datasets.yaml or LLaMA-Factory's dataset_info.json"
    )
    data_dir: Path = Field(default=Path("data"), description="folder that holds the datasets")
    seed: int = Field(default=42, description="seed that decides which rows are chosen, their split and their order")
    on_bad_row: Literal["error", "quarantine"] = Field(
        default="error",
        description="what to do with a row that cannot be used: stop, or leave it out and list it in the ledger",
    )
    max_bad_rows: int | None = Field(default=None, ge=0, description="fail when more rows than this are quarantined")
    on_shortage: Literal["error", "rescale", "upsample", "accept"] = Field(
        default="error",
        description="what to do if a source has too few rows: stop, shrink the whole mixture, repeat its training "
        "rows, or take fewer",
    )
    decontaminate: list[str] = Field(
        default=[], description="evaluation files whose texts must not occur in any row (in addition to the preset's)"
    )
    dry_run: int | None = Field(
        default=None, ge=1, description="show what this many rows of each source yield, and write nothing"
    )
    num_proc: int = Field(
        default=1, ge=1, description="processes that parse and filter; the output is the same for any number"
    )
    resume: bool = Field(
        default=False,
        description="continue an interrupted build of this name; sources that were read completely are kept",
    )
