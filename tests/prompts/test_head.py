"""Which class a row has, which answers a head can give to it, and what it reads: the prompt, no token of an answer."""

import pytest

from prompts import Fingerprint, Head, PromptError, Rules, conversation_of
from prompts.head import classes_of_rows
from prompts.tasks import get_task

SENTIMENT, JSON, NEWS = get_task("sentiment"), get_task("sentiment_json"), get_task("news")
HEAD = Head(("负面", "正面"))
NEWS_ROW = {"id": "n1", "text": "三比一", "category": ["体育", "经济", "文化"], "output": "经济"}


def test_the_class_of_a_row_is_what_its_answer_means():
    assert HEAD.class_of_row(SENTIMENT, {"text": "好", "label": "正面"}) == 1
    assert HEAD.class_of_row(JSON, {"text": "好", "label": 0}) == 0
    assert Head(("经济", "体育")).class_of_row(NEWS, NEWS_ROW) == 0


def test_the_answers_it_can_give_are_those_of_the_row_whose_classes_it_knows():
    assert HEAD.answers_of(SENTIMENT, {"text": "好"}) == ("负面", "正面")
    assert HEAD.answers_of(JSON, {"text": "好"}) == get_task("sentiment_json").allowed_labels({})
    assert Head(("文化", "体育", "科技")).answers_of(NEWS, NEWS_ROW) == ("体育", "文化")


def test_a_row_it_has_no_class_for_is_refused_by_name():
    with pytest.raises(PromptError) as caught:
        Head(("体育", "科技")).class_of_row(NEWS, NEWS_ROW)
    assert str(caught.value) == "row n1: label '经济' is none of the head's, 体育, 科技; fix the row"
    with pytest.raises(PromptError, match=r"^row n1: task news has no label in common with the head's, 负面, 正面$"):
        HEAD.answers_of(NEWS, NEWS_ROW)
    with pytest.raises(
        PromptError, match=r"^row q1: task instruct has no labels, and a classification head says nothing"
    ):
        HEAD.class_of_row(get_task("instruct"), {"id": "q1", "instruction": "Why?", "output": "正面"})


def test_the_classes_of_rows_are_in_the_order_of_their_first_mention():
    other = {"text": "x", "category": ["科技", "体育"], "output": "科技"}
    assert classes_of_rows([(NEWS, NEWS_ROW), (NEWS, other)]) == ("体育", "经济", "文化", "科技")
    assert classes_of_rows([(JSON, {"text": "好"}), (SENTIMENT, {"text": "好"})]) == ("负面", "正面")


def test_what_it_reads_is_what_inference_sends_and_nothing_of_it_is_learned(formats):
    for chat in formats.values():
        messages = conversation_of({"task": "sentiment", "text": "房间很干净"}, "Be brief.", with_answer=False)
        ((encoded,),) = chat.encode_batch([messages], Rules(supervise="none"))
        assert encoded.input_ids == encoded.prompt_ids == chat.encode_prompt(messages)
        assert encoded == chat.encode(messages, Rules(supervise="none"))
        assert encoded.num_supervised == 0


def test_a_long_prompt_is_shortened_as_inference_shortens_it(formats):
    chat = formats["qwen3"]
    messages = conversation_of({"task": "sentiment", "text": "房间很干净，" * 60}, None, with_answer=False)
    ((encoded,),) = chat.encode_batch([messages], Rules(supervise="none", max_length=64, head_share=0.25))
    assert encoded.input_ids == chat.encode_prompt(messages, Rules("none", max_length=64, head_share=0.25))
    assert len(encoded.input_ids) <= 64
    assert encoded.num_cut == len(chat.encode_prompt(messages)) - len(encoded.input_ids)


def test_a_conversation_with_an_answer_is_no_prompt(formats):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    with pytest.raises(PromptError, match="the last turn is 'assistant', expected 'user'"):
        formats["smollm2"].encode(turns, Rules(supervise="none"))


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (Head(("正面", "负面")), "now classification of the last token, labels 正面|负面"),
        (Head(("负面", "正面"), "mean"), "now classification of the mean of all tokens, labels 负面|正面"),
        (None, "now nothing of the kind"),
    ],
)
def test_the_fingerprint_depends_on_labels_their_order_and_the_pooling(formats, head, line):
    trained, now = (
        Fingerprint.of(formats["qwen2.5"], None, ["sentiment"], {"weights": "sha256 1"}, one) for one in (HEAD, head)
    )
    assert trained.differences(now) == [
        f"head: trained with classification of the last token, labels 负面|正面, {line}"
    ]
    assert trained.digest != now.digest


def test_a_model_that_writes_has_the_fingerprint_it_always_had(formats):
    assert "head" not in Fingerprint.of(formats["qwen2.5"], None, ["sentiment"], {"weights": "sha256 1"}).parts
