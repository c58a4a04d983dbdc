"""Weights that lie in pieces over several processes (FSDP2, DeepSpeed ZeRO-3): what has to be done differently then.

Pieces are gathered by the outermost module's forward, in all processes at once. So validation goes through that
forward, and every process runs as many as the others.
"""

import os
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from prompts import Encoded
from sft.batching import Predictors, plan_batches, tensor_of, to_device
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ConfigError
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.models.precision import is_launched_sharded
from sft.scoring import LOGITS_AT_ONCE, RowScore
from sft.training.processes import as_often_as_others


def check_settings(settings: TrainSettings) -> None:
    """Raises ConfigError for what cannot be done with weights in pieces."""
    if not is_launched_sharded():
        return
    if settings.method == "qlora":
        raise ConfigError("method qlora: weights in 4 bits cannot be cut into pieces; take --method lora, or torchrun")
    if settings.num_sample_predictions:
        raise ConfigError("num_sample_predictions: one process cannot generate with weights in pieces; leave it out")
    if settings.metric_for_best_model != "eval_loss" and not settings.is_classifier:
        raise ConfigError("metric_for_best_model: labels are not scored with weights in pieces; take eval_loss")
    if settings.dry_run and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ConfigError("dry_run: DeepSpeed's engine cannot take a step back; take --max_steps 2")


def tell_of_copies(*, is_sharded: bool) -> None:
    """Say it where the launcher asked for pieces and accelerate makes copies, which it does not say."""
    if is_launched_sharded() and not is_sharded:
        say("WARNING weights are cut into pieces over several GPUs only: here each process holds all of them")


def score_in_step(model: torch.nn.Module, loaded: LoadedModel, rows: Sequence[Encoded]) -> list[RowScore]:
    """Score of every row, in order, as sft.scoring.score_rows, by the whole model's forward.

    Logits are formed at supervised positions only; a batch has at most LOGITS_AT_ONCE of them where its rows allow.
    """
    batches = plan_batches([row.num_supervised for row in rows], LOGITS_AT_ONCE)
    scores = [RowScore(0.0, 0)] * len(rows)
    with in_eval_mode(model), torch.no_grad(), loaded.flat_rows():
        for places in as_often_as_others(batches):
            batch = loaded.lay_out([rows[place] for place in places])
            asked, lengths = Predictors.of(batch), tensor_of(batch.pop("row_lengths"))
            del batch["labels"]
            given = to_device({**batch, "logits_to_keep": asked.columns}, loaded.device)
            logits = asked.pick(model(**given, use_cache=False).logits)  # (N, V)
            nll = cross_entropy(logits.float(), asked.targets.to(logits.device), reduction="none").double().cpu()
            row_of_token = asked.lines
            if loaded.takes_flat_rows:
                row_of_token = torch.arange(len(places)).repeat_interleave(lengths)[asked.columns + 1]
            sums = torch.zeros(len(places), dtype=torch.float64).index_add_(0, row_of_token, nll)
            counts = torch.bincount(row_of_token, minlength=len(places))
            for place, total, count in zip(places, sums.tolist(), counts.tolist(), strict=True):
                scores[place] = RowScore(total, count)
    return scores
