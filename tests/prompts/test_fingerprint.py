"""The fingerprint: equal for what is equal, and for what is not it names both values."""

import dataclasses
import json

import pytest
from tokenizers import Tokenizer

from prompts import ChatFormat, Fingerprint, PromptError
from prompts import fingerprint as fingerprint_module
from prompts.tasks import get_task, task_names

BASE = {"name": "Qwen/Qwen3-0.6B", "weights": "sha256 1111aaaa", "revision": "c1899de2", "shapes": "0.6B, 28 layers"}
TASKS = ["sentiment", "ner"]
SYSTEM = "你是一位专家。"


class LoadedTokenizer:
    """What ChatFormat takes of a transformers tokenizer."""

    def __init__(self, backend, template):
        self.backend_tokenizer, self.chat_template = backend, template


@pytest.fixture(scope="module")
def make(tiny_backend, golden):
    """Fingerprint of the standard run, with single things changed: make(system_prompt="x", template="qwen2.5")."""

    def build(*, backend=tiny_backend, template="qwen3", think="auto", system_prompt=SYSTEM, tasks=TASKS, base=BASE):
        text = golden[template]["template"] if template in golden else template
        chat = ChatFormat.from_tokenizer(LoadedTokenizer(backend, text), think=think)
        return Fingerprint.of(chat, system_prompt, tasks, base)

    return build


def change_backend(backend: Tokenizer, change) -> Tokenizer:
    """A copy of a tokenizer with its JSON changed."""
    parts = json.loads(backend.to_str())
    change(parts)
    return Tokenizer.from_str(json.dumps(parts))


