"""Micro-batches: within the budget, halved when memory runs out, with the rows of a step as they were."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.batching import num_tokens_at_once
from sft.training.log import read_log
from sft.training.microbatches import MicroBatches, OutOfMemoryError
from sft.training.trainer import RowTrainer

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@given(LENGTHS, st.integers(1, 200), st.booleans())
def test_every_row_is_in_one_micro_batch_within_the_budget(lengths, max_tokens, padded):
    batches = MicroBatches(max_tokens, padded).plan(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or num_tokens_at_once([lengths[index] for index in batch], padded) <= max_tokens


@given(LENGTHS, st.booleans())
def test_shrinking_ends_with_single_rows_and_then_an_error_that_says_what_helps(lengths, padded):
    batches = MicroBatches(1 << 30, padded)
    while len(largest := batches.plan(lengths)[0]) > 1:  # the longest rows are in the first
        before = batches.max_tokens
        batches.shrink(lengths)
        assert 0 < batches.max_tokens < before
    batches.max_tokens = 1
    with pytest.raises(OutOfMemoryError) as caught:
        batches.shrink(lengths)
    assert lengths[largest[0]] == max(lengths)
    assert str(caught.value).startswith(f"out of memory with one row of {max(lengths)} tokens at a time; --use_qlora")


def test_running_out_of_memory_shrinks_the_micro_batch_and_the_run_is_the_same(train, tmp_path, monkeypatch, capsys):
    """The error comes from a real hook of the model: a forward of more than 100 tokens fails as the device's would."""
    flags = ["--max_steps", "6", "--eval_steps", "3", "--neftune_noise_alpha", "0", "--learning_rate", "1e-2"]
    train(*flags, folder="roomy")

    build = RowTrainer.__init__

    def build_small(self, loaded, *args, **kwargs):
        build(self, loaded, *args, **kwargs)

        def check(module, inputs, outputs):
            if module.training and inputs[0].numel() > 100:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        loaded.causal_lm.get_input_embeddings().register_forward_hook(check)

    monkeypatch.setattr(RowTrainer, "__init__", build_small)
    capsys.readouterr()
    train(*flags, folder="small")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("out of memory")]
    assert said
    assert all(line.endswith("and as many rows a step as before") for line in said)
    logs = [list(read_log(tmp_path / name / "log.jsonl")) for name in ("roomy", "small")]
    for roomy, small in zip(*logs, strict=True):
        assert small["step"] == roomy["step"]
        assert small.get("num_tokens") == roomy.get("num_tokens")  # a failed attempt does not count
        for figure in ("loss", "eval_loss"):
            assert small.get(figure, 0) == pytest.approx(roomy.get(figure, 0), abs=1e-5)


def test_a_row_that_does_not_fit_alone_is_one_line_with_what_helps(train, monkeypatch):
    def fail(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RowTrainer, "compute_loss", fail)
    with pytest.raises(OutOfMemoryError, match="out of memory with one row of"):
        train("--max_steps", "2")
