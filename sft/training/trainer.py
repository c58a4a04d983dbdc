"""TRL's SFTTrainer on rows that are already tokens: our steps, our loss, our validation, our checkpoints.

What the rows' loss is, and what a validation reports, is the objective's (sft.training.objective). The loss of a step
is the sum over its rows divided by the terms of the whole step, whatever the micro-batches; validation picks the best
checkpoint.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, default_data_collator
from trl import SFTConfig, SFTTrainer

from prompts import Encoded
from sft.models.loaded import LoadedModel
from sft.scoring import TOKENS_PER_BATCH
from sft.training.guard import FiniteGuard, StallGuard, check_validation
from sft.training.language_modelling import LanguageModelling
from sft.training.memory import MemoryPlan, has_dropout
from sft.training.microbatches import MicroBatches
from sft.training.neftune import embedding_noise, length_of_each_token
from sft.training.objective import Objective, Score
from sft.training.on_cores import compute_apart, share_out
from sft.training.order import StepOrder, step_loader
from sft.training.processes import gather_parts
from sft.training.rehearsal import Rehearsal, rehearse
from sft.training.saving import SavesCheckpoints
from sft.training.stepping import ComputesSteps

Measure = Callable[[LoadedModel], Mapping[str, float]]  # more figures of a validation: {"eval_macro_f1": 0.91}


class RowTrainer(ComputesSteps, SavesCheckpoints, SFTTrainer):
    """SFTTrainer for encoded rows; counts the tokens it has seen in `num_tokens_seen`."""

    def __init__(
        self,
        loaded: LoadedModel,
        train_rows: Sequence[Encoded],
        validation_rows: Sequence[Encoded],
        args: SFTConfig,
        *,
        objective: Objective[Any] | None = None,
        micro_batch_tokens: int | None = None,
        recomputes: bool | None = None,
        replays: bool = False,
        train_names: Sequence[str] = (),
        validation_names: Sequence[str] = (),
        neftune_noise_alpha: float | None = None,
        measures: Sequence[Measure] = (),
        callbacks: Sequence[TrainerCallback] = (),
        on_rehearsed: Callable[[Rehearsal], None] | None = None,
    ) -> None:
        """objective: None is that of a chat model. micro_batch_tokens: None plans them. recomputes: whether
        layers are computed twice to spare memory; None: as many as it takes. replays: passes are recorded as CUDA
        graphs, where that can be done. measures: more figures of every validation, beside the objective's.

        on_rehearsed: called before the first step with what the longest batch and a usual step took.
        """
        self.loaded = loaded
        self.objective: Objective[Any] = objective or LanguageModelling(loaded)
        self.train_rows, self.validation_rows = list(train_rows), list(validation_rows)
        self.validation_names = validation_names or [str(place) for place in range(len(validation_rows))]
        self.guard = FiniteGuard(train_names or [str(place) for place in range(len(train_rows))])
        self.noise_alpha = neftune_noise_alpha
        self.measures = list(measures)
        self.on_rehearsed = on_rehearsed
        self.num_tokens_seen = 0
        self.micro_batch_tokens, self.recomputes = micro_batch_tokens, recomputes
        self.wants_replay = replays
        # Beginnings that rows have in common are computed once, where nothing makes equal tokens different in each row.
        is_same = not neftune_noise_alpha and not has_dropout(loaded.causal_lm)
        self.shares_prefixes = self.objective.shares_prefixes and loaded.layers.shares and is_same
        self.plan = MemoryPlan(micro_batch_tokens or TOKENS_PER_BATCH[loaded.device.type])
        self.micro_batches = MicroBatches(self.plan.micro_batch_tokens, padded=not loaded.takes_flat_rows)
        types = {name: weight.dtype for name, weight in loaded.model.named_parameters() if weight.requires_grad}
        super().__init__(
            model=loaded.model,
            args=args,
            processing_class=loaded.tokenizer,
            train_dataset=self.objective.as_dataset(train_rows),
            eval_dataset=self.objective.as_dataset(validation_rows),
            # Neither is called, our batches are made in training_step; TRL's own is for language models alone.
            data_collator=None if loaded.head is None else default_data_collator,
            callbacks=[self.guard, StallGuard(), *callbacks],
        )
        for name, weight in loaded.model.named_parameters():
            if name in types:  # TRL turns an adapter beside 4-bit weights into bf16, where small updates are lost
                weight.data = weight.data.to(types[name])
        # peft writes a card of its own beside each adapter: a form to fill in, with paths of this machine.
        loaded.model.create_or_update_model_card = lambda folder: None
        for built_in in (PrinterCallback, ProgressCallback):  # the project's own callbacks narrate
            self.remove_callback(built_in)
        if len(self.train_dataset) != len(train_rows):
            raise RuntimeError(f"the trainer kept {len(self.train_dataset)} of {len(train_rows)} rows")

    # Steps

    def get_train_dataloader(self) -> DataLoader[dict[str, list[int]]]:
        """One item a step: the places of its rows. The trainer accumulates nothing itself."""
        self.order = StepOrder(
            [len(row.input_ids) for row in self.train_rows],
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
        if self.recomputes:
            self.follow(replace(self.plan, recomputed_layers=self.num_layers))
        if self.on_rehearsed is not None and not self.is_deepspeed_enabled:  # whose engine cannot take a step back
            self.on_rehearsed(rehearse(self, model, is_resumed=resume_from_checkpoint is not None))
        return model, loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, list[int]]], num_batches: int, device: object
    ) -> tuple[list[dict[str, list[int]]], torch.Tensor]:
        """The steps that come next (one) and the terms of their loss. Unsloth replaces the stock method by its own."""
        steps = list(itertools.islice(epoch_iterator, num_batches))
        return steps, self._get_num_items_in_batch(steps, device)

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, list[int]]], device: object) -> torch.Tensor:
        """Terms of the step's loss over all processes: what it is divided by."""
        rows = [self.train_rows[place] for step in batch_samples for place in step["places"]]
        count = torch.tensor(sum(map(self.objective.count_terms, rows)), device=self.args.device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted: tokens per second say more."""
        return 0

    def collate(self, places: Sequence[int]) -> dict[str, object]:
        """Rows -> one batch as the objective has it, and row_places."""
        batch = self.objective.collate(self._rows(places), shares=self.shares_prefixes)
        return {**batch, "row_places": list(places)}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The batch's part of the step's loss, which num_items_in_batch terms make up."""
        lengths, places = inputs.pop("row_lengths"), inputs.pop("row_places")
        is_idle = inputs.pop("is_idle", False)
        if self.shares_prefixes:
            of_token = None
        elif self.loaded.takes_flat_rows:
            of_token = length_of_each_token(lengths, inputs["input_ids"].shape[1])
        else:
            of_token = lengths[:, None]  # (B, 1)
        with embedding_noise(self.loaded.causal_lm, self.noise_alpha, of_token), self.loaded.flat_rows():
            parts = self._share_out(places) if model is self.loaded.model and not is_idle else []
            if parts and num_items_in_batch is not None:
                rows = self._rows(places)
                loss = compute_apart(
                    self.loaded, self.objective, rows, parts, num_items_in_batch, shares=self.shares_prefixes
                )
            else:
                loss = self.objective.compute_loss(model, inputs, num_items_in_batch)
        if is_idle:
            return loss * 0
        self._count(loss, places)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # counted over all processes, and DDP averages
        return loss

    def _share_out(self, places: Sequence[int]) -> list[list[int]]:
        """Indices of a micro-batch's rows in parts that cores compute apart; none where it is computed as a whole."""
        if not self.shares_cores or not torch.is_grad_enabled() or not self.loaded.model.training:
            return []
        return share_out(self._lengths(places), torch.get_num_threads())

    @cached_property
    def shares_cores(self) -> bool:
        """Whether rows may be computed apart on a CPU: an adapter, nothing that draws random numbers in the layers."""
        is_alone = self.loaded.device.type == "cpu" and self.args.world_size == 1 and not self.is_sharded
        embeddings = self.loaded.causal_lm.get_input_embeddings()
        is_fixed = not any(weight.requires_grad for weight in embeddings.parameters())
        return (
            is_alone
            and self.trains_in_one_type
            and is_fixed
            and self.loaded.layers.flat
            and self.loaded.layers.embeds
            and self.objective.takes_hidden_states
            and not has_dropout(self.loaded.causal_lm)
        )

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
        """{"eval_loss": ..., ...}: the objective's figures over the validation rows, each scored in one process."""
        scores = self.score_validation()
        check_validation([score.nll for score in scores], self.validation_names, self.state.global_step)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.objective.summarise(scores).items()}
        for measure in self.measures:
            metrics |= measure(self.loaded)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_validation(self) -> list[Score]:
        """Score of every validation row, in order, gathered from the processes."""
        part = self.validation_rows[self.args.process_index :: self.args.world_size]
        if self.is_sharded:
            scores = self.objective.score(part or self.validation_rows[:1], sharded=self.model_wrapped)
            return gather_parts(scores[: len(part)])
        # Weights of two types (freeze and full on a GPU) need autocast; an adapter is scored as evaluate.py does it.
        with contextlib.nullcontext() if self.loaded.has_adapter else self.accelerator.autocast():
            scores = self.objective.score(part)
        return gather_parts(scores)