def swap_two_words(parts: dict) -> None:
    """Same size, same tokens, two ids exchanged."""
    vocab = parts["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.get)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def drop_last_merge(parts: dict) -> None:
    parts["model"]["merges"].pop()


def swap_control_tokens(parts: dict) -> None:
    """<|im_start|> and <|im_end|> exchange their ids."""
    first, second = parts["added_tokens"][1], parts["added_tokens"][2]
    first["content"], second["content"] = second["content"], first["content"]


MISMATCHES = {
    # what is loaded -> the parts that differ
    "other weights of the same shape": ({"base": {**BASE, "weights": "sha256 2222bbbb"}}, ["base weights"]),
    "another revision of the same model": ({"base": {**BASE, "revision": "e5f1c0de"}}, ["base revision"]),
    "another model of the same shape": ({"base": {**BASE, "name": "Qwen/Qwen3-0.6B-Base"}}, ["base name"]),
    "another size": ({"base": {**BASE, "shapes": "1.7B, 28 layers"}}, ["base shapes"]),
    "another adapter": ({"base": {**BASE, "adapter": "sha256 3333"}}, ["base adapter"]),
    "weights without a known hash": ({"base": {"name": BASE["name"]}},
                                     ["base revision", "base shapes", "base weights"]),
    "two words of the vocabulary exchanged": ({"backend": swap_two_words}, ["tokenizer", "probe conversation"]),
    "one merge fewer": ({"backend": drop_last_merge}, ["tokenizer", "probe conversation"]),
    "control tokens exchanged": ({"backend": swap_control_tokens}, ["tokenizer", "probe conversation"]),
    "one added token more": ({"backend": lambda parts: parts["added_tokens"].append(
        {**parts["added_tokens"][-1], "id": 5000, "content": "<new>"})}, ["tokenizer"]),
    "no normalisation": ({"backend": lambda parts: parts.update(normalizer=None)},
                         ["tokenizer", "probe conversation"]),
    "another family's template": ({"template": "qwen2.5"}, ["chat template", "think policy", "probe conversation"]),
    "a template of other text": ({"template": "qwen3 rewritten"}, ["chat template"]),
    "another think policy": ({"think": "off"}, ["think policy", "probe conversation"]),
    "thinking kept": ({"think": "keep"}, ["think policy", "probe conversation"]),
    "another system prompt": ({"system_prompt": "You are brief."}, ["system prompt"]),
    "no system prompt": ({"system_prompt": None}, ["system prompt"]),
    "an empty system prompt": ({"system_prompt": ""}, ["system prompt"]),
    "one blank more in the system prompt": ({"system_prompt": SYSTEM + " "}, ["system prompt"]),
    "another task": ({"tasks": ["sentiment", "news"]}, ["task ner", "task news"]),
    "a task fewer": ({"tasks": ["sentiment"]}, ["task ner"]),
    "the other sentiment task": ({"tasks": ["sentiment_json", "ner"]}, ["task sentiment", "task sentiment_json"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_does_not_belong_together_differs_and_both_values_are_named(make, tiny_backend, golden, name):
    changes, expected = MISMATCHES[name]
    if "backend" in changes:
        changes = {"backend": change_backend(tiny_backend, changes["backend"])}
    if changes.get("template") == "qwen3 rewritten":
        changes = {"template": golden["qwen3"]["template"] + "{# edited #}"}
    trained, now = make(), make(**changes)

    assert trained.digest != now.digest
    differences = trained.differences(now)
    assert sorted(line.partition(":")[0] for line in differences) == sorted(expected)
    for line in differences:
        part = line.partition(":")[0]
        trained_with, loaded = (one.parts.get(part, "nothing of the kind") for one in (trained, now))
        assert line == f"{part}: trained with {trained_with}, now {loaded}"


def test_there_are_twenty_mismatches_and_more():
    assert len(MISMATCHES) >= 20


def test_what_is_equal_has_no_differences(make):
    assert make() == make(tasks=["ner", "sentiment", "ner"], base=dict(reversed(BASE.items())))
    assert make().differences(make()) == []
    assert make().digest == make().digest
    assert len(make().digest) == 64


def test_a_changed_label_set_or_prompt_of_a_task_is_noticed(make, monkeypatch):
    trained = make()
    task = get_task("sentiment")
    other_labels = dataclasses.replace(
        task,
        list_labels=lambda row: ("差评", "好评"),
        write_answer=lambda row: "好评",
        read_answer=lambda text, row: text,
    )
    other_words = dataclasses.replace(task, build_prompt=lambda row: [{"role": "user", "content": "好吗？"}])

    for changed in (other_labels, other_words):
        monkeypatch.setattr(
            fingerprint_module, "get_task", {**{n: get_task(n) for n in task_names()}, "sentiment": changed}.get
        )
        [line] = trained.differences(make())
        assert line.startswith(f"task sentiment: trained with {trained.parts['task sentiment']}, now labels ")
        monkeypatch.undo()
    assert trained.parts["task sentiment"].startswith("labels 负面|正面, prompt sha256 ")


def test_a_fingerprint_survives_its_file(make):
    saved = json.loads(json.dumps(make().to_json(), ensure_ascii=False))

    assert Fingerprint.from_json(saved) == make()
    assert saved["digest"] == make().digest
    assert saved["parts"]["system prompt"] == "'你是一位专家。'"


def test_an_edited_or_damaged_fingerprint_is_refused(make):
    saved = make().to_json()
    with pytest.raises(PromptError) as edited:
        Fingerprint.from_json({**saved, "parts": {**saved["parts"], "system prompt": "'x'"}})
    with pytest.raises(PromptError) as damaged:
        Fingerprint.from_json({"digest": saved["digest"]})

    assert str(edited.value) == "the saved fingerprint does not match its own digest; it was edited, restore run.json"
    assert str(damaged.value) == "the saved fingerprint has no parts; train the run again or restore its run.json"


def test_saving_and_loading_the_tokenizer_changes_nothing(embedded_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    embedded_tokenizer.save_pretrained(tmp_path)
    prints = [
        Fingerprint.of(ChatFormat.from_tokenizer(tokenizer), None, ["instruct"], BASE)
        for tokenizer in (embedded_tokenizer, AutoTokenizer.from_pretrained(tmp_path))
    ]
    assert prints[0].differences(prints[1]) == []
