"""Adapters made elsewhere, by plain PEFT and transformers, and weights of ours without a run.json: at every door."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.config.layers import load_settings
from sft.config.talk import ChatSettings
from sft.errors import ConfigError, DataError, ModelError, RunError
from sft.models.adopted import open_tuned
from sft.models.loading import load_run
from tests.commands import ROOT
from tests.tiny import make_tiny_model

QUESTION = [{"role": "user", "content": "What is LoRA?"}]
CONFIGS = {
    "attention": {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8},
    "a pattern": {"target_modules": r".*\.1\..*(up|down)_proj", "r": 4, "rank_pattern": {"up_proj": 2}},
    "every layer, rank-stabilised": {"target_modules": "all-linear", "r": 8, "use_rslora": True},
    "DoRA": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "r": 4, "use_dora": True},
    "the output layer saved whole": {"target_modules": ["gate_proj"], "r": 4, "modules_to_save": ["lm_head"]},
    "an adapted output layer": {"target_modules": ["q_proj", "lm_head"], "r": 4, "lora_alpha": 5},
    "with biases": {"target_modules": ["q_proj", "v_proj"], "r": 4, "bias": "lora_only"},
}


def call(script: str, *argv: object) -> None:
    runpy.run_path(str(ROOT / script))["main"]([str(word) for word in argv])


def tune_elsewhere(base: Path, folder: Path, *, with_tokenizer: bool = False, **config: object) -> Path:
    """A few steps of AdamW on one conversation, by PEFT and transformers alone; what save_pretrained leaves."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **config))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    answer = [*QUESTION, {"role": "assistant", "content": "An adapter."}]
    ids = torch.tensor([tokenizer.apply_chat_template(answer)["input_ids"]])
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    if with_tokenizer:
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of PEFT's on the tiny model, in a folder with nothing else."""
    return tune_elsewhere(tiny_model_folder, tmp_path_factory.mktemp("elsewhere") / "lora", **CONFIGS["attention"])


