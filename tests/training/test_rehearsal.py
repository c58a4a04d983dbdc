"""Before step 1: the longest batch is tried for real, the time comes from a usual one, and nothing is left of it."""

import contextlib
import re
from types import SimpleNamespace

import pytest
import torch

from sft.errors import ModelError
from sft.training import rehearsal
from sft.training.log import read_log
from sft.training.trainer import RowTrainer

FLAGS = ("--max_steps", "4", "--eval_steps", "2", "--lora_dropout", "0.1", "--warmup_steps", "0")


def test_a_run_is_the_same_to_the_last_bit_with_and_without_it(train, tmp_path, monkeypatch):
    train(*FLAGS, folder="with")
    build = RowTrainer.__init__
    monkeypatch.setattr(
        RowTrainer, "__init__", lambda self, *args, **more: build(self, *args, **{**more, "before_first_step": None})
    )
    train(*FLAGS, folder="without")
    keys = ("step", "loss", "eval_loss", "grad_norm", "num_tokens")
    logs = [
        [[line.get(key) for key in keys] for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("with", "without")
    ]
    assert logs[0] == logs[1]


def test_the_plan_is_said_before_the_first_step(train, capsys):
    train(*FLAGS)
    lines = capsys.readouterr().err.splitlines()
    plan = next(number for number, line in enumerate(lines) if line.startswith("plan: "))
    assert re.fullmatch(
        r"plan: 8 rows per step in micro-batches of at most 2,048 tokens \(1\.0 per step\), longest [0-9]+; "
        r"peak [0-9.]+ of [0-9.]+ GB; [0-9.]+ s per step, 4 steps and 2 validations "
        r"\(under 1 s each\) in about 0:00:0[0-9]",
        lines[plan],
    )
    assert plan < next(number for number, line in enumerate(lines) if line.startswith("train: ") and "steps/s" in line)


def test_the_plan_says_how_much_of_the_rows_is_computed_once(train, capsys):
    train("--max_steps", "2", "--eval_steps", "2", "--neftune_noise_alpha", "0")
    plan = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: "))
    found = re.search(r"longest [0-9]+; ([0-9]+)% of the tokens in shared prefixes, computed once; peak", plan)
    assert found is not None
    assert 5 < int(found[1]) < 90


def test_the_rehearsal_uses_the_trainers_own_step_with_the_longest_rows_and_the_optimizer(train, monkeypatch):
    seen, steps = [], []
    training_step = RowTrainer.training_step

    def note(self, model, inputs, *more):
        seen.append(sorted(len(self.train_rows[place].input_ids) for place in inputs["places"]))
        rates = [group["lr"] for group in self.optimizer.param_groups]
        steps.append(rates)
        self.all_lengths = sorted(len(row.input_ids) for row in self.train_rows)
        note.trainer = self
        return training_step(self, model, inputs, *more)

    monkeypatch.setattr(RowTrainer, "training_step", note)
    train("--dry_run")
    lengths = note.trainer.all_lengths
    assert seen[0] == lengths[-8:]
    usual = sum(seen[1]) / len(seen[1])
    assert usual == pytest.approx(sum(lengths) / len(lengths), rel=0.05)  # as a step of the run on average
    assert len(seen) == 2
    assert {rate for rates in steps for rate in rates} == {0.0}
    assert note.trainer.optimizer.optimizer.state == {}


def test_the_estimate_follows_the_tokens_of_a_usual_step_not_of_the_longest_batch(train, monkeypatch):
    training_step, now = RowTrainer.training_step, [0.0]

    def a_millisecond_a_token(self, model, inputs, *more):
        now[0] += 0.001 * sum(len(self.train_rows[place].input_ids) for place in inputs["places"])
        return training_step(self, model, inputs, *more)

    monkeypatch.setattr(RowTrainer, "training_step", a_millisecond_a_token)
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: now[0])
    metrics = train("--dry_run", "--max_steps", "100", "--eval_steps", "100").metrics
    # 36 rows of 2,951 tokens, 8 a step; the longest 8 have 742. Validation: 327 tokens, a third of the time each
    assert metrics["estimated_duration_s"] == round(100 * 8 * 2951 / 36 / 1000 + 0.327 / 3)


