"""A classification head: the same logits in every layout, saved and loaded; weight tying leaves it as it is."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from prompts import Encoded, Head
from prompts.head import Pooling
from sft.batches import flatten_rows
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ModelError, RunError
from sft.models.head import install_head, pool_flat, pool_padded, read_head
from sft.models.loaded import LoadedModel
from sft.models.loading import load_base, load_for_training, load_run
from sft.runs.run import open_run
from sft.training.fit import fit
from tests.tiny import head_weight, make_tiny_model

SENTIMENT = Head(("负面", "正面"))
TEXTS = ["很好", "房间太差，住了一晚就走", "hello", "不错"]


def load(folder: Path, *flags: str, pooling: Pooling = "last") -> LoadedModel:
    always = ["--model", str(folder), "--dtype", "fp32", "--method", "lora", "--head", "classification"]
    settings = load_settings(TrainSettings, [*always, "--pooling", pooling, *flags])
    return load_for_training(settings, "transformers", Head(SENTIMENT.labels, pooling))


def prompts_of(loaded: LoadedModel) -> list[list[int]]:
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in TEXTS]


def pad(prompts: list[list[int]], pad_id: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, T)."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        filling = longest - len(prompt)
        left, right = (filling, 0) if side == "left" else (0, filling)
        ids.append([pad_id] * left + prompt + [pad_id] * right)
        mask.append([0] * left + [1] * len(prompt) + [0] * right)
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def logits_of(loaded: LoadedModel, prompts: list[list[int]], layout: str) -> torch.Tensor:
    model = loaded.model.eval()
    if layout == "flat":
        batch = flatten_rows([Encoded(prompt, [0] * len(prompt)) for prompt in prompts])
        for name in ("labels", "logits_to_keep", "row_lengths"):
            del batch[name]
        with loaded.flat_rows():
            return model(**batch).logits
    ids, mask = pad(prompts, loaded.chat.pad_id, layout.removeprefix("unmasked "))
    return model(input_ids=ids, attention_mask=None if layout.startswith("unmasked") else mask).logits


# What it reads


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_on_either_side_rows_end_to_end_and_rows_alone_give_the_same_logits(tied_model_folder, pooling):
    loaded = load(tied_model_folder, pooling=pooling)
    prompts = prompts_of(loaded)
    alone = torch.cat([logits_of(loaded, [prompt], "flat") for prompt in prompts])
    assert alone.shape == (4, 2)
    assert alone.std(0).min() > 1e-3  # rows are told apart at all
    for layout in ("flat", "left", "right", "unmasked right"):
        torch.testing.assert_close(logits_of(loaded, prompts, layout), alone, atol=1e-5, rtol=1e-5)
        one = logits_of(loaded, prompts[1:2], layout)
        torch.testing.assert_close(one, alone[1:2], atol=1e-5, rtol=1e-5)


def test_the_last_token_or_the_mean_of_a_rows_own_tokens_is_read():
    hidden = torch.arange(10.0).reshape(5, 2)  # rows of 2 and 3 tokens
    bounds = torch.tensor([0, 2, 5])
    assert pool_flat(hidden, bounds, "last").tolist() == [[2, 3], [8, 9]]
    assert pool_flat(hidden, bounds, "mean").tolist() == [[1, 2], [6, 7]]
    lines = torch.stack([torch.cat([hidden[:2], torch.full((1, 2), 99.0)]), hidden[2:]])  # padded right with 99
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool_padded(lines, mask, "last").tolist() == [[2, 3], [8, 9]]
    assert pool_padded(lines, mask, "mean").tolist() == [[1, 2], [6, 7]]
    left = torch.stack([torch.cat([torch.full((1, 2), 99.0), hidden[:2]]), hidden[2:]])
    assert pool_padded(left, mask.flip(1), "last").tolist() == [[2, 3], [8, 9]]


def test_what_it_reads_is_dropped_in_training_alone(tied_model_folder):
    loaded = load(tied_model_folder, "--head_dropout", "0.5", "--lora_dropout", "0")
    ids, mask = pad(prompts_of(loaded), loaded.chat.pad_id, "right")
    with torch.no_grad():
        trained = [loaded.model.train()(input_ids=ids, attention_mask=mask).logits for _ in range(2)]
        quiet = [loaded.model.eval()(input_ids=ids, attention_mask=mask).logits for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*quiet)


def test_the_head_computes_in_fp32_on_a_base_in_16_bits(tied_model_folder):
    loaded = load(tied_model_folder, "--dtype", "bf16")
    assert head_weight(loaded.causal_lm).dtype is torch.float32
    assert loaded.causal_lm.model.embed_tokens.weight.dtype is torch.bfloat16
    assert logits_of(loaded, prompts_of(loaded), "flat").dtype is torch.float32


# What is trained


def trained(folder: Path, *flags: str) -> set[str]:
    return {name for name, weight in load(folder, *flags).model.named_parameters() if weight.requires_grad}


def test_every_method_trains_the_head_beside_its_own_weights(tied_model_folder):
    adapter = ["--target_modules", "q_proj", "--lora_layers", "1"]
    lora = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    wanted = {
        f"{lora}A.default.weight",
        f"{lora}B.default.weight",
        "base_model.model.score.modules_to_save.default.weight",
    }
    assert trained(tied_model_folder, "--method", "lora", *adapter) == wanted
    assert trained(tied_model_folder, "--method", "qlora", *adapter) == wanted
    freeze = ["--method", "freeze", "--freeze_trainable_layers", "0"]
    assert trained(tied_model_folder, *freeze) == {"score.weight"}
    assert trained(tied_model_folder, *freeze, "--freeze_extra_modules", "norm") == {
        "score.weight",
        "model.norm.weight",
    }
    whole = load(tied_model_folder, "--method", "full").model
    assert all(weight.requires_grad for weight in whole.parameters())
    assert "lm_head.weight" not in dict(whole.named_parameters())


def test_beside_a_base_in_4_bits_the_head_is_whole(tied_model_folder):
    loaded = load(tied_model_folder, "--method", "qlora", "--dtype", "bf16")
    assert type(loaded.causal_lm.model.layers[0].mlp.up_proj.base_layer.weight).__name__ == "Params4bit"
    assert (type(head_weight(loaded.causal_lm)).__name__, head_weight(loaded.causal_lm).dtype) == (
        "Parameter",
        torch.float32,
    )


def test_the_report_names_the_head(tied_model_folder, capsys):
    load(tied_model_folder, "--target_modules", "q_proj,v_proj", "--lora_layers", "1")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3].endswith("backend transformers, head: classification of the last token, labels 负面|正面")
    assert lines[-1].endswith(": LoRA on attention (q_proj, v_proj) in layer 1; score")


# Saved and loaded


def probe(loaded: LoadedModel) -> torch.Tensor:
    return logits_of(loaded, prompts_of(loaded), "flat")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_with_its_head_comes_back_with_identical_logits(
    method, tied_model_folder, reviews_file, tmp_path, monkeypatch
):
    from sft.data import open_dataset
    from sft.training import fit as module

    kept = {}
    save = module.save_tuned

    def save_and_probe(loaded, *args, **more):
        kept["before"] = probe(loaded)
        return save(loaded, *args, **more)

    monkeypatch.setattr(module, "save_tuned", save_and_probe)
    flags = ["--model", tied_model_folder, "--data", reviews_file, "--output_dir", tmp_path / "run", "--method", method]
    flags += ["--dtype", "fp32", "--head", "classification", "--max_steps", "2", "--learning_rate", "1e-2"]
    settings = load_settings(TrainSettings, [str(flag) for flag in flags])
    fit(settings, open_dataset(settings.data, eval_ratio=settings.eval_ratio, seed=settings.split_seed))
    loaded = load_run(open_run(tmp_path / "run"))
    assert torch.equal(probe(loaded), kept["before"])  # to the last bit
    loaded.causal_lm.tie_weights()
    assert torch.equal(probe(loaded), kept["before"])


def test_config_and_run_have_the_labels_in_their_order(head_run):
    run = open_run(head_run)
    config = json.loads((run.weights_dir / "config.json").read_text(encoding="utf-8"))
    names = {"id2label": {"0": "负面", "1": "正面"}, "label2id": {"负面": 0, "正面": 1}}
    assert {name: config[name] for name in names} == names
    assert run.head == {"kind": "classification", "pooling": "last", "dropout": 0.1, **names}
    assert (config["head_pooling"], config["architectures"]) == ("last", ["Qwen2ForSequenceClassification"])
    assert read_head(run.weights_dir) == SENTIMENT
    assert str(head_run) not in json.dumps(config)


def test_weight_tying_never_turns_the_head_into_a_vocabulary_head(head_run):
    loaded = load_run(open_run(head_run))
    model = loaded.causal_lm
    assert model.config.tie_word_embeddings  # of the base: its output layer was the embedding
    assert model.get_output_embeddings() is None
    model.tie_weights()
    assert head_weight(model).shape == (2, 32)
    assert head_weight(model).data_ptr() != model.get_input_embeddings().weight.data_ptr()


def test_peft_and_transformers_alone_load_the_adapter_and_say_the_same(head_run, tied_model_folder):
    ours = load_run(open_run(head_run))
    stock = AutoModelForSequenceClassification.from_pretrained(tied_model_folder, num_labels=2, dtype=torch.float32)
    stock.config.pad_token_id = ours.chat.pad_id
    stock = PeftModel.from_pretrained(stock, open_run(head_run).weights_dir).eval()
    for side in ("left", "right"):
        ids, mask = pad(prompts_of(ours), ours.chat.pad_id, side)
        with torch.no_grad():
            found = stock(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(found, probe(ours), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_weights_that_were_trained_themselves_come_back_too(tied_model_folder, reviews_file, tmp_path, method):
    from tests.conftest import train_tiny

    more = ["--head", "classification", "--pooling", "mean", "--freeze_trainable_layers", "1"]
    folder = train_tiny(tmp_path / "run", method, tied_model_folder, reviews_file, *more)
    run = open_run(folder)
    loaded = load_run(run)
    assert (loaded.head, head_weight(loaded.causal_lm).shape) == (Head(SENTIMENT.labels, "mean"), (2, 32))
    again = AutoModelForSequenceClassification.from_pretrained(run.weights_dir, dtype=torch.float32)
    install_head(again, Head(SENTIMENT.labels, "mean"), dropout=0.0, pad_id=0)
    loaded.model, found = again.eval(), probe(loaded)
    assert torch.equal(found, probe(load_run(run)))


def test_without_its_head_a_run_is_the_language_model_it_was_tuned_from(head_run, tied_model_folder):
    loaded, base = load_run(open_run(head_run)), load_base(str(tied_model_folder), dtype="fp32")
    ids, mask = pad(prompts_of(base), base.chat.pad_id, "right")
    with loaded.adapter_off() as untuned, torch.no_grad():
        assert untuned.head is None
        assert torch.equal(untuned.model(ids, mask).logits, base.model(ids, mask).logits)


# What is refused


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "now"),
    [
        ({"id2label": {"0": "正面", "1": "负面"}}, "classification of the last token, labels 正面|负面"),
        ({"head_pooling": "mean"}, "classification of the mean of all tokens, labels 负面|正面"),
    ],
)
def test_another_order_of_labels_or_another_pooling_is_refused_with_both_named(copy_of_head_run, changes, now):
    run = open_run(copy_of_head_run)
    change_config(run.weights_dir, **changes)
    with pytest.raises(RunError) as caught:
        load_run(run)
    expected = f"head: trained with classification of the last token, labels 负面|正面, now {now}; "
    assert expected in str(caught.value)


def test_an_adapter_whose_config_is_gone_is_refused(copy_of_head_run):
    run = open_run(copy_of_head_run)
    (run.weights_dir / "config.json").unlink()
    with pytest.raises(RunError, match=r"labels 负面\|正面, now nothing of the kind"):
        load_run(run)


def test_labels_that_are_no_list_are_refused(copy_of_head_run):
    run = open_run(copy_of_head_run)
    change_config(run.weights_dir, id2label={"5": "正面"})
    with pytest.raises(RunError, match=r"config.json: id2label is \{'5': '正面'\}, expected names for 0, 1"):
        load_run(run)


def test_weights_with_a_head_are_no_language_model(tied_model_folder, tmp_path):
    folder = make_tiny_model(tmp_path / "model", tied=True)
    change_config(folder, head_pooling="last", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(ModelError, match="has a classification head, not a language model; name its base, or the run"):
        load_base(str(folder))


def test_a_head_can_start_from_xavier_weights(tied_model_folder):
    flags = ["--model", str(tied_model_folder), "--method", "lora", "--head", "classification", "--dtype", "fp32"]
    settings = load_settings(TrainSettings, [*flags, "--head_init", "xavier"])
    weight = head_weight(load_for_training(settings, "transformers", Head(("负面", "正面"))).model)
    limit = (6 / (weight.shape[0] + weight.shape[1])) ** 0.5  # uniform within it
    assert 0.7 * limit < float(weight.abs().max()) <= limit
    plain = load_for_training(load_settings(TrainSettings, flags), "transformers", Head(("负面", "正面"))).model
    assert float(head_weight(plain).abs().max()) < 0.5 * limit
