"""Settings of evaluate.py. What the run folder knows (model, prompt, data and split) has no second default here."""

from typing import ClassVar, Literal

from pydantic import Field

from sft.config.layers import ResultSettings


class EvaluateSettings(ResultSettings):
    """Score a run on rows it was not trained on, beside the model it was tuned from."""

    prog: ClassVar[str] = "evaluate.py"

    run: str | None = Field(None, description="run folder; default outputs/latest")
    data: str | None = Field(None, description="dataset folder or file of rows; default: what the run was trained on")
    split: Literal["test", "validation"] | None = Field(
        None, description="which rows; default: test, or validation where the data has no test rows"
    )
    rouge: bool = Field(False, description="also ROUGE-1/2/L of the text answers, for Chinese and Latin script")
    baseline: bool = Field(True, description="also score the untuned model on the same rows (--no-baseline: do not)")
    max_seq_length: int | None = Field(
        None, ge=16, description="tokens a row may have, longer documents are shortened; default: as trained"
    )
    max_new_tokens: int = Field(
        512, ge=1, description="most tokens generated per answer; less where a task's longest reference is shorter"
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
