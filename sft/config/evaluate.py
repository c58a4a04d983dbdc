"""Settings of evaluate.py. What the run folder knows (model, prompt, data and split) has no second default here."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import CliToggleFlag

from sft.config.conditions import parse_condition
from sft.config.decoding import Preset
from sft.config.layers import ResultSettings, read_boolean, write_pairs
from sft.config.tuned import TunedSettings

Turns = Literal["all", "last"]
BASE = "base"  # --baseline: the model the run was tuned from


class EvaluateSettings(ResultSettings, TunedSettings):
    """Score a run on rows it was not trained on, beside the model it was tuned from."""

    prog: ClassVar[str] = "evaluate.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python evaluate.py",
        "python evaluate.py --run outputs/demo --data more.jsonl --num_samples 100",
        """python evaluate.py --fail_if 'comparison.outcome == "hurt"'""",
    )
    common: ClassVar[tuple[str, ...]] = (
        "run", "data", "num_samples", "rouge", "baseline", "no_baseline", "fail_if", "robustness", "lang",
        "json_output",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {
        "data": "Data", "turns": "Metrics", "baseline": "Comparison", "max_seq_length": "Model", "lang": "Output",
    }  # fmt: skip

    data: str | None = Field(None, description="dataset folder or file of rows; default: what the run was trained on")
    columns: tuple[str, ...] = Field((), description="columns of --data, where the run's own were called otherwise")
    label_map: tuple[str, ...] = Field((), description="values of its label column and the run's labels they mean")
    encoding: str | None = Field(None, description="encoding of --data that is not UTF-8: gb18030, cp1252, ...")
    split: Literal["test", "validation"] | None = Field(
        None, description="rows to score; default: test, or validation if the data has no test rows"
    )
    turns: Turns = Field(
        "all",
        description="answers of a conversation that are scored: all, each after the preceding turns as the row has "
        "them, or only the last",
    )
    rouge: bool = Field(False, description="add ROUGE-1/2/L of free-text answers, for Chinese and Latin script")
    metric: list[str] = Field(
        [],
        description="add a metric of Hugging Face's evaluate: a folder or file of its code, or a name on the hub, "
        "whose code then runs here; may be repeated",
    )
    calibrate: bool = Field(
        False, description="fit a temperature for the label scores, on validation rows that are not scored"
    )
    robustness: bool = Field(
        False, description="also score rewritten label rows (synonyms, typos, width, ...) and a suite of hard cases"
    )
    forgetting: bool = Field(
        False, description="also measure the loss of general Chinese and English text and chat, before and after tuning"
    )
    robustness_rows: int = Field(200, ge=1, description="rewrite at most this many rows, in proportion to the tasks")
    baseline: str = Field(
        BASE,
        description="what to compare with on the same rows: base (what the run was tuned from), another run's folder, "
        "or a model (embedded, a hub id, a folder)",
    )
    no_baseline: CliToggleFlag[bool] = Field(
        False,
        validation_alias=AliasChoices("no_baseline", "no-baseline"),
        description="score the tuned model alone, without a comparison",
    )
    fail_if: str | None = Field(
        None,
        description="exit with code 1 if this is true of metrics.json: 'classification.accuracy < 0.9 or "
        'comparison.metrics["ner f1"].finding == "worse"\'',
    )
    leak_check: bool = Field(
        True, description="count rows that also occur in the training data, and score without them, too"
    )
    yardsticks: bool | None = Field(
        None,
        description="also score simple methods on labels and entities (majority class, bag of words, dictionary), "
        "fitted on the run's training rows; default: up to 200,000 rows or 10 million characters",
    )
    max_seq_length: int | None = Field(
        None, ge=16, description="most tokens of a row; longer documents are shortened; default: as trained"
    )
    max_new_tokens: int = Field(
        512, ge=1, description="most tokens of an answer; fewer if a task's longest reference is shorter"
    )
    decoding: Preset = Field(
        "precise", description="precise: greedy; chat: sampled as in chat.py (temperature 0.8, top_p 0.9, penalties)"
    )
    generator: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="what generates the answers; vllm: a program of its own, which `make vllm` installs; greedy only",
    )
    output_file: Path | None = Field(
        None, description="also write the labels' figures of base and tuned (baseline_comparison.json) to this file"
    )
    lang: Literal["en", "zh"] = Field(
        "en", description="language of report.md, and the one report.html opens in (it has both)"
    )
    eval_ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share held out of a single file; default: as trained, or all rows of a file given with --data",
    )
    seed: int | None = Field(
        None,
        description="seed of the split of a single file, the choice of rows and the intervals; default: as trained",
    )
    on_bad_row: Literal["error", "quarantine"] | None = Field(
        None,
        description="what to do with a row of a single file that cannot be used: stop, or leave it out; default: as "
        "trained",
    )
    num_samples: int | None = Field(
        None, ge=1, description="score at most this many rows, in proportion to the tasks; default: all"
    )

    @property
    def has_baseline(self) -> bool:
        """Whether there is anything to compare with."""
        return not self.no_baseline

    @property
    def not_measured(self) -> dict[tuple[str, ...], str]:
        """Groups of metrics.json that these settings leave out, and why: {("generation", "rouge"): "needs --rouge"}."""
        groups: dict[tuple[str, ...], str] = {}
        if self.no_baseline:
            groups |= dict.fromkeys([("base",), ("comparison",)], "needs a baseline, and --no-baseline was given")
        if not self.leak_check:
            groups["without_overlaps",] = "needs the leak check, and --no-leak_check was given"
        if self.yardsticks is False:
            groups["yardsticks",] = "is left out by --no-yardsticks"
        if not self.rouge:
            groups |= dict.fromkeys([("generation", "rouge"), ("comparison", "metrics", "rougeL")], "needs --rouge")
        if not self.metric:
            groups["generation", "other"] = "needs --metric"
        if not self.robustness:
            groups["robustness",] = "needs --robustness"
        if not self.forgetting:
            groups["forgetting",] = "needs --forgetting"
        for part in ("base", "without_overlaps"):
            groups |= {
                (part, *group): why
                for group, why in groups.items()
                if group[0] in ("generation", "comparison", "yardsticks")
            }
        return groups

    _write_pairs = field_validator("label_map", "columns", mode="before")(write_pairs)

    @field_validator("baseline", mode="before")
    @classmethod
    def _read_baseline(cls, value: object) -> object:
        if read_boolean(value) is False or value is None:
            raise ValueError("names a run or a model; to compare with nothing give --no-baseline")
        return BASE if read_boolean(value) else value

    @field_validator("fail_if")
    @classmethod
    def _check_condition(cls, value: str | None) -> str | None:
        if value is not None:
            parse_condition(value)
        return value
