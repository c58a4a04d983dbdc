"""Does an exported model answer as the run does? Compares logits and greedy answers on the same held-out rows.

before = probe(loaded, rows, max_new_tokens=24)      # the run: base and adapter
after = probe(exported, rows, max_new_tokens=24)
agreement = compare(before, after)                   # Agreement(mean_kl=2.1e-06, top1=1.0, same_answers=1.0, ...)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.nn.functional import kl_div, log_softmax

from sft.config.decoding import choose_decoding
from sft.evaluation.rows import EvalRow
from sft.generation import generate_batch
from sft.models.loaded import LoadedModel
from sft.scoring import score_classes

POSITIONS_PER_ROW = 16  # of the reference answer: 50 rows x 16 x 152k logits in fp32 are 0.5 GB


@dataclass(frozen=True)
class Probe:
    """A model's results on some rows: logits (N, V) of each row's answer, fp32 on the CPU, and its greedy answers.

    For a classification head: those of the row's classes, (1, C), and the most likely class.
    """

    logits: list[torch.Tensor]
    answers: list[list[int]]


@dataclass(frozen=True)
class Agreement:
    """How near two models are; kl is KL(run || export) in nats per position."""

    mean_kl: float
    max_kl: float
    top1: float  # share of positions with the same likeliest token
    same_answers: float  # share of rows with the same greedy answer, to its last token
    first_tokens: float  # share of rows whose greedy answers start with the same token
    num_rows: int
    num_positions: int

    def to_json(self) -> dict[str, float]:
        """For export.json."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"top-1 agreement {self.top1:.2%}, KL mean {self.mean_kl:.1e} max {self.max_kl:.1e} nats over "
            f"{self.num_positions:,} positions; same greedy answer on {self.same_answers:.0%} of {self.num_rows} rows"
        )


@dataclass(frozen=True)
class Limits:
    """The largest allowed differences of an export; see LIMITS in sft.export.flow for where the numbers come from."""

    mean_kl: float
    top1: float
    first_tokens: float
    same_answers: float = 0.0  # 0: rounding turns a tie over somewhere in most answers, so they are reported only

    def exceeded_by(self, found: Agreement) -> list[str]:
        """["mean KL 0.31, at most 0.001"]; [] if the export is as near as it should be."""
        lines = []
        if not found.mean_kl <= self.mean_kl:  # so that nan counts
            lines.append(f"mean KL {found.mean_kl:.3g}, at most {self.mean_kl:g}")
        if _is_below(found.top1, self.top1, found.num_positions):
            lines.append(f"top-1 agreement {found.top1:.2%}, at least {self.top1:.0%}")
        if _is_below(found.first_tokens, self.first_tokens, found.num_rows):
            lines.append(f"same first token on {found.first_tokens:.0%} of the rows, at least {self.first_tokens:.0%}")
        if _is_below(found.same_answers, self.same_answers, found.num_rows):
            lines.append(f"same answer on {found.same_answers:.0%} of the rows, at least {self.same_answers:.0%}")
        return lines


def _is_below(share: float, limit: float, count: int) -> bool:
    """Whether more of `count` differ than the limit lets differ, rounded up: of 24 positions one tie may turn over."""
    return round((1 - share) * count) > math.ceil((1 - limit) * count - 1e-9)


def probe(loaded: LoadedModel, rows: Sequence[EvalRow], *, max_new_tokens: int) -> Probe:
    """Logits at the positions of the reference answers, and the model's own greedy answers."""
    if loaded.head is not None:
        table = score_classes(loaded, [row.prompt_ids for row in rows], shown=False)  # (N, C)
        return Probe(list(table[:, None]), table.argmax(-1, keepdim=True).tolist())
    decoding = choose_decoding("precise", max_new_tokens=max_new_tokens)
    answers = generate_batch(loaded, [row.prompt_ids for row in rows], decoding)
    return Probe([_answer_logits(loaded, row) for row in rows], [answer.token_ids for answer in answers])


def _answer_logits(loaded: LoadedModel, row: EvalRow) -> torch.Tensor:
    encoded = row.encoded[-1]
    positions = [place - 1 for place, flag in enumerate(encoded.loss_mask) if flag][:POSITIONS_PER_ROW]
    ids = torch.tensor([encoded.input_ids[: positions[-1] + 1]], device=loaded.device)  # (1, T)
    model = loaded.causal_lm
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, positions]  # (N, D)
        return loaded.output_layer(hidden).float().cpu()  # (N, V)


def compare(run: Probe, exported: Probe) -> Agreement:
    """Position by position, row by row; of vocabularies padded to different sizes, what both have."""
    divergences, same_top = [], []
    for before, after in zip(run.logits, exported.logits, strict=True):
        width = min(before.shape[1], after.shape[1])
        expected = log_softmax(before[:, :width].double(), -1)
        found = log_softmax(after[:, :width].double(), -1)
        divergences.append(kl_div(found, expected, reduction="none", log_target=True).sum(-1))  # (N,)
        same_top.append(before.argmax(-1) == after.argmax(-1))
    kl, top = torch.cat(divergences), torch.cat(same_top)
    pairs = list(zip(run.answers, exported.answers, strict=True))
    return Agreement(
        mean_kl=kl.mean().item(),
        max_kl=kl.max().item(),
        top1=top.double().mean().item(),
        same_answers=sum(a == b for a, b in pairs) / len(pairs),
        first_tokens=sum(a[:1] == b[:1] for a, b in pairs) / len(pairs),
        num_rows=len(pairs),
        num_positions=len(kl),
    )
