import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sft.export.flow
from sft.config.export import ExportSettings
from sft.errors import RunError
from sft.export.agreement import Agreement, Limits, Probe, compare
from sft.export.flow import check_run, export_run
from sft.export.merge import merge_adapter
from sft.models.loading import load_run
from sft.runs.run import open_run


def export(run, tmp_path, **settings):
    return export_run(open_run(run), ExportSettings(num_prompts=4, max_new_tokens=6, **settings), tmp_path / "export")


def test_the_merged_model_says_what_base_and_adapter_say(strong_run, tmp_path):
    result = export(strong_run, tmp_path, merge=True)
    agreement = result["merged"]["agreement"]
    assert agreement["mean_kl"] < 1e-9
    assert (agreement["top1"], agreement["same_answers"], agreement["num_rows"]) == (1.0, 1.0, 4)
    assert (result["merged"]["same_prompts"], result["merged"]["compared_prompts"]) == (4, 4)
    assert json.loads((tmp_path / "export" / "export.json").read_text()) == result
    # The folder needs nothing of this project, and asks with the run's system prompt.
    folder = tmp_path / "export" / "merged"
    tokenizer, merged = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert (tokenizer.eos_token, tokenizer.clean_up_tokenization_spaces) == ("<|im_end|>", False)
    assert merged.generation_config.eos_token_id == [2, 0]  # <|im_end|>, <|endoftext|>
    loaded = load_run(open_run(strong_run))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, loaded.model(ids).logits, atol=1e-4)


