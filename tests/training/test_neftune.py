"""NEFTune noise: in training only, scaled by each row's own length, gone afterwards."""

from pathlib import Path

import torch

from sft.models.loading import load_base
from sft.training.replay import embedding_noise

ALPHA = 5.0


def embed(model, lengths: torch.Tensor, alpha: float | None) -> torch.Tensor:
    with torch.no_grad(), embedding_noise(model, alpha, lengths):
        return model.get_input_embeddings()(torch.full(tuple(lengths.shape), 7))


def test_noise_fills_the_range_its_rows_length_gives_it(tiny_model_folder: Path):
    model = load_base(str(tiny_model_folder), dtype="fp32").causal_lm.train()
    clean = model.get_input_embeddings().weight[7].detach()
    lengths = torch.tensor([[4] * 4 + [400] * 400])  # two rows laid end to end
    noise = (embed(model, lengths, ALPHA) - clean)[0]
    for rows, length in ((noise[:4], 4), (noise[4:], 400)):
        bound = ALPHA / (length * clean.shape[0]) ** 0.5
        assert 0.8 * bound < rows.abs().max() <= bound * 1.0001


def test_there_is_no_noise_outside_training_without_alpha_or_afterwards(tiny_model_folder: Path):
    model = load_base(str(tiny_model_folder), dtype="fp32").causal_lm
    clean = model.get_input_embeddings().weight[7].detach().expand(1, 6, -1)
    lengths = torch.full((1, 6), 6)
    assert torch.equal(embed(model.eval(), lengths, ALPHA), clean)
    assert torch.equal(embed(model.train(), lengths, 0.0), clean)
    assert torch.equal(embed(model.train(), lengths, None), clean)
    embed(model, lengths, ALPHA)
    assert torch.equal(model.get_input_embeddings()(torch.full((1, 6), 7)), clean)
