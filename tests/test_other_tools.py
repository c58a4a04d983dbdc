"""The lines that other projects print, typed here: the five systems that this one replaces, and the large frameworks.

PRINTED has every command of the five systems' pages, word for word. Only the program is exchanged for the script that
does its work; the flags stay as they are printed.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from sft.config.layers import load_settings
from sft.errors import ConfigError
from sft.models import source
from sft.models.source import ModelSource
from tests.commands import ROOT, settings_class_of
from tests.tiny import make_tiny_model

PAGE = ROOT / "docs/from-other-tools.md"
MODERATION = "train.py --config recipes/qwen3-1.7b-moderation-head.yaml"
NEWS_NER = "train.py --config recipes/qwen2.5-1.5b-news-ner.yaml"
FREEZE = "examples/train_freeze/qwen2_5_coder_freeze_3k.yaml"
LABELS = "正常:15000,政治安全:6000,暴恐:6000,歧视:6000,色情低俗:6000,违法违规:6000"
PROGRAMS = {
    "llamafactory-cli train": "train.py --config",
    "llamafactory-cli api": "serve.py --config",
    "vllm serve": "serve.py --run",
    "python scripts/eval_sentiment_compare.py": "evaluate.py",
    "python transfer_classification_data.py": "build_dataset.py --preset news",
    "python transfer_ner_data.py": "build_dataset.py --preset ner",
    "python train_qwen2_classification.py": NEWS_NER,
    "python train_qwen2_ner.py": NEWS_NER,
    "python model_evaluation/run_full_eval.py": "evaluate.py --calibrate --robustness",
    "python model_evaluation/confidence_analysis.py": "evaluate.py --calibrate",
    "python model_evaluation/robustness_test.py": "evaluate.py --robustness",
    "python get_data_by_labels.py": "extract_mongo.py",
    "python train_lora.py": MODERATION,
    "torchrun --nproc_per_node=4 train_lora.py": MODERATION,
    "python test_saved_lora.py": "evaluate.py",
    "python data_integration.py": "build_dataset.py --preset small",
    "python data_set_generation.py": "build_dataset.py --preset large",
    "python Qwen_finetuning.py": "train.py --config recipes/qwen2.5-7b-instruct-qlora.yaml",
    "python train.py": "train.py",
    "python evaluate.py": "evaluate.py",
    "python inference.py": "inference.py",
    "python chat.py": "chat.py",
}
# A printed line, and what it says in our settings.
R0 = {
    f"llamafactory-cli train {FREEZE}": {
        "model": "Qwen/Qwen2.5-Coder-1.5B-Instruct", "trust_remote_code": True, "method": "freeze",
        "freeze_trainable_layers": 6, "freeze_extra_modules": ("embed_tokens", "norm"), "data": "sentiment_balanced_3k",
        "max_seq_length": 720, "max_samples": 10000, "rows_per_step": 8, "learning_rate": 2e-5, "num_train_epochs": 2.0,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "dtype": "bf16", "eval_ratio": 0.2, "eval_steps": 200,
        "compute_accuracy": True,
    },
    f"CUDA_VISIBLE_DEVICES=0,1 llamafactory-cli train {FREEZE}": {"method": "freeze"},
    f"CUDA_VISIBLE_DEVICES=0,1,2,3 llamafactory-cli train {FREEZE}": {"method": "freeze"},
    "python scripts/eval_sentiment_compare.py": {"run": None},
    "python scripts/eval_sentiment_compare.py --csv_path data/ChnSentiCorp_test.csv --base_model "
    "Qwen/Qwen2.5-Coder-1.5B-Instruct --finetuned_model saves/qwen2_5-coder-1.5b/freeze/sft --output_file "
    "data/sentiment_comparison_results.json": {
        "data": "data/ChnSentiCorp_test.csv", "base": "Qwen/Qwen2.5-Coder-1.5B-Instruct", "baseline": "base",
        "run": "saves/qwen2_5-coder-1.5b/freeze/sft", "output_file": Path("data/sentiment_comparison_results.json"),
    },
    "vllm serve saves/qwen2_5-coder-1.5b/freeze/sft --port 8000": {
        "run": "saves/qwen2_5-coder-1.5b/freeze/sft", "port": 8000,
    },
    "llamafactory-cli api examples/inference/qwen2_5_coder_sft.yaml": {
        "model": "saves/qwen2_5-coder-1.5b/freeze/sft", "trust_remote_code": True,
    },
}  # fmt: skip
R1 = {
    "python transfer_classification_data.py": {"preset": "news"},
    "python transfer_ner_data.py": {"preset": "ner"},
    "python train_qwen2_classification.py --train_file data/train_cls.jsonl --output_dir output/Qwen2": {
        "data": "data/train_cls.jsonl", "output_dir": "output/Qwen2", "lora_alpha": 32,
    },
    "python train_qwen2_ner.py --train_file data/train_ner.jsonl --output_dir output/Qwen2.5-NER": {
        "data": "data/train_ner.jsonl", "output_dir": "output/Qwen2.5-NER", "max_seq_length": 384,
    },
}  # fmt: skip
ADAPTER = "./outputs/lora_adapter"
R2 = {
    "python train.py": {"method": "qlora"},
    "python train.py --use_qlora": {"method": "qlora"},
    "python train.py --lora_r 16 --lora_alpha 32 --num_epochs 5 --batch_size 8 --learning_rate 2e-4": {
        "lora_r": 16, "lora_alpha": 32, "num_train_epochs": 5, "per_device_train_batch_size": 8, "learning_rate": 2e-4,
    },
    "python train.py --resume_from_checkpoint auto": {"resume_from_checkpoint": "auto"},
    "python train.py --resume_from_checkpoint ./outputs/checkpoint-500": {
        "resume_from_checkpoint": "./outputs/checkpoint-500",
    },
    "python train.py --resume_from_checkpoint none": {"resume_from_checkpoint": "none"},
    "python train.py --batch_size 2": {"per_device_train_batch_size": 2},
    "python train.py --gradient_checkpointing": {"gradient_checkpointing": True},
    f'python inference.py --model_path {ADAPTER} --text "这个产品质量非常好，值得购买！"': {
        "run": ADAPTER, "text": "这个产品质量非常好，值得购买！",
    },
    f'python inference.py --model_path {ADAPTER} --text "这家餐厅的菜很好吃！"': {"run": ADAPTER},
    f"python inference.py --model_path {ADAPTER} --interactive": {"run": ADAPTER, "interactive": True},
    f"python inference.py --model_path {ADAPTER} --demo": {"run": ADAPTER, "demo": True},
    f"python model_evaluation/run_full_eval.py --model_path {ADAPTER}": {
        "run": ADAPTER, "calibrate": True, "robustness": True, "baseline": "base",
    },
    f"python model_evaluation/confidence_analysis.py --model_path {ADAPTER}": {"run": ADAPTER, "calibrate": True},
    f"python model_evaluation/robustness_test.py --model_path {ADAPTER}": {"run": ADAPTER, "robustness": True},
}  # fmt: skip
R3 = {
    f'python get_data_by_labels.py -u admin --auth-database scanadata -l "{LABELS}" -f text_cn,n_labels --random '
    "--seed 123 -o balanced_train.xlsx": {"user": "admin", "seed": 123, "output": Path("balanced_train.xlsx")},
    'python get_data_by_labels.py -u admin --auth-database scanadata -l "正常:3000,政治安全:3000" -f text_cn,n_labels '
    "--random --seed 456 -o balanced_val.xlsx": {"auth_database": "scanadata", "seed": 456},
    "python train_lora.py --checkpoint /path/to/Qwen3-1.7B --train_data ./balanced_train.xlsx --val_data "
    "./balanced_val.xlsx --test_data ./test_data.xlsx --output_dir ./lora_model --num_epochs 3 --batch_size 18 "
    "--learning_rate 5e-5 --max_length 256 --fp16": {
        "model": "/path/to/Qwen3-1.7B", "data": "./balanced_train.xlsx", "validation_data": "./balanced_val.xlsx",
        "test_data": "./test_data.xlsx", "output_dir": "./lora_model", "num_train_epochs": 3, "max_seq_length": 256,
        "per_device_train_batch_size": 18, "learning_rate": 5e-5, "dtype": "fp16", "head": "classification",
    },
    "torchrun --nproc_per_node=4 train_lora.py --checkpoint /path/to/Qwen3-1.7B --train_data ./balanced_train.xlsx "
    "--val_data ./balanced_val.xlsx --output_dir ./lora_model --num_epochs 3 --batch_size 18 --learning_rate 5e-5": {
        "model": "/path/to/Qwen3-1.7B", "validation_data": "./balanced_val.xlsx", "dtype": "auto",
    },
    "python test_saved_lora.py --checkpoint /path/to/Qwen3-1.7B --lora_model ./lora_model/best_model --test_data "
    "./test_data.xlsx --batch_size 18 --max_length 256": {
        "base": "/path/to/Qwen3-1.7B", "adapter": "./lora_model/best_model", "data": "./test_data.xlsx",
        "max_seq_length": 256,
    },
}  # fmt: skip
R4 = {
    "python data_integration.py": {"preset": "small"},
    "python data_set_generation.py": {"preset": "large"},
    "python Qwen_finetuning.py": {"model": "Qwen/Qwen2.5-7B-Instruct", "lora_r": 16, "optim": "adamw_8bit"},
    "python evaluate.py": {"rouge": False, "max_new_tokens": 512},
    "python evaluate.py --rouge": {"rouge": True},
    "python inference.py": {"decoding": "precise"},
    "python chat.py": {"decoding": "chat"},
}  # fmt: skip
PRINTED = R0 | R1 | R2 | R3 | R4
FREEZE_RECIPE = """
model_name_or_path: Qwen/Qwen2.5-Coder-1.5B-Instruct
trust_remote_code: true
stage: sft
finetuning_type: freeze
freeze_trainable_layers: 6
freeze_extra_modules: embed_tokens,norm
dataset: sentiment_balanced_3k
template: qwen
cutoff_len: 720
max_samples: 10000
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 2.0e-5
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.2
eval_strategy: steps
eval_steps: 200
compute_accuracy: true
"""
API_RECIPE = """
model_name_or_path: saves/qwen2_5-coder-1.5b/freeze/sft
template: qwen
infer_backend: huggingface
trust_remote_code: true
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with this project's recipes, and the recipes that R0 prints."""
    for name in ("recipes", "examples"):
        (tmp_path / name).mkdir()
        shutil.copytree(ROOT / name, tmp_path / name, dirs_exist_ok=True)
    for path, text in ((FREEZE, FREEZE_RECIPE), ("examples/inference/qwen2_5_coder_sft.yaml", API_RECIPE)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exchange(printed: str) -> list[str]:
    """The words of a printed line with our script in the program's place: ["train.py", "--use_qlora"]."""
    line = re.sub(r"^CUDA_VISIBLE_DEVICES=\S+ ", "", printed)
    program = max((known for known in PROGRAMS if f"{line} ".startswith(f"{known} ")), key=len)
    return [*PROGRAMS[program].split(), *shlex.split(line.removeprefix(program))]


@pytest.mark.parametrize("printed", PRINTED)
def test_a_printed_line_of_the_five_systems_says_here_what_it_says_there(printed: str, clone: Path):
    script, *words = exchange(printed)
    settings = load_settings(settings_class_of(script), words)
    expected = PRINTED[printed]
    assert {name: getattr(settings, name) for name in expected} == expected


def test_the_names_of_a_llama_factory_recipe_are_listed_in_one_line_with_a_reason_for_those_without_a_counterpart(
    clone: Path,
):
    first, *_ = load_settings(settings_class_of("train.py"), ["--config", FREEZE]).describe()
    assert first == (
        f"{FREEZE}: model_name_or_path is model here; stage is not used: supervised fine-tuning is all there is; "
        "finetuning_type is method here; dataset is data here; template is not used: the tokenizer's own chat template "
        "counts; cutoff_len is max_seq_length here; bf16 is dtype here; val_size is eval_ratio here; eval_strategy is "
        "not used: every run is validated, every eval_steps and at the end"
    )


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train.py", "--quantization_bit 4 --finetuning_type lora", {"method": "qlora"}),
        ("train.py", "--load_in_4bit --use_peft", {"method": "qlora"}),
        ("train.py", "--adapter qlora --load_in_4bit true", {"method": "qlora"}),
        ("train.py", "--finetuning_type lora --load_in_4bit false", {"method": "lora"}),
        ("train.py", "--lora_target all --lora_rank 8", {"target_modules": ("all-linear",), "lora_r": 8}),
        ("train.py", "--fp16 false --bf16", {"dtype": "bf16"}),
        ("train.py", "--torch_dtype bfloat16", {"dtype": "bf16"}),
        ("train.py", "--dtype float32", {"dtype": "fp32"}),
        ("train.py", "--packing --learning_rate 1e-5", {"learning_rate": 1e-5}),
        ("train.py", "--save_steps 100", {"eval_steps": 100}),
        ("train.py", "--mask_history", {"supervise": "last"}),
        ("evaluate.py", "--max_samples 5", {"num_samples": 5}),
        ("export.py", "--adapters saves/lora --merge_lora true", {"adapter": "saves/lora", "merge": True}),
        ("inference.py", "--adapters saves/lora --stream true --temperature 0", {"adapter": "saves/lora"}),
    ],
)
def test_names_and_values_of_other_tools_are_ours(script: str, words: str, expected: dict[str, object]):
    settings = load_settings(settings_class_of(script), words.split())
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stage dpo", "stage dpo: supervised fine-tuning is all there is"),
        ("--train_on_inputs true", "train_on_inputs true: answers alone are learned here"),
        ("--completion_only_loss false", "completion_only_loss false: answers alone are learned here"),
        ("--quantization_bit 8", "quantization_bit 8: should be 4 or none"),
        ("--val_size 500", r"val_size: 500: a share between 0 and 1 is taken here \(eval_ratio\), no number of rows"),
        ("--num_epochs 3 --num_train_epochs 4", "num_train_epochs and num_epochs are two names of num_train_epochs"),
        ("--num_epochs", "argument --num_epochs: expected one argument"),
        ("--load_in_4bit --method full", "use_qlora: True contradicts method: full"),
    ],
)
def test_what_means_something_else_or_contradicts_itself_is_refused(words: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_settings(settings_class_of("train.py"), words.split())


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("train.py", "--top_k"), ("inference.py", "--top_k"), ("train.py", "--save_dir"), ("train.py", "--eval_size"),
        ("train.py", "--lora_s"), ("train.py", "--test_size"), ("chat.py", "--mode"), ("train.py", "--max_grad"),
    ],
)  # fmt: skip
def test_a_name_that_means_something_else_is_no_slip_of_the_fingers(script: str, flag: str):
    with pytest.raises(ConfigError) as caught:
        load_settings(settings_class_of(script), [flag, "3"])
    near = re.search(r"did you mean (\S+)\?", str(caught.value))
    assert near is None or near[1].startswith(flag)  # --max_grad is the beginning of --max_grad_norm


