"""Recognising a family by what its template writes, and refusing what is not ChatML."""

import pytest

from prompts import ChatFormat, PromptError, sandbox
from prompts.family import Family
from prompts.template import read_family

PLAIN_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "no turns": ("Hello", "the chat template is not ChatML: it writes no '<|im_start|>user' turn but 'Hello'"),
    "llama": (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}",
        "the chat template is not ChatML: it writes no '<|im_start|>user' turn but "
        "'[user] probe question[assistant] probe answer'",
    ),
    "a token in front": (
        "<s>" + PLAIN_CHATML,
        "the chat template is not ChatML: it begins with '<s>', expected a system turn or none",
    ),
    "a broken template": (
        "{% for %}",
        "the chat template fails on a plain conversation: Expected an expression, got 'end of statement block'",
    ),
    "an objection": (
        "{{ raise_exception('no') }}",
        "the chat template fails on a plain conversation: no",
    ),
    "nothing": (
        "  ",
        "the tokenizer has no chat template; use an instruct model or a tokenizer with a ChatML template",
    ),
}


def test_families_are_read_off_their_templates(golden):
    found = {name: read_family(recorded["template"]) for name, recorded in golden.items()}

    assert found == {
        "qwen2.5": Family("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        "qwen3": Family(None, think_block="last"),
        "qwen3.5": Family(None, think_block="recent", opens_block=True, trims=True, tool_form="xml"),
        "smollm2": Family("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    }


def test_any_template_that_behaves_like_chatml_is_accepted():
    no_last_newline = PLAIN_CHATML.replace("<|im_end|>\n{% endfor", "<|im_end|>{{ '' if loop.last and not "
        "add_generation_prompt else '\n' }}{% endfor")  # fmt: skip
    training = PLAIN_CHATML.replace(
        "{{ message['content'] }}", "{% generation %}{{ message.content }}{% endgeneration %}"
    )

    by_name = PLAIN_CHATML.replace("<|im_end|>", "{{ eos_token }}")

    assert read_family(PLAIN_CHATML) == Family(None)
    assert read_family(by_name, {"eos_token": "<|im_end|>"}) == Family(None)
    assert read_family(no_last_newline) == Family(None, ends_with_newline=False)
    assert read_family(training) == Family(None)


def test_think_blocks_are_found_wherever_a_template_writes_them(golden):
    qwen3 = golden["qwen3"]["template"]
    every = qwen3.replace("{%- if loop.index0 > ns.last_query_index %}", "{%- if true %}")
    every = every.replace("{%- if loop.last or (not loop.last and reasoning_content) %}", "{%- if true %}")
    opened = qwen3.replace(
        "</think>\\n\\n' }}\n    {%- endif %}", "</think>\\n\\n' }}{% else %}{{ '<think>\n' }}{% endif %}"
    )

    assert read_family(every) == Family(None, think_block="every")
    assert read_family(opened) == Family(None, think_block="last", opens_block=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_another_template_is_refused_with_what_is_missing(name):
    template, reason = TEMPLATES[name]
    with pytest.raises(PromptError) as caught:
        read_family(template)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n", "in a prompt, after "
         "'m_end|>\\n<|im_start|>assistant\\n' it writes '<think>\\n' where '' was expected"),
        ("{{ message['content'] }}", "{{ message['content'] }} ", "in a conversation, after "
         "'|im_start|>user\\nprobe question' it writes ' <|im_end|>\\n<|im_start|>assistant\\nprobe ' "
         "where '<|im_end|>\\n<|im_start|>assistant\\nprobe a' was expected"),
    ],
)  # fmt: skip
def test_a_template_that_deviates_is_refused_with_the_position(old, new, difference):
    with pytest.raises(PromptError) as caught:
        read_family(PLAIN_CHATML.replace(old, new))
    assert str(caught.value) == (
        f"the chat template is not ChatML as this project knows it: {difference}; "
        "use a model of the Qwen2.5, Qwen3 or another ChatML family"
    )


def test_a_template_cannot_reach_out_of_its_sandbox():
    with pytest.raises(PromptError) as caught:
        read_family("{{ messages.__class__.__mro__ }}")
    assert str(caught.value).startswith(
        "the chat template fails on a plain conversation: access to attribute '__class__'"
    )


def test_a_template_that_is_no_text_is_refused():
    with pytest.raises(PromptError) as caught:
        read_family(None)
    assert str(caught.value).startswith("the tokenizer has no chat template")


class BareTokenizer:
    """Just what ChatFormat needs of a tokenizer."""

    def __init__(self, backend, template):
        self.backend_tokenizer, self.chat_template = backend, template


def test_a_tokenizer_without_the_control_tokens_is_refused(golden):
    from tokenizers import Tokenizer, models

    with pytest.raises(PromptError) as caught:
        ChatFormat.from_tokenizer(BareTokenizer(Tokenizer(models.BPE()), golden["qwen2.5"]["template"]))
    assert str(caught.value) == "the tokenizer has no token <|im_start|>, <|im_end|>; use a model of a ChatML family"


def test_a_tokenizer_that_splits_parts_otherwise_than_the_whole_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a blank in front of every part
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])

    with pytest.raises(PromptError) as caught:
        ChatFormat.from_tokenizer(BareTokenizer(backend, PLAIN_CHATML))
    assert str(caught.value).startswith("the tokenizer splits a conversation in another way when its parts are encoded")


def test_truncation_left_in_the_tokenizer_is_no_reason_to_refuse_it(tiny_backend, golden):
    from tokenizers import Tokenizer

    used = Tokenizer.from_str(tiny_backend.to_str())
    used.enable_truncation(4)
    used.enable_padding()

    chat = ChatFormat.from_tokenizer(BareTokenizer(used, golden["qwen3"]["template"]))
    assert chat.family == Family(None, think_block="last")
    assert (used.truncation["max_length"], used.padding["direction"]) == (4, "right")


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}" + "{% endfor %}" * 3
HOSTILE = {
    "nested loops": (ENDLESS, "takes more than a short conversation may"),
    "a huge range": ("{{ range(10**12)|list }}", "Range too big"),
    "a huge string": ("{{ 'a' * 10**12 }}", "takes too much memory for a short conversation"),
    "a wide field": ("{{ '%099999999999d' % 1 }}", "takes too much memory for a short conversation"),
    "a wide filter": ("{{ 'a'|center(10**11) }}", "takes too much memory for a short conversation"),
    "a huge list": ("{{ [1] * 10**11 }}", "takes too much memory for a short conversation"),
    "a doubling": ("{% set x = 'a' %}" + "{% set x = x ~ x %}" * 60, "takes (too much memory|more than)"),
    "a long output": ("{% for i in range(99999) %}{{ 'abcdefghijklmnop' }}{% endfor %}", "writes more than 1,000,000"),
    "recursion": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "nests too deeply"),
    "deep brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nests too deeply"),
    "deep blocks": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nests too deeply"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_is_one_line(name, monkeypatch):
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 1)
    template, reason = HOSTILE[name]
    with pytest.raises(PromptError, match=reason) as caught:
        read_family(template + PLAIN_CHATML)
    assert str(caught.value).startswith("the chat template ")
    assert "\n" not in str(caught.value)


def test_a_template_is_read_once_however_often_it_is_used(monkeypatch):
    template = PLAIN_CHATML + "{# once #}"
    family = read_family(template)
    monkeypatch.setattr("prompts.template.render_apart", lambda *_: pytest.fail("rendered again"))
    assert read_family(template) == family