def test_a_merge_that_left_one_layer_out_is_caught_and_nothing_is_left(strong_run, tmp_path, monkeypatch):
    def sabotage(loaded):
        layer = loaded.causal_lm.model.layers[1].mlp.down_proj
        layer.scaling["default"] = 0.0
        return merge_adapter(loaded)

    monkeypatch.setattr(sft.export.flow, "merge_adapter", sabotage)
    with pytest.raises(
        RunError, match=r"^the merged model answers differently from the run: mean KL .*, at most 1e-08"
    ):
        export(strong_run, tmp_path, merge=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_damaged_on_their_way_to_disk_are_caught(strong_run, tmp_path, monkeypatch):
    save = sft.export.flow.save_merged

    def damage(loaded, folder, dtype, template):
        with torch.no_grad():
            loaded.causal_lm.model.layers[0].self_attn.q_proj.weight.zero_()
        save(loaded, folder, dtype, template)

    monkeypatch.setattr(sft.export.flow, "save_merged", damage)
    with pytest.raises(RunError, match="answers differently from the run"):
        export(strong_run, tmp_path, merge=True)
    assert list(tmp_path.iterdir()) == []


def test_sixteen_bits_round_once_and_are_within_their_limits(strong_run, tmp_path):
    result = export(strong_run, tmp_path, merge=True, dtype="bf16")
    merged = result["merged"]
    assert (merged["dtype"], merged["computed_in"]) == ("bf16", "fp32")
    assert 0 < merged["agreement"]["mean_kl"] < 1e-3
    # Merging itself costs nothing; what the stored weights differ by is the rounding to bf16.
    assert (merged["merging"]["mean_kl"] < 1e-9, merged["merging"]["same_answers"]) == (True, 1.0)
    assert merged["storing"]["mean_kl"] == pytest.approx(merged["agreement"]["mean_kl"], rel=0.02)
    config = json.loads((tmp_path / "export" / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_a_run_trained_beside_four_bits_is_merged_in_fp32_into_the_exact_base(qlora_run, tmp_path):
    merged = export(qlora_run, tmp_path, merge=True)["merged"]
    assert (merged["merging"]["mean_kl"] < 1e-9, merged["merging"]["same_answers"]) == (True, 1.0)
    assert merged["agreement"]["mean_kl"] < 1e-9  # the tiny base is stored in fp32, so storing costs nothing either
    assert merged["against_four_bits"]["mean_kl"] > 1e-6  # the model that was trained held a rounded base


def test_a_merge_that_rounds_on_its_way_is_caught_before_it_is_stored(strong_run, tmp_path, monkeypatch):
    def round_once_too_often(loaded):
        merged = merge_adapter(loaded)
        merged.model.to(torch.bfloat16).to(torch.float32)
        return merged

    monkeypatch.setattr(sft.export.flow, "merge_adapter", round_once_too_often)
    with pytest.raises(
        RunError, match=r"^the merged model answers differently from the run: mean KL .*, at most 1e-08"
    ):
        export(strong_run, tmp_path, merge=True, dtype="bf16")
    assert list(tmp_path.iterdir()) == []


def test_a_base_in_four_bits_is_not_merged_into(strong_run):
    loaded = load_run(open_run(strong_run), four_bit=True)
    with pytest.raises(RunError, match=r"is held in torch\.uint8; reload the base in 16 bits before merging$"):
        merge_adapter(loaded)


def test_gguf_files_are_read_back_and_join_earlier_ones_in_the_record(strong_run, tmp_path):
    export(strong_run, tmp_path, gguf=("f16",))
    result = export(strong_run, tmp_path, gguf=("q8_0",), modelfile=True)
    folder = tmp_path / "export"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "Modelfile",
        "export.json",
        "run-f16.gguf",
        "run-q8_0.gguf",
    ]
    assert result["gguf"]["q8_0"]["agreement"]["mean_kl"] < 1e-2
    assert list(json.loads((folder / "export.json").read_text())["gguf"]) == ["f16", "q8_0"]
    assert (folder / "gguf" / "Modelfile").read_text() == (
        "FROM ./run-q8_0.gguf\n"
        'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
        '<|im_start|>assistant\n"""\n'
        'SYSTEM """Be brief."""\n'
        'PARAMETER stop "<|im_end|>"\n'
        "PARAMETER temperature 0.8\nPARAMETER top_p 0.9\nPARAMETER num_predict 512\n"
        "PARAMETER repeat_penalty 1\n"
    )


def test_a_gguf_file_with_a_wrong_weight_is_caught(strong_run, tmp_path, monkeypatch):
    encode = sft.export.gguf_file.encode_tensor
    monkeypatch.setattr(
        "sft.export.gguf_file.encode_tensor",
        lambda name, values, kind: encode(name, -values if "o_proj" in name else values, kind),
    )
    with pytest.raises(RunError, match=r"^run-f16\.gguf answers differently from the run"):
        export(strong_run, tmp_path, gguf=("f16",))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_was_changed_is_refused_before_anything_is_written(strong_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(strong_run, run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "adapter": "sha256 0000000000000000"}))
    for attempt in (lambda: export(run, tmp_path, merge=True), lambda: check_run(open_run(run))):
        with pytest.raises(RunError, match=r"adapter weights: trained to sha256 0000000000000000, now sha256 "):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    check_run(open_run(run), allow_mismatch=True)


def test_agreement_is_measured_position_by_position_and_row_by_row():
    certain, even = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    before = Probe([certain, even], [[1, 2], [3]])
    after = Probe([certain, torch.tensor([[0.0, 0.0, 9.0]])], [[1, 4], [3]])  # another padding of the vocabulary
    assert compare(before, before) == Agreement(0, 0, 1, 1, 1, 2, 2)
    assert compare(before, after) == Agreement(0, 0, 0.5, 0.5, 1, 2, 2)
    far = compare(before, Probe([-certain, even], [[], [3]]))
    assert far.mean_kl == pytest.approx(25)
    assert (far.max_kl, far.first_tokens) == (pytest.approx(50), 0.5)
    worse = replace(far, num_positions=20, num_rows=20)
    assert Limits(1e-3, 0.9, 0.9).exceeded_by(worse) == [
        "mean KL 25, at most 0.001",
        "top-1 agreement 50.00%, at least 90%",
        "same first token on 50% of the rows, at least 90%",
    ]


@pytest.mark.parametrize(
    ("same", "count", "is_refused"), [(23, 24, False), (22, 24, True), (98, 100, False), (97, 100, True)]
)
def test_one_tie_may_turn_over_among_few_positions_and_a_share_among_many(same, count, is_refused):
    found = Agreement(0, 0, same / count, 1, 1, 5, count)
    assert bool(Limits(1e-3, 0.98, 0.95).exceeded_by(found)) == is_refused


def test_a_model_that_says_nan_agrees_with_nothing():
    before, after = Probe([torch.zeros(1, 2)], [[1]]), Probe([torch.full((1, 2), torch.nan)], [[1]])
    assert Limits(1, 0, 0).exceeded_by(compare(before, after)) == ["mean KL nan, at most 1"]
