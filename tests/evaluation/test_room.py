import pytest
import torch
from transformers import Qwen2Config

from sft.evaluation.measuring import FEWEST_TOKENS, LEAST_CACHE_BYTES, ON_CPU, divide, plan_room
from sft.generation.batch import Room

QWEN_7B = Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28)
USUAL = Room(16_384, 40 * 2**30)


@pytest.mark.parametrize(
    ("beside_gb", "tokens", "cache_gb"),
    [(32, 16_384, 16), (2, 3_426, 1), (0.01, FEWEST_TOKENS, LEAST_CACHE_BYTES / 2**30), (200, 16_384, 40)],
)
def test_what_training_held_beside_the_weights_is_divided_between_reading_and_remembering(beside_gb, tokens, cache_gb):
    room = divide(int(beside_gb * 2**30), QWEN_7B, torch.bfloat16, USUAL)
    assert room == Room(tokens, int(cache_gb * 2**30))


def test_on_a_cpu_a_batch_takes_little(run, loaded):
    assert plan_room(run, loaded) == ON_CPU