@pytest.fixture
def in_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with nothing on standard input."""
    monkeypatch.chdir(tmp_path)
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield tmp_path


def open_as(*flags: object):
    return open_tuned(load_settings(ChatSettings, [str(flag) for flag in flags]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_made_elsewhere_computes_what_peft_computes(kind: str, tiny_model_folder: Path, tmp_path: Path):
    adapter = tune_elsewhere(tiny_model_folder, tmp_path / "lora", **CONFIGS[kind])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_folder), adapter).eval()
    loaded = load_run(open_as("--adapter", adapter, "--model", tiny_model_folder))
    assert loaded.chat.encode_prompt(QUESTION) == ids[0].tolist()
    with torch.no_grad():
        expected = stock(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
        untuned = AutoModelForCausalLM.from_pretrained(tiny_model_folder)(input_ids=ids).logits
        with loaded.adapter_off() as base:
            torch.testing.assert_close(base.model(input_ids=ids).logits, untuned, rtol=1e-4, atol=1e-5)
    assert (expected - untuned).abs().max() > 0.01  # it says something else than its base


def test_a_line_says_which_prompt_is_assumed(foreign: Path, tmp_path: Path, capsys):
    copy = shutil.copytree(foreign, tmp_path / "lora")
    run = open_as("--run", copy)
    assert capsys.readouterr().err == (
        f"{copy}: an adapter without a run.json, so its prompt is assumed: the chat template, the chat template's own "
        "system prompt (--system_prompt sets another), a text as it stands\n"
    )
    assert (run.system_prompt, run.tasks, run.settings["lora_r"], run.settings["method"]) == (None, [], 4, "lora")
    other = shutil.copytree(foreign, tmp_path / "other")
    assert open_as("--adapter", other, "--system_prompt", "Be kind.").system_prompt == "Be kind."
    assert "the chat template, 'Be kind.', a text as it stands" in capsys.readouterr().err


def test_an_adapter_made_elsewhere_can_answer_be_evaluated_merged_and_trained_on(
    foreign: Path, tiny_model_folder: Path, rows_file: Path, in_clone: Path, capsys
):
    adapter = shutil.copytree(foreign, in_clone / "lora")
    call("inference.py", "--adapter", adapter, "--text", "hello", "--max_new_tokens", 3, "--json")
    assert json.loads(capsys.readouterr().out)["num_tokens"] == 3
    call("chat.py", "--run", adapter, "--max_new_tokens", 3)
    call("evaluate.py", "--adapter", adapter, "--data", rows_file, "--num_samples", 4, "--max_new_tokens", 4, "--json")
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["leaks"]["checked"] is False
    assert metrics["run"]["baseline"]["kind"] == "base"
    assert metrics["teacher_forcing"]["eval_loss"] != metrics["base"]["teacher_forcing"]["eval_loss"]
    call("export.py", "--run", adapter, "--merge", "--num_prompts", 4, "--max_new_tokens", 4)
    merged = AutoModelForCausalLM.from_pretrained(adapter / "export" / "merged").eval()
    loaded = load_run(open_as("--run", adapter))
    ids = torch.tensor([loaded.chat.encode_prompt(QUESTION)])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, loaded.model(input_ids=ids).logits, rtol=1e-3, atol=1e-4)

    flags = ("--max_steps", 2, "--eval_steps", 2, "--dtype", "fp32", "--data", rows_file, "--max_seq_length", 192)
    call("train.py", "--init_adapter", adapter, *flags, "--output_dir", "outputs/second", "--lora_dropout", 0.1)
    record = json.loads((in_clone / "outputs/second/run.json").read_text())
    assert (record["settings"]["lora_r"], record["settings"]["target_modules"]) == (4, ["q_proj", "v_proj"])
    assert (record["system_prompt"], record["base"]["name"]) == (None, str(tiny_model_folder))
    assert [(step["adapter"], step["data"]) for step in record["lineage"]] == [(str(adapter), None)]


def test_training_starts_from_the_weights_of_the_adapter(foreign: Path, rows_file: Path, in_clone: Path):
    """One step at a rate of almost nothing leaves them where they were; a fresh adapter would begin elsewhere."""
    from safetensors.torch import load_file

    flags = ("--max_steps", 1, "--dtype", "fp32", "--data", rows_file, "--max_seq_length", 192)
    call("train.py", "--init_adapter", foreign, *flags, "--output_dir", "run", "--learning_rate", 1e-12)
    before = load_file(foreign / "adapter_model.safetensors")
    after = load_file(in_clone / "run/adapter/adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-9)
    call("train.py", "--init_adapter", foreign, *flags, "--output_dir", "moved", "--warmup_steps", 0)
    moved = load_file(in_clone / "moved/adapter/adapter_model.safetensors")
    assert all((moved[name] - value).abs().max() > 1e-4 for name, value in before.items())


def test_a_second_stage_keeps_base_shape_and_prompt_and_records_where_it_came_from(
    tiny_run: Path, reviews_file: Path, rows_file: Path, in_clone: Path, capsys
):
    (in_clone / "recipe.yaml").write_text("lora_r: 2\nlearning_rate: 1e-3\n")
    flags = ("--max_steps", 1, "--dtype", "fp32", "--max_seq_length", 192, "--config", "recipe.yaml")
    call("train.py", "--init_adapter", tiny_run, *flags, "--data", reviews_file, "--output_dir", "second")
    assert "lora_r = 16, as --init_adapter has it, not 2 (recipe.yaml)" in capsys.readouterr().err
    call("train.py", "--init_adapter", "second", *flags, "--data", rows_file, "--output_dir", "third")
    first, third = (json.loads((Path(folder) / "run.json").read_text()) for folder in (tiny_run, "third"))
    assert [step["weights"] for step in third["lineage"]] == [
        first["adapter"],
        json.loads((in_clone / "second/run.json").read_text())["adapter"],
    ]
    assert third["lineage"][0]["data_sha256"] == first["data"]["sha256"]
    assert (third["system_prompt"], third["base"]) == (first["system_prompt"], first["base"])
    call("inference.py", "--run", "third", "--text", "hello", "--max_new_tokens", 2)
    capsys.readouterr()
    flags = ("--no_baseline", "--no-yardsticks", "--max_new_tokens", 2, "--json")
    call("evaluate.py", "--run", "third", "--data", reviews_file, *flags)
    leaks = json.loads(capsys.readouterr().out)["leaks"]
    assert (leaks["exact"], leaks["training_rows"]) == (43, 36 + 43 + 36)  # rows of the stage before


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--lora_r", 8], ConfigError, "--lora_r 8: --init_adapter has 16, which training keeps; leave --lora_r out"),
        (["--model", "{other}"], RunError, "trained on a base of weights sha256"),
    ],
)
def test_what_does_not_fit_the_adapter_is_refused(
    flags, error, message, tiny_run: Path, rows_file: Path, in_clone: Path
):
    other = make_tiny_model(in_clone / "other", seed=1)
    words = [str(word).format(other=other) for word in flags]
    with pytest.raises(error, match=message):
        call("train.py", "--init_adapter", tiny_run, "--data", rows_file, "--max_steps", 1, *words)


def test_whole_weights_cannot_be_continued_as_an_adapter(full_run: Path, rows_file: Path, in_clone: Path):
    with pytest.raises(ModelError, match="full weights, not an adapter; continue from them with --model"):
        call("train.py", "--init_adapter", full_run, "--data", rows_file)


# Runs of ours


@pytest.mark.parametrize("run", ["tiny_run", "full_run"])
def test_our_weights_without_a_run_answer_as_they_were_trained(run: str, request, tmp_path: Path, capsys):
    whole = open_as("--run", request.getfixturevalue(run))
    alone = shutil.copytree(whole.weights_dir, tmp_path / "weights")
    opened = open_as("--run", alone, *(["--base", whole.base["name"]] if run == "full_run" else []))
    assert "prompted as in training: 'Be brief.', tasks instruct" in capsys.readouterr().err
    assert (opened.system_prompt, opened.tasks, opened.adapter) == ("Be brief.", ["instruct"], whole.adapter)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = load_run(whole).model(input_ids=ids).logits
        torch.testing.assert_close(load_run(opened).model(input_ids=ids).logits, expected)
    assert opened.fingerprint == whole.fingerprint


def test_the_adapter_folder_of_a_whole_run_is_that_run(tiny_run: Path):
    assert open_as("--run", tiny_run / "adapter").is_adopted is False
    assert open_as("--adapter", tiny_run / "adapter").path == tiny_run.resolve()


def test_weights_of_ours_refuse_another_base(tiny_run: Path, tmp_path: Path):
    alone = shutil.copytree(tiny_run / "adapter", tmp_path / "weights")
    other = make_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match="base weights: trained with sha256"):
        load_run(open_as("--adapter", alone, "--model", other))


def test_a_base_that_moved_is_named_and_checked(rows_file: Path, tmp_path: Path):
    from tests.conftest import train_tiny

    base = make_tiny_model(tmp_path / "base")
    run = train_tiny(tmp_path / "run", "lora", base, rows_file)
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="no such folder"):
        load_run(open_as("--run", run))
    load_run(open_as("--run", run, "--base", tmp_path / "moved"))
    with pytest.raises(RunError, match="base weights: trained with"):
        load_run(open_as("--run", run, "--base", make_tiny_model(tmp_path / "other", seed=1)))


def test_a_whole_model_made_elsewhere_is_evaluated_alone_or_beside_the_base_that_is_named(
    tiny_model_folder: Path, rows_file: Path, in_clone: Path, capsys
):
    tuned = make_tiny_model(in_clone / "saves", seed=3)
    flags = ("--data", rows_file, "--num_samples", 3, "--max_new_tokens", 3, "--json")
    call("evaluate.py", "--run", tuned, *flags)
    out, said = capsys.readouterr()
    assert "its base is unknown, so there is no comparison; name it with --base" in said
    assert "comparison" not in json.loads(out)
    call("evaluate.py", "--run", tuned, "--base", tiny_model_folder, *flags)
    out, said = capsys.readouterr()
    assert json.loads(out)["comparison"]["metrics"]["eval_loss"]["difference"] != 0


def test_an_adapter_made_elsewhere_is_served(foreign: Path):
    from tests.serve.conftest import run_server

    run = open_as("--adapter", foreign)
    with run_server(load_run(run), run) as server:
        names = [model.id for model in server.client().models.list()]
        assert {"tiny", "tiny:sentiment", "tiny:ner"} <= set(names)  # of no task is known that it was trained on it
        answer = server.client().chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3)
        assert answer.usage.completion_tokens == 3


# Bases in 4 bits


@pytest.fixture(scope="module")
def packed_run(tiny_model_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of QLoRA on a folder ...-bnb-4bit, made of the tiny model by transformers."""
    from transformers import BitsAndBytesConfig

    from tests.conftest import train_tiny

    folder = tmp_path_factory.mktemp("tiny-bnb-4bit")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    packed = AutoModelForCausalLM.from_pretrained(
        tiny_model_folder, quantization_config=four_bit, device_map={"": "cpu"}
    )
    packed.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return train_tiny(tmp_path_factory.mktemp("packed") / "run", "qlora", folder, rows_file)


