"""Presets: the recipe of a dataset in recipes/data/<name>.yaml (see demo.yaml for every key).

preset = load_preset("demo")                  # or the path of a YAML file of your own
preset.splits["train"].total                  # 900
preset.sources["reviews"].share               # 0.55
"""

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sft.config.yaml_files import read_yaml
from sft.data.quotas import Cell, SplitPlan, largest_remainder, parse_label_quota, scale_plans
from sft.data.sources import AnySource, Source
from sft.data.sources.base import Strata
from sft.data.sources.registry import find_entry, insert_named
from sft.errors import ConfigError, nearest_name
from sft.files import PROJECT_ROOT

PRESETS_FOLDER = PROJECT_ROOT / "recipes" / "data"


class SplitSize(BaseModel):
    """Size of one split: `total` rows, mixed by the sources' shares, or exact `rows` of each source.

    A source's rows are a number, or a number for each label: {own: 12, texts: "正常:15000,暴恐:6000"}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: int | None = Field(default=None, ge=0)
    rows: dict[str, int | dict[str, int]] | None = None

    @field_validator("rows", mode="before")
    @classmethod
    def _parse_quotas(cls, rows: object) -> object:
        if not isinstance(rows, dict):
            return rows
        return {name: parse_label_quota(asked) if _is_quota(asked) else asked for name, asked in rows.items()}

    @model_validator(mode="after")
    def _check_one_given(self) -> "SplitSize":
        if (self.total is None) == (self.rows is None):
            raise ValueError("give either 'total' or 'rows'")
        if any(
            count < 0 for source in self.rows or {} for count in [self.count(source), *self.labels(source).values()]
        ):
            raise ValueError("rows must not be negative")
        return self

    def count(self, source: str) -> int:
        """Rows requested of a source."""
        asked = (self.rows or {}).get(source, 0)
        return asked if isinstance(asked, int) else sum(asked.values())

    def labels(self, source: str) -> dict[str, int]:
        """Rows requested per label of a source; {} if only their sum is."""
        asked = (self.rows or {}).get(source, 0)
        return {} if isinstance(asked, int) else asked


class Preset(BaseModel):
    """One mixture: its sources and the size of each split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    total: int | None = Field(default=None, ge=1)  # rows of all splits together: the same mixture in another size
    splits: dict[Literal["train", "validation", "test"], SplitSize]
    sources: dict[str, AnySource] = Field(min_length=1)
    decontaminate: tuple[str, ...] = ()  # evaluation files; rows that hold one of their texts are left out
    near_duplicates: float | None = Field(default=None, ge=0.5, le=1)  # Jaccard from which a row repeats an earlier one
    near_across_splits: float | None = Field(default=0.8, ge=0.5, le=1)  # from which two rows must not straddle a split
    on_overlap: Literal["remove", "keep"] = "remove"  # texts in two splits of a publisher: the held-out ones stay

    @model_validator(mode="after")
    def _add_label_strata(self) -> "Preset":
        """Read a source by label if rows per label are requested."""
        for name, source in self.sources.items():
            asked: Counter[str] = Counter()
            for split in self.splits.values():
                asked.update(split.labels(name))
            if asked.total():
                if source.strata is not None and source.strata.by != "label":
                    raise ValueError(
                        f"sources.{name}: rows are requested by label, but strata are by {source.strata.by}"
                    )
                strata = Strata(by="label", rows=dict(asked))
                self.sources[name] = source.model_copy(update={"strata": strata})
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> "Preset":
        for name, split in self.splits.items():
            unknown = set(split.rows or {}) - set(self.sources)
            if unknown:
                first = sorted(unknown)[0]
                raise ValueError(f"splits.{name}.rows: no source {first!r}{nearest_name(first, self.sources)}")
        total_share = sum(exact_share(source.share) for source in self.sources.values())
        if any(split.total is not None for split in self.splits.values()) and total_share != 1:
            raise ValueError(f"the sources' shares add up to {float(total_share):g}, expected 1")
        return self

    @model_validator(mode="after")
    def _check_published_splits(self) -> "Preset":
        for name, source in self.sources.items():
            for plan in self.plans() if source.split else []:
                if plan.name != source.split and plan.rows[name]:
                    raise ValueError(
                        f"sources.{name}: its split is {source.split}, but splits.{plan.name} asks for "
                        f"{plan.rows[name]:,} of its rows; give splits.{plan.name}.rows without it"
                    )
        return self

    def cells(self) -> list[Cell]:
        """Every stratum of every source, in the order of the file."""
        return [
            Cell(name, stratum, share)
            for name, source in self.sources.items()
            for stratum, share in source.cell_shares()
        ]

    def plans(self) -> list[SplitPlan]:
        """The rows that every split requests of every source."""
        plans = [self._plan(name, split) for name, split in self.splits.items()]
        return plans if self.total is None else scale_plans(plans, self.total)

    def _plan(self, name: str, split: SplitSize) -> SplitPlan:
        if split.rows is not None:
            rows = {source: split.count(source) for source in self.sources}
            labels = {source: split.labels(source) for source in self.sources if split.labels(source)}
            by_label = {source: {key: Fraction(n) for key, n in quota.items()} for source, quota in labels.items()}
            return SplitPlan(name, rows, {source: Fraction(count) for source, count in rows.items()}, by_label)
        shares = {source: exact_share(spec.share) for source, spec in self.sources.items()}
        parts = largest_remainder(split.total or 0, list(shares.values()))
        return SplitPlan(name, dict(zip(shares, parts, strict=True)), shares)


