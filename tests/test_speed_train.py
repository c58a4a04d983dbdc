"""What benchmarks/speed_train.py counts as computed and as agreement, and the shares of the rate in docs/results.md."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks.random_models import GEOMETRY
from benchmarks.speed_train import Measured, Plan, Way, compare, flop_per_token
from prompts import Encoded
from tests.commands import ROOT

ROW = Encoded(input_ids=[1] * 10, loss_mask=[0] * 4 + [1] * 6)  # 60 % supervised, as in docs/results.md
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CARDS = 788e12, 792e12  # FLOP/s of large bf16 products: the H100 and the H200 of the table


def with_lora(rank=2, **shape):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**shape))
    return get_peft_model(model, LoraConfig(r=rank, target_modules=PROJECTIONS))


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_counts_nothing_the_head_at_supervised_tokens_and_an_adapter_once_more(tied):
    shape = {"vocab_size": 90, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    model = with_lora(**shape, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    adapter = sum(size for name, size in sizes.items() if "lora_" in name)
    ends = sum(size for name, size in sizes.items() if "embed_tokens" in name or "lm_head" in name)
    assert ends == 90 * 16 * (1 if tied else 2)
    body = sum(sizes.values()) - adapter - ends
    assert flop_per_token(model, [ROW]) == 4 * body + 6 * adapter + 4 * 0.6 * 90 * 16


def test_the_shares_in_the_results_follow_from_the_tokens_per_second_beside_them():
    flop = flop_per_token(with_lora(rank=16, **GEOMETRY["7b"]), [ROW])
    table = (ROOT / "docs/results.md").read_text(encoding="utf-8").partition("| path | H100: tokens/s |")[2]
    lines = [line.split("|") for line in table.partition("\n\n")[0].splitlines()[2:]]
    shares = [
        (int(re.search(r"[\d,]+", cells[at]).group().replace(",", "")), card, int(cells[at + 1].strip(" %")))
        for cells in lines
        for at, card in zip((2, 5), CARDS, strict=True)
        if cells[at].strip()
    ]
    assert len(shares) > len(lines) > 5
    assert [share for tokens, card, share in shares if abs(100 * flop * tokens / card - share) > 0.6] == []


def compared(**losses):
    plan = Plan("embedded", "auto", "auto", 8, 3, 1, 0, 5.9, 256, False, None, None, None, None)
    runs = {name: [Measured([1.0], 0.1, 1.0, 1.0, found, [1.0] * len(found), 1, 1)] for name, found in losses.items()}
    return compare(plan, {name.replace("_", "-"): one for name, one in runs.items()})


@pytest.mark.parametrize(
    ("ours", "agree"),
    [
        ({"ours_lora": [2.0, 1.505, 1.0]}, True),
        ({"ours_lora": [2.0, 1.52, 1.0]}, False),
        ({"ours_lora_fp8": [2.0, 1.54, 1.0]}, True),
        ({"ours_lora_fp8": [2.0, 1.56, 1.0]}, False),
        ({"ours_lora": [2.0, float("nan"), 1.0]}, False),
        ({"ours_lora": [float("nan"), 1.5, 1.0]}, False),
        ({"unsloth_lora": [2.0, 1.6, 1.0]}, True),
    ],
)
def test_losses_of_ours_agree_with_fp32_as_far_as_their_type_allows(ours, agree):
    result = compared(**ours, stock_lora_2x4_fp32=[2.0, 1.5, 1.0])
    assert (result["agree"], result["failed"]) == (agree, [])


def test_a_path_without_a_loss_is_named_as_failed():
    assert compared(ours_lora=[2.0], unsloth_lora_8x1=[])["failed"] == ["unsloth-lora-8x1"]


def test_an_unknown_part_of_a_path_is_refused():
    assert Way.parse("ours-lora-2x4-fp8").in_fp8
    with pytest.raises(SystemExit, match="'fb8' is not known"):
        Way.parse("ours-lora-fb8")
