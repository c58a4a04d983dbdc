"""Every family of causal language models in transformers is computed as stock computes it, or refused."""

import pytest

from benchmarks.families import FAMILIES, measure
from benchmarks.random_models import make_random_tokenizer

QUICK = {  # those of Qwen, and one of each kind of attention: the others are marked slow
    "qwen2": {"flat", "shared", "padded", "micro-batches"},
    "qwen2_moe": {"flat", "shared", "padded", "micro-batches"},
    "qwen3": {"flat", "shared", "padded", "micro-batches"},
    "qwen3_moe": {"flat", "shared", "padded", "micro-batches"},
    "qwen3_next": {"padded", "micro-batches"},
    "qwen3_5": {"padded", "micro-batches"},
    "qwen3_5_moe": {"padded", "micro-batches"},
    "llama": {"flat", "shared", "padded", "micro-batches"},
    "mistral": {"flat", "shared", "padded", "micro-batches"},  # a window shorter than the rows
    "gemma2": {"padded", "micro-batches"},  # soft caps
    "gpt_oss": {"padded", "micro-batches"},  # sinks
    "lfm2": {"flat", "padded", "micro-batches"},  # short convolutions
}
NAMED = {  # families that users are told can be trained
    "ministral", "gemma3_text", "smollm3", "olmo2", "phi3", "glm4", "granite", "ernie4_5", "hunyuan_v1_dense",
}  # fmt: skip
# Gradients in fp32 of families that round more than the others, in fp64 10 to 1,000 times smaller: linear attention
# solves triangular systems, Gemma 4 norms values, experts are summed.
ROUNDS_MORE = {"qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "gemma4_text", "hy_v4",
               "gemma4_unified_text", "granitemoeshared", "granite", "granitemoe", "granitemoe_swa"}  # fmt: skip


def check(family: str) -> set[str]:
    """Measure a family and return the paths that it takes; a family that cannot be built is skipped, saying why."""
    found = measure(family, make_random_tokenizer())
    if not found.is_built:
        pytest.skip(f"{family}: {found.why}")
    most = 3e-4 if family in ROUNDS_MORE else 1e-5
    assert {name: away for name, away in found.paths.items() if not away <= most} == {}
    return set(found.paths)


@pytest.mark.parametrize("family", QUICK)
def test_loss_and_gradients_of_every_path_are_those_of_stock_row_by_row(family):
    assert check(family) == QUICK[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in QUICK])
def test_every_family_of_transformers_is_computed_as_stock_computes_it(family):
    paths = check(family)
    assert "padded" in paths


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(NAMED))
def test_families_that_users_are_offered_can_be_built(family):
    assert measure(family, make_random_tokenizer()).is_built
