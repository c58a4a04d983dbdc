"""A run and what does not belong to it: base, tokenizer, template, prompt, labels, adapter. Each pairing is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from prompts import fingerprint as fingerprint_module
from prompts.tasks import get_task
from sft.errors import RunError
from sft.models.adopted import FINGERPRINT_FILE
from sft.models.loading import load_run
from sft.runs.run import RUN_FILE, open_run
from tests.tiny import make_tiny_model

Change = Callable[[Path, Path, pytest.MonkeyPatch], None]  # (run folder, folder for new files, monkeypatch)
CHANGES: dict[str, tuple[str, Change]] = {}


def pairing(expected: str) -> Callable[[Change], Change]:
    """Registers a change of a run folder with the start of the line that refuses it."""

    def register(change: Change) -> Change:
        CHANGES[change.__name__] = (expected, change)
        return change

    return register


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def edit_tensors(path: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def use_base(run: Path, base: Path) -> None:
    edit_json(run / RUN_FILE, lambda content: content.update(base={"name": str(base)}))


def base_with(run: Path, folder: Path, change: Callable[[dict], object]) -> None:
    """The run's own base with some of its tensors changed, names and shapes as they were."""
    base = make_tiny_model(folder / "base")
    edit_tensors(base / "model.safetensors", change)
    use_base(run, base)


@pairing("base weights: trained with sha256 ")
def another_base_of_the_same_shape(run, folder, patch):
    use_base(run, make_tiny_model(folder / "base", seed=1))


@pairing("base weights: trained with sha256 ")
def a_base_with_one_number_changed(run, folder, patch):
    base_with(run, folder, lambda tensors: tensors["model.norm.weight"][0].add_(0.5))


@pairing("base weights: trained with sha256 ")
def a_base_with_two_layers_exchanged(run, folder, patch):
    first, second = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    base_with(run, folder, lambda t: t.update({first: t[second].clone(), second: t[first].clone()}))


@pairing("base weights: trained with sha256 ")
def a_base_with_one_layer_more(run, folder, patch):
    use_base(run, make_tiny_model(folder / "base", layers=3))


@pairing("base weights: trained with sha256 ")
def a_base_in_half_precision(run, folder, patch):
    base_with(run, folder, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))


@pairing("tokenizer: trained with ")
def two_words_of_the_vocabulary_exchanged(run, folder, patch):
    def swap(content):
        words = content["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]

    edit_json(run / "adapter" / "tokenizer.json", swap)


@pairing("tokenizer: trained with ")
def a_word_of_the_vocabulary_renamed(run, folder, patch):
    def rename(content):
        words = content["model"]["vocab"]
        words["renamed"] = words.pop("a")

    edit_json(run / "adapter" / "tokenizer.json", rename)


@pairing("tokenizer: trained with ")
def one_added_token_more(run, folder, patch):
    def add(content):
        tokens = content["added_tokens"]
        tokens.append({**tokens[-1], "id": 5000, "content": "<new>"})

    edit_json(run / "adapter" / "tokenizer.json", add)


@pairing("chat template: trained with sha256 ")
def a_template_with_a_comment_more(run, folder, patch):
    template = run / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# edited #}")


@pairing("chat template: trained with sha256 ")
def a_template_with_a_system_prompt_of_its_own(run, folder, patch):
    template = run / "adapter" / "chat_template.jinja"
    default = "{% if messages[0].role != 'system' %}{{'<|im_start|>system\nBe kind.<|im_end|>\n'}}{% endif %}"
    template.write_text(default + template.read_text())


@pairing("chat template: trained with sha256 ")
def a_template_without_the_line_after_the_end_token(run, folder, patch):
    template = run / "adapter" / "chat_template.jinja"
    text = template.read_text()
    assert "<|im_end|>\n" in text or "<|im_end|>\\n" in text
    template.write_text(text.replace("{{", "{{ '' ~ ", 1))


@pairing("system prompt: trained with 'Be brief.', now 'Be rude.'")
def another_system_prompt(run, folder, patch):
    edit_json(run / RUN_FILE, lambda content: content.update(system_prompt="Be rude."))


@pairing("system prompt: trained with 'Be brief.', now 'Be brief. '")
def a_blank_more_in_the_system_prompt(run, folder, patch):
    edit_json(run / RUN_FILE, lambda content: content.update(system_prompt="Be brief. "))


@pairing("system prompt: trained with 'Be brief.', now the chat template's own")
def no_system_prompt(run, folder, patch):
    edit_json(run / RUN_FILE, lambda content: content.update(system_prompt=None))


@pairing("task sentiment: trained with nothing of the kind, now labels 负面|正面, ")
def a_task_more(run, folder, patch):
    edit_json(run / RUN_FILE, lambda content: content["data"]["tasks"].append("sentiment"))


@pairing("task instruct: trained with prompt sha256 ")
def a_task_that_asks_in_other_words(run, folder, patch):
    changed = dataclasses.replace(get_task("instruct"), build_prompt=lambda row: [{"role": "user", "content": "?"}])
    patch.setattr(fingerprint_module, "get_task", {"instruct": changed}.get)


@pairing("task instruct: trained with prompt sha256 ")
def a_task_with_labels_it_did_not_have(run, folder, patch):
    changed = dataclasses.replace(
        get_task("instruct"),
        list_labels=lambda row: ("good", "bad"),
        write_answer=lambda row: "good",
        read_answer=lambda text, row: text,
    )
    patch.setattr(fingerprint_module, "get_task", {"instruct": changed}.get)


@pairing("adapter weights: trained to sha256 ")
def the_adapter_of_another_run(run, folder, patch):
    weights = run / "adapter" / "adapter_model.safetensors"
    edit_tensors(weights, lambda tensors: tensors.update({name: value + 1 for name, value in tensors.items()}))


@pairing("adapter weights: trained to sha256 ")
def an_adapter_with_one_matrix_exchanged(run, folder, patch):
    def swap(tensors):
        first, second = [name for name in sorted(tensors) if "q_proj.lora_A" in name][:2]
        tensors[first], tensors[second] = tensors[second].clone(), tensors[first].clone()

    edit_tensors(run / "adapter" / "adapter_model.safetensors", swap)


@pairing("adapter: system prompt: trained with 'Be brief.', now 'Be kind.'")
def an_adapter_trained_under_another_prompt(run, folder, patch):
    own = open_run(run).fingerprint
    other = dataclasses.replace(own, parts={**own.parts, "system prompt": "'Be kind.'"})
    (run / "adapter" / FINGERPRINT_FILE).write_text(json.dumps(other.to_json()))


@pairing("adapter: no prompt_fingerprint.json beside the weights")
def an_adapter_of_unknown_origin(run, folder, patch):
    (run / "adapter" / FINGERPRINT_FILE).unlink()


def test_there_are_twenty_pairings_and_more():
    assert len(CHANGES) >= 20


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_and_what_does_not_belong_to_it_is_refused_naming_both(tiny_run, tmp_path, monkeypatch, name):
    expected, change = CHANGES[name]
    run = shutil.copytree(tiny_run, tmp_path / "run")
    change(run, tmp_path, monkeypatch)

    with pytest.raises(RunError) as refused:
        load_run(open_run(run))

    message = str(refused.value)
    assert message.startswith("run: ")
    assert expected in message
    assert message.endswith("; put back what it was trained with, or pass --allow_mismatch")
    assert "\n" not in message


def test_the_run_as_it_was_is_accepted(tiny_run, tmp_path):
    load_run(open_run(shutil.copytree(tiny_run, tmp_path / "run")))