def exact_share(share: float) -> Fraction:
    """The decimal number that was written, exactly: 0.1 -> 1/10."""
    return Fraction(str(share))


def _is_quota(asked: object) -> TypeGuard[str]:
    return isinstance(asked, str) and not asked.strip().isdigit()


def preset_names() -> list[str]:
    """The presets that come with the project: ["demo"]."""
    return sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml"))


def load_preset(name: str, *, registry: Path | None = None, total: int | None = None) -> Preset:
    """A preset by name, or from the YAML file at that path; raises ConfigError in one line.

    `registry`: a file that names data sets beside those of find_registries(); `total`: another size, see Preset.
    """
    path = PRESETS_FOLDER / f"{name}.yaml" if name in preset_names() else Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = ", ".join(preset_names())
        raise ConfigError(
            f"--preset {name}: unknown{nearest_name(name, preset_names())} (presets: {known}; or a YAML file)"
        )
    shown = path.name if path.is_absolute() else str(path)
    try:
        preset = Preset.model_validate(insert_named(read_yaml(path), registry, shown))
    except ValidationError as error:
        raise ConfigError(f"{shown}: {explain_validation(error)}") from None
    return preset if total is None else preset.model_copy(update={"total": total})


def make_source(name: str) -> Source:
    """The source that a registry names; raises ConfigError for an unknown name and a mistake in its entry."""
    try:
        return Preset.model_validate({"splits": {}, "sources": {name: find_entry(name)}}).sources[name]
    except ValidationError as error:
        raise ConfigError(f"the registry's {explain_validation(error)}") from None


def explain_validation(error: ValidationError) -> str:
    """The most telling finding as one line: `sources.own.filters.min_char: no such key; did you mean 'min_chars'?`."""
    finding = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # a typing error comes first
    path = list(finding["loc"])
    if path[0:1] == ["sources"]:
        del path[2:3]  # pydantic puts the source's kind there
    where = ".".join(str(part) for part in path)
    if finding["type"] == "extra_forbidden":
        return f"{where}: no such key{nearest_name(str(finding['loc'][-1]), KNOWN_KEYS)}"
    return ": ".join(part for part in (where, finding["msg"].removeprefix("Value error, ")) if part)


def _keys_of(schema: object) -> set[str]:
    """Every name of a property in a JSON schema, at any depth."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        own = set(properties) if isinstance(properties, dict) else set()
        return own.union(*(_keys_of(part) for part in schema.values()))
    return set().union(*(_keys_of(part) for part in schema)) if isinstance(schema, list) else set()


KNOWN_KEYS = _keys_of(Preset.model_json_schema())
