"""TRL's SFTTrainer on rows that are already tokens: our collation, our loss, our validation.

The loss of a step is the sum over its supervised tokens divided by their number, whatever the micro-batches; logits are
formed only at supervised positions. Validation is token-weighted (sft.scoring) and picks the best checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from prompts import Encoded
from sft.batching import IGNORED, flatten_rows, pad_rows
from sft.checkpoints import STATE_FILE, step_of
from sft.models.loaded import LoadedModel
from sft.scoring import score_rows, token_weighted_loss
from sft.training.guard import FiniteGuard, check_validation
from sft.training.neftune import embedding_noise


class RowCollator:
    """Dataset rows (input_ids, labels, place) -> one batch in the layout the backend takes, and row_places."""

    def __init__(self, *, flat: bool, pad_id: int) -> None:
        self.flat = flat
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor | int | list[int]]:
        encoded = [Encoded(row["input_ids"], [int(label != IGNORED) for label in row["labels"]]) for row in rows]
        batch = flatten_rows(encoded) if self.flat else pad_rows(encoded, self.pad_id)
        return {**batch, "row_places": [row["place"] for row in rows]}


class RowTrainer(SFTTrainer):
    """SFTTrainer for encoded rows; counts the tokens it has seen in `num_tokens_seen`."""

    def __init__(
        self,
        loaded: LoadedModel,
        train_rows: Sequence[Encoded],
        validation_rows: Sequence[Encoded],
        args: SFTConfig,
        *,
        train_names: Sequence[str] = (),
        validation_names: Sequence[str] = (),
        neftune_noise_alpha: float | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.loaded = loaded
        self.validation_rows = list(validation_rows)
        self.validation_names = validation_names or [str(place) for place in range(len(validation_rows))]
        self.guard = FiniteGuard(train_names or [str(place) for place in range(len(train_rows))])
        self.noise_alpha = neftune_noise_alpha
        self.num_tokens_seen = 0
        super().__init__(
            model=loaded.model,
            args=args,
            processing_class=loaded.tokenizer,
            train_dataset=as_dataset(train_rows),
            eval_dataset=as_dataset(validation_rows),
            data_collator=RowCollator(flat=loaded.takes_flat_rows, pad_id=loaded.chat.pad_id),
            callbacks=[self.guard, *callbacks],
        )
        # peft writes a card of its own beside each adapter: a form to fill in, with paths of this machine.
        loaded.model.create_or_update_model_card = lambda folder: None
        for built_in in (PrinterCallback, ProgressCallback):  # the project's own callbacks narrate
            self.remove_callback(built_in)
        if len(self.train_dataset) != len(train_rows):
            raise RuntimeError(f"the trainer kept {len(self.train_dataset)} of {len(train_rows)} rows")

    def create_model_card(self, *args: object, **kwargs: object) -> None:
        """None here: TRL's says "a fine-tuned version of None". export.py --push writes ours (sft.export.card)."""

    def train_from(self, checkpoint: Path | None, num_steps: int) -> None:
        """Train from a checkpoint, or from the beginning, to num_steps, and take up the best weights.

        Where the checkpoint has made them all, only its best weights: train() would make one step too many.
        """
        if checkpoint is not None and step_of(checkpoint) >= num_steps:
            self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
            self._load_best_model()
        else:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def training_step(self, *args: object, **kwargs: object) -> torch.Tensor:
        """Forward and backward of one batch: checkpointing computes the forward again while going backward."""
        with self.loaded.flat_rows():
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum of the nll of the batch's supervised tokens / num_items_in_batch (those of the whole step)."""
        labels, lengths, places = inputs["labels"], inputs.pop("row_lengths"), inputs.pop("row_places")
        num_supervised = int((labels != IGNORED).sum())
        if num_supervised == 0:
            raise RuntimeError("a batch without a supervised token reached the trainer")
        self.num_tokens_seen += int(lengths.sum())
        divisor = num_supervised if num_items_in_batch is None else num_items_in_batch
        base = self.loaded.causal_lm
        if self.loaded.takes_flat_rows:
            forward = {name: value for name, value in inputs.items() if name != "labels"}
            of_token = lengths.repeat_interleave(lengths)[None]  # (1, T)
            with embedding_noise(base, self.noise_alpha, of_token), self.loaded.flat_rows():
                logits = model(**forward, use_cache=False).logits[0]  # (N, V), N = len(logits_to_keep)
            loss = cross_entropy(logits.float(), labels[0, inputs["logits_to_keep"] + 1], reduction="sum") / divisor
        else:
            with embedding_noise(base, self.noise_alpha, lengths[:, None]):
                loss = model(**inputs, num_items_in_batch=divisor, use_cache=False).loss
        self.guard.note(loss, places)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # counted over all processes, and DDP averages
        return loss

    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: object = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """{"eval_loss": ...}: token-weighted over the validation rows, in fp32."""
        scores = score_rows(self.loaded, self.validation_rows, description="validation", shown=False)
        check_validation([score.nll for score in scores], self.validation_names, self.state.global_step)
        metrics = {f"{metric_key_prefix}_loss": token_weighted_loss(scores)}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def as_dataset(rows: Sequence[Encoded]) -> Dataset:
    """Columns input_ids and labels (-100 where not supervised), as TRL takes tokenised rows, and each row's place."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [
                [token if flag else IGNORED for token, flag in zip(row.input_ids, row.loss_mask, strict=True)]
                for row in rows
            ],
            "place": list(range(len(rows))),
        }
    )
