import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.export.template import build_template
from tests.tiny import CHATML

PLAIN = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def render(template: str, messages: list[dict[str, str]], **values: object) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers renders
    environment.globals["raise_exception"] = pytest.fail
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **values)


@given(system=PLAIN, question=PLAIN)
def test_any_system_prompt_precedes_the_question_character_for_character(system, question):
    user = {"role": "user", "content": question}
    template = build_template(CHATML, system, "auto", has_think_block=False)
    assert render(template, [user]) == render(CHATML, [{"role": "system", "content": system}, user])


def test_a_system_message_of_the_callers_own_wins():
    turns = [{"role": "system", "content": "Be loud."}, {"role": "user", "content": "hi"}]
    template = build_template(CHATML, "Be brief.", "auto", has_think_block=False)
    assert render(template, turns) == render(CHATML, turns)


def test_without_a_system_prompt_the_template_stays_as_it_is():
    assert build_template(CHATML, None, "auto", has_think_block=False) == CHATML


@pytest.mark.parametrize(("think", "block"), [("auto", True), ("off", True), ("keep", False)])
def test_a_model_trained_with_an_empty_think_block_still_gets_one(think, block):
    template = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    built = build_template(template, None, think, has_think_block=True)
    assert (render(built, [{"role": "user", "content": ""}]) == "<think></think>") is block


@pytest.mark.parametrize(("think", "is_true"), [("auto", False), ("off", False), ("keep", True)])
def test_a_template_that_thinks_only_on_request_follows_the_policy(think, is_true):
    template = (
        "{% if enable_thinking is defined and enable_thinking is true %}<think>{% else %}<think></think>{% endif %}"
    )
    built = build_template(template, None, think, has_think_block=True)
    assert (render(built, [{"role": "user", "content": ""}]) == "<think>") is is_true