# The page


def read_page() -> list[str]:
    """Every command of ours on the page, in the order of the page."""
    page = PAGE.read_text(encoding="utf-8")
    ours = [line.rpartition("| `")[2] for line in page.splitlines() if line.startswith("| ")]
    return [found[1] for line in ours if (found := re.match(r"(?:torchrun \S+ |python )(\w+\.py[^`]*)`", line))]


def test_every_command_of_the_page_is_one_that_the_script_takes(clone: Path):
    assert len(read_page()) > 30
    for line in read_page():
        script, *words = shlex.split(line)
        load_settings(settings_class_of(script), words)


def test_every_name_of_the_page_is_in_the_table_and_every_twin_is_a_setting():
    from sft.config.layers import field_names
    from sft.config.other_names import BY_SCRIPT, Twin

    for script, names in BY_SCRIPT.items():
        own = field_names(settings_class_of(script))
        everywhere = {name for others in BY_SCRIPT.values() for name, meant in others.items()}
        assert names.keys() <= everywhere
        if script in ("train.py", "evaluate.py"):
            told = {meant.setting for meant in names.values() if isinstance(meant, Twin)} - set(own) - {"dtype"}
            assert told == set()


@pytest.fixture
def hub_is_here(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the hub is the tiny one."""

    def download(name: str, revision: str | None, patterns: list[str]) -> ModelSource:
        return ModelSource(name, tiny_model_folder, "main")

    monkeypatch.setattr(source, "_download", download)


def call(line: str, **variables: object) -> None:
    script, *words = shlex.split(line)
    with pytest.MonkeyPatch.context() as patch, Path("/dev/null").open() as nothing:
        patch.setattr(sys, "stdin", nothing)
        for name, value in variables.items():
            patch.setenv(name, str(value))
        runpy.run_path(str(ROOT / script))["main"](words)


SHORT = {
    "SFT_MAX_STEPS": 1, "SFT_MAX_NEW_TOKENS": 3, "SFT_NUM_SAMPLES": 4, "SFT_NUM_PROMPTS": 3, "SFT_ROBUSTNESS_ROWS": 2,
    "SFT_YARDSTICKS": "false",
}  # fmt: skip


def test_the_evaluation_that_r0_prints_writes_the_file_that_r0_reads(
    clone: Path, tiny_model_folder: Path, reviews_file: Path, capsys
):
    """Both models by name, the table of reviews, and the comparison where it was asked for."""
    shutil.copytree(tiny_model_folder, clone / "base")
    rows = [json.loads(line) for line in reviews_file.read_text(encoding="utf-8").splitlines()[:6]]
    table = ["qid,label,text_a", *(f"{i},{int(row['label'] == '正面')},{row['text']}" for i, row in enumerate(rows))]
    (clone / "test.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    make_tiny_model(clone / "saves", seed=3)
    line = "evaluate.py --csv_path test.csv --base_model base --finetuned_model saves --output_file out/results.json"
    call(line, **SHORT)
    result = json.loads((clone / "out/results.json").read_text(encoding="utf-8"))
    assert result["models"].keys() == {"base", "finetuned"}
    assert result["comparison"]["accuracy"].keys() == {"base", "finetuned", "improvement", "improvement_percentage"}


def test_the_class_that_r2_prints_predicts_as_it_prints_it(tiny_model_folder: Path, tiny_run: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "inference", raising=False)
    scope: dict[str, object] = {}
    exec("from inference import SentimentPredictor", scope)  # as it is printed: no module of ours imports a script
    predictor = scope["SentimentPredictor"](base_model_name=str(tiny_model_folder), lora_path=str(tiny_run / "adapter"))
    texts = ["产品很好", "质量太差了", "物流速度快"]
    results = predictor.predict_batch(texts)
    for text, result in zip(texts, results, strict=True):
        assert result["text"] == text
        assert f"{result['confidence']:.2%}".endswith("%")
        assert result["confidence"] == max(result["probabilities"].values()) >= 0.5
    assert predictor.predict("这个产品很好用！")["label"] in ("正面", "负面")


def test_a_recipe_that_computes_accuracy_reports_that_of_the_tokens_at_every_validation(
    clone: Path, tiny_model_folder: Path
):
    """R0's rows: `messages`, whose answers are no labels to this project."""
    answers = ['{"sentiment": 1}', '{"sentiment": 0}']
    rows = [
        [{"role": "user", "content": f"评论{i}"}, {"role": "assistant", "content": answers[i % 2]}] for i in range(40)
    ]
    lines = [json.dumps({"messages": turns}, ensure_ascii=False) + "\n" for turns in rows]
    (clone / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = "dataset: rows.jsonl\nfinetuning_type: full\ncompute_accuracy: true\nlr: 0.01\nval_size: 0.2\n"
    (clone / "recipe.yaml").write_text(f"model_name_or_path: {tiny_model_folder}\n{recipe}")
    call("train.py --config recipe.yaml --max_steps 30 --eval_steps 10 --dtype fp32 --output_dir run --warmup_steps 0")
    log = [json.loads(line) for line in (clone / "run/log.jsonl").read_text().splitlines()]
    accuracies = [line["eval_token_accuracy"] for line in log if "eval_token_accuracy" in line]
    assert len(accuracies) == 3
    assert 0.8 < accuracies[-1] <= 1.0  # 17 of its 18 tokens are the same in every answer


def test_auto_without_a_folder_continues_the_newest_unfinished_run(clone: Path, tiny_model_folder, rows_file, capsys):
    flags = f"--model {tiny_model_folder} --data {rows_file} --method lora --dtype fp32 --system_prompt none"
    call(f"train.py --resume_from_checkpoint auto {flags} --max_steps 2 --eval_steps 1")
    assert "has no checkpoint yet: starting from the beginning" in capsys.readouterr().err
    (folder,) = (path.parent for path in clone.glob("outputs/*/run.json") if path.parent.name != "latest")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "training"}))
    call("train.py --resume_from_checkpoint auto --max_steps 3")
    assert f"{folder.relative_to(clone)}, the newest unfinished run" in capsys.readouterr().err
    assert json.loads((folder / "run.json").read_text())["metrics"]["steps"] == 3
    call(f"train.py --resume_from_checkpoint {folder.relative_to(clone)}/checkpoint-3 --max_steps 4")  # as R2 names it
    assert json.loads((folder / "run.json").read_text())["metrics"]["steps"] == 4


