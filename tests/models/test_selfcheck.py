"""The self-check: what a config promises wrongly is not used, and trying it leaves nothing behind."""

import copy

import pytest
import torch
from transformers import Qwen3ForCausalLM

from benchmarks.families import build, load
from benchmarks.families import make_rows as make_training_rows
from benchmarks.random_models import make_random_tokenizer
from sft.batches import find_segments
from sft.errors import ModelError
from sft.kernels import attention
from sft.models import selfcheck
from sft.models.capabilities import Layers, padded, read_layers
from sft.models.loading import load_base
from sft.models.selfcheck import check_layers, make_rows
from sft.scoring import score_rows

EVERYTHING = Layers(flat=True, shares=True, records=True, why="")


@pytest.fixture(scope="module")
def rows():
    return make_rows(make_random_tokenizer())


def test_two_of_the_rows_share_a_prefix_and_all_have_tokens_of_their_own(rows):
    assert len(find_segments(rows)) == 4
    assert [row.num_supervised for row in rows] == [16, 16, 15]


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_next", "lfm2", "recurrent_gemma", "mamba2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_layers_that_carry_a_state_cannot_be_promised_to_keep_rows_apart(family, dtype, rows, capsys):
    model = build(family).to(dtype)
    found = check_layers(model, EVERYTHING, rows)
    assert not found.flat
    assert not found.shares
    told = capsys.readouterr().err
    assert "self-check: rows laid end to end" in told
    assert "rows are padded instead" in told


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "llama", "mistral", "gemma3_text", "granite"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_attention_alone_proves_itself_in_every_type_without_a_word(family, dtype, rows, capsys):
    model = build(family).to(dtype)
    assert check_layers(model, read_layers(model), rows) == EVERYTHING
    assert capsys.readouterr().err == ""


def test_layers_that_read_the_tokens_themselves_are_not_given_embeddings_alone(rows, capsys):
    model = build("qwen3")
    model.get_input_embeddings = lambda: lambda ids: 2 * model.model.embed_tokens(ids)  # what tokens add is missing
    found = check_layers(model, EVERYTHING, rows)
    assert found == EVERYTHING._replace(embeds=False)
    assert "not shared out to the cores" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_prefix_that_is_shared_wrongly_is_computed_for_each_row(dtype, rows, capsys, monkeypatch):
    monkeypatch.setattr(attention, "pick", lambda heads, places: heads[:, :, (places - 1).clamp(min=0)])
    found = check_layers(build("qwen3").to(dtype), EVERYTHING, rows)
    assert (found.flat, found.shares, found.records) == (True, False, False)
    assert "hidden states are" in found.why
    assert "prefixes shared by rows: hidden states are" in capsys.readouterr().err


def test_a_model_whose_tokens_see_later_ones_is_refused(rows):
    with pytest.raises(ModelError, match="as if its tokens saw later ones"):
        check_layers(build("roformer"), padded(""), rows)


def test_a_model_whose_logits_are_not_those_of_its_hidden_states_is_refused(rows, monkeypatch):
    with pytest.raises(ModelError, match="its logits cannot be had from its hidden states"):
        check_layers(build("prophetnet"), padded(""), rows)

    def forward(self, *args, **kwargs):
        output = Qwen3ForCausalLM.stock(self, *args, **kwargs)
        output.logits = output.logits + add(output.logits)
        return output

    monkeypatch.setattr(Qwen3ForCausalLM, "stock", Qwen3ForCausalLM.forward, raising=False)
    monkeypatch.setattr(Qwen3ForCausalLM, "forward", forward)
    add = torch.zeros_like
    check_layers(build("qwen3"), EVERYTHING, rows)
    add = lambda logits: 4 * logits.mean(dim=1, keepdim=True)  # noqa: E731 (of all tokens, later ones too)
    with pytest.raises(ModelError, match=r"logits .* away from those of a row by itself"):
        check_layers(build("qwen3"), EVERYTHING, rows)


def test_soft_caps_that_no_config_names_are_found_and_computed_by_eager_attention(rows, capsys):
    model = build("gemma2")
    model.config._attn_implementation = "shared_heads"
    check_layers(model, padded(""), rows)
    assert model.config._attn_implementation == "eager"
    assert "attention with softcap=50.0" in capsys.readouterr().err


def test_nothing_is_left_of_a_check(rows):
    model = build("qwen2_moe")
    model.model.layers[1].eval()  # modes differ
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    config = copy.deepcopy(model.config.to_dict())
    state, before = torch.get_rng_state(), model.config._attn_implementation
    check_layers(model, EVERYTHING, rows)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.config.to_dict(), model.config._attn_implementation) == (config, before)


def test_a_loaded_model_is_checked_once_and_says_why_its_rows_are_padded(capsys, monkeypatch):
    loaded, calls = load(build("qwen3_5"), make_random_tokenizer()), []
    monkeypatch.setattr(selfcheck, "_alone", lambda *given, real=selfcheck._alone: calls.append(1) or real(*given))
    assert [loaded.takes_flat_rows for _ in range(3)] == [False] * 3
    assert len(calls) == 3
    assert capsys.readouterr().err.count("rows are padded: linear_attention layers carry a state") == 1


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5", "lfm2", "mistral", "gemma2", "gpt_oss", "granite", "falcon"])
def test_rows_are_scored_as_stock_scores_them_one_by_one(family):
    model = build(family).eval()
    rows = make_training_rows()
    found = score_rows(load(model, make_random_tokenizer()), rows, shown=False)
    model.config._attn_implementation = "eager"
    for row, score in zip(rows, found, strict=True):
        ids = torch.tensor(row.input_ids)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, -7:-1]
        wanted = torch.nn.functional.cross_entropy(logits, ids[-6:], reduction="sum").item()
        assert score.nll == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_the_check_of_the_embedded_model_takes_less_than_a_few_seconds(embedded_folder, two_threads):
    import time

    loaded = load_base("embedded", dtype="bf16")
    began = time.perf_counter()
    assert loaded.layers == EVERYTHING
    assert time.perf_counter() - began < 3  # 0.5 s on two idle cores
