from pathlib import Path

import pytest
import torch

from sft.kernels.cpu.cores import map_batches, share_of
from sft.models.loading import load_base
from sft.scoring import score_labels

CPU = torch.device("cpu")


def count_threads(number: int) -> tuple[int, int]:
    return number, torch.get_num_threads()


def test_batches_come_back_in_order_each_from_one_core_and_the_process_has_its_threads_again(two_threads):
    assert list(map_batches(count_threads, range(6), CPU)) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 2


def test_batches_computed_at_the_same_time_share_what_one_alone_may_have(two_threads):
    assert share_of(2048, CPU) == 1024
    assert share_of(1, CPU) == 1
    assert share_of(2048, torch.device("cuda")) == 2048


def test_fewer_batches_than_keep_the_cores_busy_are_each_computed_by_all_of_them(two_threads):
    assert list(map_batches(count_threads, range(3), CPU)) == [(number, 2) for number in range(3)]


def test_an_error_in_a_batch_reaches_the_caller_and_the_process_has_its_threads_again(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(map_batches(lambda number: 1 // (2 - number), range(6), CPU))
    assert torch.get_num_threads() == 2


def test_labels_score_the_same_one_batch_after_the_other_and_one_to_a_core(tiny_model_folder: Path, two_threads):
    loaded = load_base(str(tiny_model_folder), dtype="fp32")
    prompts = [loaded.chat.encode_prompt([{"role": "user", "content": "text " * n}]) for n in range(1, 9)]
    labels = [("正面", "负面", "a longer label")] * len(prompts)
    side_by_side = score_labels(loaded, prompts, labels, shown=False, max_tokens=1)  # a row a batch
    torch.set_num_threads(1)
    for row, alone in zip(side_by_side, score_labels(loaded, prompts, labels, shown=False, max_tokens=1), strict=True):
        assert row == pytest.approx(alone, rel=1e-6)
