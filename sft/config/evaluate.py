"""Settings of evaluate.py. What the run folder knows (model, prompt, data and split) has no second default here."""

from typing import ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import CliToggleFlag

from sft.config.conditions import parse_condition
from sft.config.decoding import Preset
from sft.config.layers import ResultSettings, read_boolean

Turns = Literal["all", "last"]
BASE = "base"  # --baseline: the model the run was tuned from


class EvaluateSettings(ResultSettings):
    """Score a run on rows it was not trained on, beside the model it was tuned from."""

    prog: ClassVar[str] = "evaluate.py"

    run: str | None = Field(None, description="run folder; default outputs/latest")
    data: str | None = Field(None, description="dataset folder or file of rows; default: what the run was trained on")
    split: Literal["test", "validation"] | None = Field(
        None, description="which rows; default: test, or validation where the data has no test rows"
    )
    turns: Turns = Field(
        "all",
        description="answers of a conversation that are evaluated: all, each behind the turns before it as the row has "
        "them, or only the last",
    )
    rouge: bool = Field(False, description="also ROUGE-1/2/L of the text answers, for Chinese and Latin script")
    metric: list[str] = Field(
        [],
        description="also this metric of HF's evaluate, a folder or file of its code or a name on the hub, whose code "
        "then runs here; may be given several times",
    )
    calibrate: bool = Field(
        False, description="also fit a temperature for the label scores, on validation rows that are not evaluated"
    )
    robustness: bool = Field(
        False, description="also score label rows rewritten (synonyms, typos, width, ...) and a suite of hard cases"
    )
    robustness_rows: int = Field(200, ge=1, description="rewrite at most so many rows, each task by its share")
    baseline: str = Field(
        BASE,
        description="what to compare with, on the same rows: base (what the run was tuned from), another run's folder, "
        "or a model (embedded, a hub id, a folder)",
    )
    no_baseline: CliToggleFlag[bool] = Field(
        False,
        validation_alias=AliasChoices("no_baseline", "no-baseline"),
        description="compare with nothing: score the tuned model alone",
    )
    fail_if: str | None = Field(
        None,
        description="exit with 1 where this holds of metrics.json: 'classification.accuracy < 0.9 or "
        'comparison.metrics["ner f1"].finding == "worse"\'',
    )
    leak_check: bool = Field(True, description="count rows that stand in the training data; score without them, too")
    yardsticks: bool | None = Field(
        None,
        description="also what simple methods make of the labels and entities (majority class, bag of words, "
        "dictionary), fitted on the run's training rows; default: up to 200,000 rows or 10 million characters",
    )
    max_seq_length: int | None = Field(
        None, ge=16, description="tokens a row may have, longer documents are shortened; default: as trained"
    )
    max_new_tokens: int = Field(
        512, ge=1, description="most tokens generated per answer; less where a task's longest reference is shorter"
    )
    decoding: Preset = Field(
        "precise", description="precise: greedy; chat: drawn as chat.py does (temperature 0.8, top_p 0.9, penalties)"
    )
    generator: Literal["transformers", "vllm"] = Field(
        "transformers", description="what writes the answers; vllm: a package of its own, not yet tried on a GPU"
    )
    lang: Literal["en", "zh"] = Field(
        "en", description="language report.html opens in (it holds both) and of report.md"
    )
    eval_ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share held out of a single file; default: as trained, or all rows of a file given with --data",
    )
    seed: int | None = Field(
        None, description="of the split of a single file, the choice of rows and the intervals; default: as trained"
    )
    on_bad_row: Literal["error", "quarantine"] | None = Field(
        None, description="a row of a single file that cannot be used: end, or leave it out; default: as trained"
    )
    num_samples: int | None = Field(
        None, ge=1, description="score at most so many rows, each task by its share; default: all"
    )
    allow_mismatch: bool = Field(False, description="go on where model, tokenizer or prompt differ from training")
    trust_remote_code: bool = Field(
        False, description="run model code that comes with the weights; a run trained with it needs this flag again"
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
        for part in ("base", "without_overlaps"):
            groups |= {
                (part, *group): why
                for group, why in groups.items()
                if group[0] in ("generation", "comparison", "yardsticks")
            }
        return groups

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