def test_kernels_that_refuse_this_card_end_the_run_in_one_line():
    def fail(*_):
        raise RuntimeError("Triton >= 3.4.0 and < 3.7.1 on Hopper GPUs produces incorrect results")

    accelerator = SimpleNamespace(no_sync=lambda model: contextlib.nullcontext())
    trainer = SimpleNamespace(
        count_terms=len, is_sharded=False, accelerator=accelerator, run_micro_batches=fail,
        loaded=SimpleNamespace(causal_lm=None),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"forward and backward fails here: Triton >= 3.4.0"):
        rehearsal._Trials(trainer, None, False)._forward_and_backward([0])


class CardOf3MB:
    """Stands for torch on a card: a token takes 9 kB, or 2 kB where layers are computed in pieces."""

    tokens, in_pieces = 0, False

    def __getattr__(self, name):
        return getattr(torch, name)

    @property
    def cuda(self):
        nothing = lambda *_: None  # noqa: E731
        return SimpleNamespace(
            is_available=lambda: True, OutOfMemoryError=torch.OutOfMemoryError, memory_allocated=lambda: 10_000_000,
            max_memory_allocated=lambda: 11_000_000 + self.tokens * (2000 if self.in_pieces else 9000),
            mem_get_info=lambda: (0, 2**34), get_per_process_memory_fraction=lambda: 0.25,
            get_rng_state=nothing, set_rng_state=nothing, synchronize=nothing,
            reset_peak_memory_stats=nothing, empty_cache=nothing,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "ways", "host"),
    [((), [False] * 3 + [True] * 3, 0.0), (("--no-activation_offloading",), [False] * 6, None),
     (("--activation_offloading",), [True] * 3, 0.0)],
)  # fmt: skip
def test_long_rows_are_rehearsed_thinned_out_and_computed_in_pieces_where_they_do_not_fit(
    train, monkeypatch, flag, ways, host
):
    card, seen, others = CardOf3MB(), [], []
    run_micro_batches = RowTrainer.run_micro_batches

    def note(self, model, places, *more):
        card.tokens, card.in_pieces = sum(self.lengths_of(places)), bool(self.long_rows._replaced)
        seen.append((card.tokens, card.in_pieces))
        others.append(max(len(row.input_ids) for row in self.train_rows))  # all but the one that is tried
        return run_micro_batches(self, model, places, *more)

    monkeypatch.setattr(RowTrainer, "run_micro_batches", note)
    monkeypatch.setattr(rehearsal, "torch", card)
    monkeypatch.setattr(rehearsal, "free_bytes", lambda: 1_600_000.0)
    foresee, foreseen = rehearsal._Trials.foresee, []

    def watch(self, longest, usual):
        found = foresee(self, longest, usual)
        foreseen.append((found[0], sum(length**2 for length in self.trainer.lengths_of(usual))))
        return found

    monkeypatch.setattr(rehearsal._Trials, "foresee", watch)
    monkeypatch.setattr(rehearsal, "time_attention", lambda *_: (1.0, 2.0))  # far more than all else takes
    monkeypatch.setattr(rehearsal, "LONGEST_TRIED", 40)
    monkeypatch.setattr(rehearsal, "NEVER_KEPT", 60)
    metrics = train("--dry_run", "--neftune_noise_alpha", "0", *flag).metrics
    assert [way for _, way in seen] == ways
    assert max(tokens for tokens, _ in seen) <= 40 < max(others)
    assert metrics["host_gb"] == host
    ((step_s, squares),) = foreseen  # two layers; with checkpointing attention runs forward twice
    assert step_s == pytest.approx(2 * (4.0 if host is None else 3.0) / 40**2 * squares)
    if host is not None:
        assert metrics["micro_batch_tokens"] >= max(others)