@pytest.mark.parametrize("how", ["the run", "its adapter alone"])
def test_a_run_on_a_base_in_4_bits_is_merged_into_the_16_bit_base_that_is_named(
    how: str, packed_run: Path, tiny_model_folder: Path, rows_file: Path, in_clone: Path, capsys
):
    named = ("--run", packed_run, "--base", tiny_model_folder)
    if how != "the run":
        alone = shutil.copytree(packed_run / "adapter", in_clone / "alone")
        named = ("--adapter", alone, "--model", tiny_model_folder)
    flags = ("--merge", "--num_prompts", 3, "--max_new_tokens", 3, "--output_dir", in_clone / "export")
    call("export.py", *named, *flags)
    assert "in 16 bits, of which the base of the training is the copy in 4 bits" in capsys.readouterr().err
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    expected = PeftModel.from_pretrained(plain, packed_run / "adapter").merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(in_clone / "export/merged")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_16_bit_base_of_another_model_is_refused(packed_run: Path, tmp_path: Path):
    with pytest.raises(RunError, match="base weights: trained with"):
        load_run(open_as("--run", packed_run, "--base", make_tiny_model(tmp_path / "other", seed=1)))


# What cannot be known


def test_an_adapter_that_names_no_base_asks_for_it(foreign: Path, tiny_model_folder: Path, tmp_path: Path):
    adapter = shutil.copytree(foreign, tmp_path / "lora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match=r"its adapter_config.json names no base; give it with --model"):
        open_as("--adapter", adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    with pytest.raises(ModelError, match=r"the base that its adapter_config.json names: /gone/base.*with --model"):
        open_as("--adapter", adapter)
    assert load_run(open_as("--adapter", adapter, "--model", tiny_model_folder)).has_adapter


def test_an_evaluation_needs_rows_where_nobody_knows_any(foreign: Path, in_clone: Path):
    with pytest.raises(DataError, match=r"it is unknown which rows .* --data rows.jsonl"):
        call("evaluate.py", "--adapter", foreign)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "a", "--adapter", "b"], "run and adapter are both given"),
        (["--run", "a", "--model", "b"], "run and model are both given"),
        (["--adapter", "a", "--model", "b", "--base", "c"], "base and model are both given"),
    ],
)
def test_two_names_for_one_model_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(ChatSettings, flags)


def test_a_run_that_knows_its_system_prompt_refuses_another(tiny_run: Path):
    with pytest.raises(ConfigError, match=r"trained under 'Be brief.', and is asked so"):
        open_as("--run", tiny_run, "--system_prompt", "Be kind.")
    assert open_as("--run", tiny_run, "--system_prompt", "Be brief.").system_prompt == "Be brief."
