"""Exports of a run with a classification head: what is written says the run's labels with transformers alone."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sft.export.flow
from prompts.tasks import get_task
from sft.config.export import ExportSettings
from sft.errors import RunError
from sft.evaluation.rows import EvalRow
from sft.export.card import build_card
from sft.export.flow import export_run
from sft.export.hub import prepare_push
from sft.export.merge import merge_adapter
from sft.inference import Predictor
from sft.models.loading import load_run
from sft.runs.run import open_run
from sft.scoring import score_classes
from tests.tiny import head_weight


def export(run, tmp_path, **settings):
    return export_run(open_run(run), ExportSettings(num_prompts=4, merge=True, **settings), tmp_path / "export")


def test_the_merged_model_says_what_the_run_says_with_transformers_alone(head_run, tmp_path):
    agreement = export(head_run, tmp_path)["merged"]["agreement"]
    assert agreement["mean_kl"] < 1e-9
    assert (agreement["top1"], agreement["same_answers"], agreement["num_positions"]) == (1.0, 1.0, 4)
    folder = tmp_path / "export" / "merged"
    merged, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert merged.config.id2label == {0: "负面", 1: "正面"}
    assert (merged.score.weight.shape, merged.config.tie_word_embeddings) == ((2, 32), True)
    predictor = Predictor(head_run)
    texts = ["第1间房很好", "太差"]
    messages = [[{"role": "user", "content": f"正面还是负面？\n{text}"}] for text in texts]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
        )
        with torch.no_grad():
            found = merged(**inputs).logits.log_softmax(1)
        expected = score_classes(predictor.loaded, [predictor._ask(text).ids for text in texts], shown=False)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # the system prompt is in the template


def test_a_merge_that_lost_the_head_is_caught_and_nothing_is_left(head_run, tmp_path, monkeypatch):
    def sabotage(loaded):
        merged = merge_adapter(loaded)
        torch.nn.init.normal_(head_weight(merged.model), std=0.02)
        return merged

    monkeypatch.setattr(sft.export.flow, "merge_adapter", sabotage)
    with pytest.raises(
        RunError, match=r"^the merged model answers differently from the run: mean KL .*, at most 1e-08"
    ):
        export(head_run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_reads_the_mean_is_not_exported_since_transformers_would_read_another_token(
    copy_of_head_run, tmp_path
):
    record = json.loads((copy_of_head_run / "run.json").read_text())
    record["settings"]["pooling"] = "mean"
    (copy_of_head_run / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        RunError, match=r"^copy: its head reads the mean of all tokens, and transformers' own class would"
    ):
        export(copy_of_head_run, tmp_path)


# What others are told


def usage_of(card: str) -> str:
    return card.split("## Use")[1].split("```python\n")[1].split("\n```")[0]


def test_the_card_of_merged_weights_holds_code_that_says_the_runs_label(head_run, tmp_path):
    export(head_run, tmp_path)
    folder = tmp_path / "export" / "merged"
    card = build_card(open_run(head_run), "merged", title=str(folder))
    front = yaml.safe_load(card.split("---")[1])
    assert (front["pipeline_tag"], front["library_name"]) == ("text-classification", "transformers")
    assert "A classification head on the last token picks one of: 0 负面, 1 正面." in card
    assert "kept" not in card.split("## Data")[1].split("## Training")[0]
    assert "labels 负面 " in card
    assert say(usage_of(card)) == Predictor(head_run).predict(get_task("sentiment").example["text"]).label


def test_the_adapter_that_is_pushed_can_be_used_as_its_card_says(head_run, tied_model_folder, tmp_path):
    run = open_run(head_run)
    push = prepare_push(run, run.weights_dir, "adapter", "ada/reviews", tmp_path / "stage")
    assert {"config.json", "adapter_model.safetensors", "prompt_fingerprint.json", "README.md"} <= set(push.files)
    for path in push.folder.iterdir():
        for secret in (str(tied_model_folder), str(head_run)):
            assert secret.encode() not in path.read_bytes(), path.name
    code = usage_of((push.folder / "README.md").read_text(encoding="utf-8"))
    shutil.copytree(push.folder, tmp_path / "arrived")
    code = code.replace('"ada/reviews"', repr(str(tmp_path / "arrived")))
    code = code.replace(f'"{Path(run.base["name"]).name}"', repr(str(tied_model_folder)))
    assert say(code) == Predictor(head_run).predict(get_task("sentiment").example["text"]).label


def say(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "card", "exec"), {})
    return out.getvalue().strip()


def test_rows_are_encoded_for_the_head(head_run):
    loaded = load_run(open_run(head_run))
    rows: list[EvalRow] = sft.export.flow.read_rows(open_run(head_run), ExportSettings(merge=True), loaded)
    assert {row.labels for row in rows} == {("负面", "正面")}
    assert {row.encoded[0].num_supervised for row in rows} == {0}