NOT_RUN_HERE = ("extract_mongo.py", "build_dataset.py", "serve.py", "torchrun")  # a server or the hub: parsed above


@pytest.fixture
def prepared(clone: Path, tiny_model_folder: Path, reviews_file: Path, rows_file: Path, hub_is_here: None) -> Path:
    """The files that the page's commands name."""
    from tests.test_adopted import CONFIGS, tune_elsewhere

    tune_elsewhere(tiny_model_folder, clone / "saves/lora", **CONFIGS["attention"])
    shutil.copytree(tiny_model_folder, clone / "base")
    make_tiny_model(clone / "saves/sft", seed=3)
    for name in ("rows.jsonl", "more.jsonl"):
        shutil.copy(rows_file, clone / name)
    rows = [json.loads(line) for line in reviews_file.read_text(encoding="utf-8").splitlines()]
    table = ["qid,label,text_a", *(f"{i},{int(row['label'] == '正面')},{row['text']}" for i, row in enumerate(rows))]
    (clone / "test.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    labels = ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗")
    table = ["text_cn,extracted_label", *(f"第{i}条短文,{labels[i % 6]}" for i in range(48))]
    (clone / "moderation.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return clone


@pytest.mark.slow
def test_every_command_of_the_page_runs(prepared: Path, capsys):
    """One after the other in one folder, as short as can be; models of the hub are the tiny one."""
    ran = 0
    for line in read_page():
        if line.startswith(NOT_RUN_HERE) or "--fp16" in line:  # needs a GPU
            continue
        variables = dict(SHORT)
        if line.startswith(("train.py", "inspect_data.py")):
            variables |= {"SFT_FREEZE_TRAINABLE_LAYERS": 1, "SFT_OPTIM": "adamw_torch", "SFT_OUTPUT_DIR": f"runs/{ran}"}
            variables |= {"SFT_MAX_SEQ_LENGTH": 500, "SFT_SYSTEM_PROMPT": "Be brief."}
        if "auto" in line:
            del variables["SFT_OUTPUT_DIR"]
            variables |= {"SFT_DATA": "rows.jsonl", "SFT_MODEL": "base"}
        call(line, **variables)
        ran += 1
    assert ran > 25
