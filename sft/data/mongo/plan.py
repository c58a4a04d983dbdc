"""What an extraction asks for: rows per label, columns, splits and files, read from the words of a command line.

parse_quotas(["正常:15000", "暴恐:6000"])               # {"正常": 15000, "暴恐": 6000}
parse_shares(["train:0.8", "validation:0.1", "test:0.1"])
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sft.config.extract_mongo import ExtractSettings
from sft.data.mixing import OnShortage
from sft.data.quotas import SPLITS, Cell, Quotas, SplitPlan, largest_remainder, parse_label_quota, parse_pairs
from sft.data.records.writing import SHEET_ROWS, kind_of
from sft.data.rows import OnBadRow
from sft.errors import ConfigError, nearest_name

LABEL_COLUMN = "extracted_label"  # R3's name; the row reader knows it


@dataclass(frozen=True)
class ExtractPlan:
    """Rows to draw and where they go. shares: parts of each label's rows per split, none for one file."""

    quotas: dict[str, int]  # label -> rows
    fields: tuple[str, ...]  # the first is the text: it must be there, and texts that are alike share a split
    label_field: str
    output: Path
    shares: dict[str, Fraction]
    random: bool = False
    seed: int = 42
    on_shortage: OnShortage = "error"
    on_bad_row: OnBadRow = "error"
    max_bad_rows: int | None = None

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("fields: none is named; give -f text_cn,n_labels")
        if self.shares and not self.random:
            raise ConfigError("splits: rows are dealt out to splits at random; add --random")
        if kind_of(self.output) == ".xlsx":
            for name, rows in self.asked().items():
                if sum(rows) >= SHEET_ROWS:
                    raise ConfigError(
                        f"{self.file_of(name)}: {sum(rows):,} rows and a header, an Excel sheet holds {SHEET_ROWS:,}; "
                        "name a .csv or .jsonl file"
                    )

    @property
    def columns(self) -> list[str]:
        """The columns of the files: the fields asked for, and the label under which a row was drawn."""
        return [*self.fields, *([] if LABEL_COLUMN in self.fields else [LABEL_COLUMN])]

    @property
    def splits(self) -> list[str]:
        """Names of the splits; one file is all "train", so that a shortage can repeat its rows."""
        return list(self.shares) or ["train"]

    def file_of(self, split: str) -> Path:
        """out.xlsx -> out.train.xlsx where there are splits."""
        return self.output.with_suffix(f".{split}{self.output.suffix}") if self.shares else self.output

    def asked(self) -> Quotas:
        """Rows per split and label; each label's rows are divided by largest remainder, so they add up exactly."""
        shares = list(self.shares.values()) or [Fraction(1)]
        parts = [largest_remainder(rows, shares) for rows in self.quotas.values()]
        return {split: [part[number] for part in parts] for number, split in enumerate(self.splits)}

    def cells(self) -> list[Cell]:
        """A label is what a source is to a mixture."""
        return [Cell(label, "", Fraction(1)) for label in self.quotas]

    def plans(self) -> list[SplitPlan]:
        """The splits as a mixture asks for them."""
        labels = list(self.quotas)
        return [
            SplitPlan(
                split, dict(zip(labels, rows, strict=True)), {name: Fraction(n) for name, n in self.quotas.items()}
            )
            for split, rows in self.asked().items()
        ]


def make_plan(settings: ExtractSettings, output: Path) -> ExtractPlan:
    """The plan of a command line. Raises ConfigError for words that are no quotas or shares."""
    return ExtractPlan(
        quotas=parse_quotas(settings.labels),
        fields=tuple(dict.fromkeys(settings.fields)),
        label_field=settings.label_field,
        output=output,
        shares=parse_shares(settings.splits),
        random=settings.random,
        seed=settings.seed,
        on_shortage=settings.on_shortage,
        on_bad_row=settings.on_bad_row,
        max_bad_rows=settings.max_bad_rows,
    )


def parse_quotas(words: Sequence[str]) -> dict[str, int]:
    """Rows per label from words such as "正常:15000" (sft.data.quotas). Raises ConfigError."""
    if not words:
        raise ConfigError(
            'labels: none is named; give -l "正常:15000,暴恐:6000", or see which there are: --list-labels'
        )
    try:
        quotas = parse_label_quota(",".join(words))
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from None
    if none := next((label for label, rows in quotas.items() if not rows), None):
        raise ConfigError(f"labels: {none}:0 asks for no rows; leave it out, or write {none}:15000")
    return quotas


def parse_shares(words: Sequence[str]) -> dict[str, Fraction]:
    """Shares of the splits from words such as "train:0.8", which must add up to 1; none for no words."""
    if not words:
        return {}
    try:
        pairs = parse_pairs(",".join(words), "train:0.8,validation:0.1,test:0.1")
    except ValueError as error:
        raise ConfigError(f"splits: {error}") from None
    for name, share in pairs.items():
        if name not in SPLITS:
            raise ConfigError(f"splits: {name!r} is none of {', '.join(SPLITS)}{nearest_name(name, SPLITS)}")
        if not re.fullmatch(r"\d?\.\d+|[01]", share):
            raise ConfigError(f"splits: {name}:{share}: {share!r} is no share; write {name}:0.8")
    shares = {name: Fraction(share) for name, share in pairs.items()}
    if sum(shares.values()) != 1:
        raise ConfigError(f"splits: the shares add up to {float(sum(shares.values())):g}, expected 1")
    return shares
