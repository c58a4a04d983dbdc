"""TRL's SFTTrainer on rows that are already tokens: our steps, our loss, our validation, our checkpoints.

The loss of a step is the sum over its supervised tokens divided by their number, whatever the micro-batches; logits are
formed only at supervised positions. Validation is token-weighted (sft.scoring) and picks the best checkpoint.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl
from trl import SFTConfig, SFTTrainer

from prompts import Encoded
from sft.batching import IGNORED, Batch, flatten_rows, pad_rows
from sft.models.loaded import LoadedModel
from sft.scoring import TOKENS_PER_BATCH, RowScore, score_rows, token_weighted_loss
from sft.training.guard import FiniteGuard, StallGuard, check_validation
from sft.training.microbatches import MicroBatches, is_out_of_memory
from sft.training.neftune import embedding_noise
from sft.training.order import StepOrder, step_loader
from sft.training.processes import gather_parts, largest
from sft.training.rehearsal import Rehearsal, rehearse
from sft.training.saving import SavesCheckpoints
from sft.training.sharded import score_in_step

Measure = Callable[[LoadedModel], Mapping[str, float]]  # more figures of a validation: {"eval_macro_f1": 0.91}


class RowTrainer(SavesCheckpoints, SFTTrainer):
    """SFTTrainer for encoded rows; counts the tokens it has seen in `num_tokens_seen`."""

    def __init__(
        self,
        loaded: LoadedModel,
        train_rows: Sequence[Encoded],
        validation_rows: Sequence[Encoded],
        args: SFTConfig,
        *,
        micro_batch_tokens: int | None = None,
        train_names: Sequence[str] = (),
        validation_names: Sequence[str] = (),
        neftune_noise_alpha: float | None = None,
        measures: Sequence[Measure] = (),
        callbacks: Sequence[TrainerCallback] = (),
        on_rehearsed: Callable[[Rehearsal], None] | None = None,
    ) -> None:
        """micro_batch_tokens: None plans them. measures: more figures of every validation, beside eval_loss.

        on_rehearsed: called before the first step with what the longest batch and a usual step took.
        """
        self.loaded = loaded
        self.train_rows, self.validation_rows = list(train_rows), list(validation_rows)
        self.validation_names = validation_names or [str(place) for place in range(len(validation_rows))]
        self.guard = FiniteGuard(train_names or [str(place) for place in range(len(train_rows))])
        self.noise_alpha = neftune_noise_alpha
        self.measures = list(measures)
        self.on_rehearsed = on_rehearsed
        self.num_tokens_seen = 0
        self.has_planned = micro_batch_tokens is None
        self.micro_batches = MicroBatches(
            micro_batch_tokens or TOKENS_PER_BATCH[loaded.device.type], padded=not loaded.takes_flat_rows
        )
        super().__init__(
            model=loaded.model,
            args=args,
            processing_class=loaded.tokenizer,
            train_dataset=as_dataset(train_rows),
            eval_dataset=as_dataset(validation_rows),
            callbacks=[self.guard, StallGuard(), *callbacks],
        )
        # peft writes a card of its own beside each adapter: a form to fill in, with paths of this machine.
        loaded.model.create_or_update_model_card = lambda folder: None
        for built_in in (PrinterCallback, ProgressCallback):  # the project's own callbacks narrate
            self.remove_callback(built_in)
        if len(self.train_dataset) != len(train_rows):
            raise RuntimeError(f"the trainer kept {len(self.train_dataset)} of {len(train_rows)} rows")

    # Steps

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes."""
        return int(self.args.per_device_train_batch_size * self.args.world_size)

    def get_train_dataloader(self) -> DataLoader[dict[str, list[int]]]:
        """One item a step: the places of its rows. The trainer accumulates nothing itself."""
        self.order = StepOrder(
            len(self.train_rows),
            self.rows_per_step,
            seed=self.args.data_seed,
            rank=self.args.process_index,
            num_processes=self.args.world_size,
        )
        return step_loader(self.order)

    def _run_epoch(self, *, epoch: int, **more: object) -> None:
        self.order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **more)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[object], resume_from_checkpoint: str | None
    ) -> tuple[torch.nn.Module, DataLoader[object]]:
        model, loader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.on_rehearsed is not None and not self.is_deepspeed_enabled:  # whose engine cannot take a step back
            self.on_rehearsed(rehearse(self, model, is_resumed=resume_from_checkpoint is not None))
        return model, loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, list[int]]], num_batches: int, device: object
    ) -> tuple[list[dict[str, list[int]]], torch.Tensor]:
        """The steps that come next (one) and their supervised tokens. Unsloth replaces the stock method by its own."""
        steps = list(itertools.islice(epoch_iterator, num_batches))
        return steps, self._get_num_items_in_batch(steps, device)

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, list[int]]], device: object) -> torch.Tensor:
        """Supervised tokens of the step over all processes: what its loss is divided by."""
        places = [place for step in batch_samples for place in step["places"]]
        count = torch.tensor(sum(count_supervised(self.train_rows[place]) for place in places), device=self.args.device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted: tokens per second say more."""
        return 0

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, list[int]], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward of a step's rows in micro-batches; out of memory, again in smaller ones.

        Returns the step's loss, detached.
        """
        places = inputs["places"]
        lengths = [len(self.train_rows[place].input_ids) for place in places]
        before = self.num_tokens_seen
        while True:
            try:
                return self._run_micro_batches(model, places, self.micro_batches.plan(lengths), num_items_in_batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.args.world_size > 1:  # the others wait in the middle of theirs
                    raise self.micro_batches.too_large() from None
            self.guard.forget()  # outside of `except`: what it held of the failed attempt is free now
            self.num_tokens_seen = before
            model.zero_grad()
            self.micro_batches.shrink(lengths)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _run_micro_batches(
        self,
        model: torch.nn.Module,
        places: Sequence[int],
        batches: Sequence[Sequence[int]],
        divisor: torch.Tensor | None,
    ) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        # Weights in pieces are gathered for every forward by all processes at once: each has to run as many.
        wanted = largest(len(batches)) if self.is_sharded else max(len(batches), 1)
        for number in range(wanted):
            is_last, is_idle = number == wanted - 1, number >= len(batches)
            # A process without rows left computes its shortest row for nothing, so that the others need not wait.
            chosen = [self._shortest] if is_idle else [places[index] for index in batches[number]]
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            is_alone = is_last or self.is_deepspeed_enabled  # DeepSpeed goes by the flag above
            with contextlib.nullcontext() if is_alone else self.accelerator.no_sync(model), self.loaded.flat_rows():
                batch = {**self.collate(chosen), "is_idle": is_idle}
                total += super().training_step(model, batch, divisor)
        return total

    @property
    def is_sharded(self) -> bool:
        """Whether the weights lie in pieces over the processes (FSDP, ZeRO-3)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def _shortest(self) -> int:
        return min(range(len(self.train_rows)), key=lambda place: len(self.train_rows[place].input_ids))

    def collate(self, places: Sequence[int]) -> dict[str, object]:
        """Rows -> one batch in the layout the backend takes, and row_places."""
        rows = [self.train_rows[place] for place in places]
        batch: Batch = flatten_rows(rows) if self.loaded.takes_flat_rows else pad_rows(rows, self.loaded.chat.pad_id)
        return {**batch, "row_places": list(places)}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Sum of the nll of the batch's supervised tokens / num_items_in_batch (those of the whole step)."""
        labels, lengths, places = inputs["labels"], inputs.pop("row_lengths"), inputs.pop("row_places")
        is_idle = inputs.pop("is_idle", False)
        num_supervised = int((labels != IGNORED).sum())
        if num_supervised == 0:
            raise RuntimeError("a batch without a supervised token reached the trainer")
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
        if is_idle:
            return loss * 0
        self.num_tokens_seen += int(lengths.sum())
        self.guard.note(loss, places)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # counted over all processes, and DDP averages
        return loss

    def gather_weights(self) -> dict[str, torch.Tensor]:
        """The whole state dict, put together from the pieces; all processes have to ask for it, the first gets it."""
        whole = self.deepspeed if self.is_deepspeed_enabled else self.model
        return dict(self.accelerator.get_state_dict(whole) or {})

    # Validation

    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: object = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """{"eval_loss": ...}: token-weighted over the validation rows, in fp32, each row in one of the processes."""
        scores = self.score_validation()
        check_validation([score.nll for score in scores], self.validation_names, self.state.global_step)
        metrics = {f"{metric_key_prefix}_loss": token_weighted_loss(scores)}
        for measure in self.measures:
            metrics |= measure(self.loaded)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_validation(self) -> list[RowScore]:
        """Score of every validation row, in order, gathered from the processes."""
        part = self.validation_rows[self.args.process_index :: self.args.world_size]
        if self.is_sharded:
            scores = score_in_step(self.model_wrapped, self.loaded, part or self.validation_rows[:1])
            return gather_parts(scores[: len(part)])
        # Weights of two types (freeze and full on a GPU) need autocast; an adapter is scored as evaluate.py does it.
        with contextlib.nullcontext() if self.loaded.has_adapter else self.compute_loss_context_manager():
            scores = score_rows(self.loaded, part, description="validation", shown=False)
        return gather_parts(scores)


def count_supervised(row: Encoded) -> int:
    """Tokens of a row that carry loss in a batch: all supervised ones but the first, which nothing predicts."""
    return row.num_supervised - row.loss_mask[0]


def as_dataset(rows: Sequence[Encoded]) -> Dataset:
    """Columns input_ids and labels (-100 where not supervised), as TRL wants to see tokenised rows."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [
                [token if flag else IGNORED for token, flag in zip(row.input_ids, row.loss_mask, strict=True)]
                for row in rows
            ],
        }
    )
