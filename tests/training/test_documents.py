"""Continued pretraining on documents: packed, none sees another, and the loss is that of a stock loop over them."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.data import open_dataset_of
from sft.errors import ConfigError
from sft.evaluation import evaluate_run
from sft.inference import Predictor
from sft.models.loading import load_tokenizer
from sft.runs.run import open_run
from sft.training.fit import fit
from sft.training.processes import StepOrder, pack_rows

LENGTH = 48


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    """40 documents of 20 to 140 characters."""
    path = tmp_path_factory.mktemp("documents") / "docs.jsonl"
    texts = [f"Document {number}: " + "once upon a time there was a hill. " * (number % 5) for number in range(40)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(documents, tiny_model_folder, tmp_path_factory):
    """A run of two steps, of all documents each, at a rate of nearly nothing; and its settings."""
    folder = tmp_path_factory.mktemp("runs") / "documents"
    flags = ["--model", tiny_model_folder, "--data", documents, "--task", "text", "--output_dir", folder,
             "--method", "lora", "--dtype", "fp32", "--max_seq_length", LENGTH, "--neftune_noise_alpha", 0,
             "--max_steps", 2,
             "--learning_rate", 1e-9, "--warmup_steps", 0, "--per_device_train_batch_size", 64,
             "--gradient_accumulation_steps", 4, "--micro_batch_tokens", 200]  # fmt: skip
    settings = load_settings(TrainSettings, [str(flag) for flag in flags])
    dataset = open_dataset_of(settings)
    fit(settings, dataset)
    return open_run(folder), dataset


def score_stock(rows, folder: Path) -> tuple[float, int]:
    """Summed loss and predicted tokens of documents, each in windows that overlap by a token, by transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(folder)
    nll, count = 0.0, 0
    for row in rows:
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        ids = [*tokenizer.encode(row["text"], add_special_tokens=False), end]
        for start in range(0, len(ids) - 1, LENGTH - 1):
            window = torch.tensor([ids[start : start + LENGTH]])
            with torch.no_grad():
                loss = model(input_ids=window, labels=window).loss
            nll, count = nll + float(loss) * (window.shape[1] - 1), count + window.shape[1] - 1
    return nll, count


def test_a_step_over_packed_documents_has_the_loss_of_a_stock_loop_over_their_tokens(trained, tiny_model_folder):
    run, dataset = trained
    nll, count = score_stock(dataset.train, tiny_model_folder)
    steps = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]

    losses = [line["loss"] for line in steps if "loss" in line]
    assert losses == pytest.approx([nll / count] * len(losses), abs=1e-4)
    assert run.data["train"]["supervised_tokens"] == count
    assert run.data["train"]["split_documents"] > 0


def test_evaluate_reports_loss_and_perplexity_per_token_with_intervals_and_generates_nothing(
    trained, tiny_model_folder
):
    run, dataset = trained
    found = evaluate_run(run, load_settings(EvaluateSettings, ["--run", str(run.path)]))
    nll, count = score_stock(dataset.validation, tiny_model_folder)

    figures = found.metrics["teacher_forcing"]
    assert figures["eval_loss"] == pytest.approx(nll / count, abs=1e-5)
    assert figures["supervised_tokens"] == count
    assert figures["perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert "generation" not in found.metrics
    for name, value in (("text loss", figures["eval_loss"]), ("text perplexity", figures["perplexity"])):
        interval = found.metrics["intervals"][name]
        assert interval["low"] < value < interval["high"]
        assert interval["num_units"] == len(dataset.validation)
    assert {line["prediction"] for line in found.predictions} == {""}
    with pytest.raises(ConfigError, match="--rouge: documents have a loss, and no answer is written"):
        evaluate_run(run, load_settings(EvaluateSettings, ["--run", str(run.path), "--rouge"]))


def test_a_run_of_documents_continues_a_text(trained, tmp_path):
    run, _ = trained
    predictor = Predictor(run)

    assert predictor.task.name == "text"
    ids = predictor._ask("Once upon").ids
    assert predictor.loaded.chat.decode(ids) == "Once upon"
    assert run.learned_documents


@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=60),
    st.integers(30, 60),
    st.integers(1, 4),
)
def test_packs_hold_every_row_once_and_no_more_tokens_than_a_row_may_have(rows, capacity, packs_per_step):
    lengths, is_packed = [length for length, _ in rows], [packed for _, packed in rows]
    packs = pack_rows(lengths, is_packed, capacity)

    assert sorted(place for pack in packs for place in pack) == list(range(len(rows)))
    for pack in packs:
        assert len(pack) == 1 or (all(is_packed[place] for place in pack) and sum(lengths[p] for p in pack) <= capacity)
    open_packs = [sum(lengths[place] for place in pack) for pack in packs if is_packed[pack[0]]]
    assert sum(2 * total <= capacity for total in open_packs) <= 1  # of two that are half empty one would do
    order = StepOrder(lengths, packs_per_step, seed=1, packs=packs)
    assert sorted(place for step in order for place in step) == list(range(len(rows)))
    assert len(order) == math.ceil(len(packs) / packs_per_step)
