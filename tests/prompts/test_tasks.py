"""Every task: what is asked, how the answer is written, and how it is read back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import PromptError, conversation_of
from prompts.tasks import Entity, Unparseable, get_task, read_label, task_names

PROMPTS = {
    "chat": "What is LoRA?",
    "instruct": "用一句话总结。\n\n补充信息：\nLoRA 只训练很小的低秩矩阵。",
    "moderation": "判断文本属于哪一类（正常、歧视、违法违规、政治安全、暴恐、色情低俗），只回答类别：\n今天天气不错。",
    "ner": "找出人名PER、地点LOC、地理实体GPE、组织ORG：\n张华在北京大学工作。",
    "news": "文本:国家队三比一取胜。,类型选型:Sports、Economy",
    "sentiment": "正面还是负面？\n房间很干净，服务态度也好。",
    "sentiment_json": (
        "分析下面中文文本的整体情感倾向：正面为 1，负面为 0。\n\n文本：\n```sentence\n"
        "房间很干净，服务态度也好。\n```\n\n"
        '只输出 JSON，格式：\n```json\n{\n  "sentiment": 0 or 1\n}\n```'
    ),
}
ANSWERS = {
    "chat": "A way to fine-tune with few weights.",
    "instruct": "LoRA 省显存。",
    "moderation": "正常",
    "ner": '{"entity_text": "张华", "entity_label": "PER"}\n{"entity_text": "北京大学", "entity_label": "ORG"}',
    "news": "Sports",
    "sentiment": "正面",
    "sentiment_json": '```json\n{\n  "sentiment": 1\n}\n```',
}
VALUES = {
    **ANSWERS,
    "ner": [Entity("张华", "PER"), Entity("北京大学", "ORG")],
    "sentiment_json": "正面",
}
ASKED = [name for name in task_names() if get_task(name).kind != "document"]  # which nobody is asked


def test_every_task_is_found_by_its_file():
    assert task_names() == ("chat", "instruct", "moderation", "ner", "news", "sentiment", "sentiment_json", "text")
    assert [get_task(name).name for name in task_names()] == list(task_names())


def test_an_unknown_task_is_refused_with_those_there_are():
    with pytest.raises(PromptError) as caught:
        get_task("sentimnt")
    assert str(caught.value) == (
        "there is no task 'sentimnt'; tasks are chat, instruct, moderation, ner, news, sentiment, sentiment_json, "
        "text (docs/tasks.md: add one)"
    )


def test_every_example_becomes_its_prompt_answer_and_value():
    tasks = [get_task(name) for name in ASKED]

    assert {task.name: task.build_messages(task.example, with_answer=False)[-1]["content"] for task in tasks} == PROMPTS
    assert {task.name: task.answer_of(task.example) for task in tasks} == ANSWERS
    assert {task.name: task.parse_answer(task.answer_of(task.example), task.example) for task in tasks} == VALUES


def test_the_document_of_every_example_is_what_may_be_shortened():
    found = {}
    for name in ASKED:
        message = get_task(name).build_messages(get_task(name).example)[-2]
        start, end = message.get("document", (0, len(message["content"])))
        found[name] = message["content"][start:end]

    assert found == {
        "chat": "What is LoRA?",
        "instruct": "LoRA 只训练很小的低秩矩阵。",
        "moderation": "今天天气不错。",
        "ner": "",
        "news": "国家队三比一取胜。",
        "sentiment": "房间很干净，服务态度也好。",
        "sentiment_json": "房间很干净，服务态度也好。",
    }


@pytest.mark.parametrize("name", [name for name in task_names() if get_task(name).kind == "label"])
def test_each_allowed_label_is_read_back_as_a_class_of_its_own(name):
    task = get_task(name)
    labels = task.allowed_labels(task.example)
    values = [task.parse_answer(label, task.example) for label in labels]

    assert task.answer_of(task.example) in labels
    assert all(isinstance(value, str) for value in values)
    assert len(set(values)) == len(labels) >= 2


def test_training_and_inference_ask_the_same_in_every_task_and_format(formats):
    for name in ASKED:
        row = {"task": name, **get_task(name).example}
        for chat in formats.values():
            for system_prompt in (None, "", "Be brief."):
                trained = chat.encode(conversation_of(row, system_prompt))
                assert trained.prompt_ids == chat.encode_prompt(conversation_of(row, system_prompt, with_answer=False))
                if name != "chat":  # its earlier answers are supervised, too
                    answer = chat.encode_answer(get_task(name).answer_of(row))
                    newline = chat.encode_text("\n")
                    assert trained.input_ids == [*trained.prompt_ids, *answer, *newline]
                    assert trained.num_supervised == len(answer)


@pytest.mark.parametrize(
    ("task", "answer", "value"),
    [
        ("sentiment", " 正面。\n", "正面"),
        ("sentiment", "“负面”", "负面"),
        ("sentiment", "不是正面", None),
        ("sentiment", "正面负面", None),
        ("sentiment", "", None),
        ("news", "sports", "Sports"),
        ("news", "**Economy**", "Economy"),
        ("news", "Politics", None),
        ("moderation", "色情低俗", "色情低俗"),
        ("moderation", "5", None),
        ("sentiment_json", '{"sentiment": 0}', "负面"),
        ("sentiment_json", '```\n{"sentiment": 1, "why": "x"}\n```', "正面"),
        ("sentiment_json", '```json\n{"sentiment": 1}\n```\nBecause ...', None),
        ("sentiment_json", '{"sentiment": true}', None),
        ("sentiment_json", '{"sentiment": 2}', None),
        ("sentiment_json", '{"sentiment": "1"}', None),
        ("sentiment_json", "[1]", None),
        ("sentiment_json", "正面", None),
        ("instruct", "  text \n", "text"),
        ("instruct", " \n", None),
        ("chat", "", None),
    ],
)
def test_answers_are_read_or_counted_as_unparseable(task, answer, value):
    parsed = get_task(task).parse_answer(answer, get_task(task).example)

    assert parsed == value if value is not None else isinstance(parsed, Unparseable)
    if isinstance(parsed, Unparseable):
        assert parsed.text == answer
        assert parsed.reason


@pytest.mark.parametrize(
    "answer",
    ["正面", "正面。", '"正面"', '"正面"。', "**正面**", "**正面**。", "“正面”。", "正面！！", "`正面`.", "正面;",
     "正面，", "【正面】", "（正面）", "《正面》", "'正面'", "正面…", "正面～", "\u3000正面\n", "- 正面", "# 正面",
     "> **正面**", "```\n正面\n```", "答案：正面", "**答案**：正面。", "情感倾向: “正面”", "Answer: 正面",
     "The final answer: **正面**."],
)  # fmt: skip
def test_a_label_is_read_whatever_is_wrapped_around_it(answer):
    assert read_label(answer, ("负面", "正面")) == "正面"


@pytest.mark.parametrize(
    "answer",
    ["不是正面", "正面的", "正面负面", "正面、负面", "正面/负面", "正面？", "!正面", "~~正面~~", "不：正面",
     "答案不是：正面", "正面，因为服务好", "Answer: 正面 or 负面", "", "“”。", "**", "-1", "≠正面"],
)  # fmt: skip
def test_a_text_that_mentions_a_label_or_none_is_no_label(answer):
    assert isinstance(read_label(answer, ("负面", "正面", "1")), Unparseable)


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        (("IT", "it"), {"IT": "IT", "it": "it", "it.": "it", "**IT**": "IT", "It": None}),
        (("C.", "C"), {"C.": "C.", "C": "C", "“C.”": "C.", "C.。": "C."}),
        (("C++", "C"), {"C++": "C++", "C++.": "C++", "C!": "C"}),
        (("正面。", "负面。"), {"正面。": "正面。", "正面": "正面。", "“正面。”": "正面。"}),
        (('"Good!"', "Bad?"), {'"Good!"': '"Good!"', "good": '"Good!"', "Bad?": "Bad?"}),
        (("Sports", "Economy"), {"ＳＰＯＲＴＳ": "Sports", "sports": "Sports"}),
        (("World News",), {"world  news.": "World News"}),
        (("-1", "1"), {"-1": "-1", "1.": "1", "- 1": None}),
    ],
)
def test_labels_that_differ_by_a_mark_or_by_case_stay_apart(labels, answers):
    found = {answer: read_label(answer, labels) for answer in answers}
    assert {answer: None if isinstance(label, Unparseable) else label for answer, label in found.items()} == answers


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
def test_every_label_is_read_back_as_itself(labels):
    assert [read_label(label, tuple(labels)) for label in labels] == labels


@given(st.lists(st.text("ab。.！!“”\"' C", min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_option_of_a_news_row_is_a_class_of_its_own_and_counts_once(options):
    task, row = get_task("news"), {"text": "x", "category": options, "output": options[0]}
    labels = task.allowed_labels(row)
    assert labels == tuple(dict.fromkeys(options))
    assert task.classes_of(labels, row) == labels
    assert task.answer_of(row) == options[0]


def test_a_task_that_cannot_read_its_own_label_is_one_line():
    task = replace(get_task("sentiment"), read_answer=lambda text, row: Unparseable("no", text))
    with pytest.raises(
        PromptError, match="the row: task sentiment cannot read its own label '正面'; fix its read_answer"
    ):
        task.class_of("正面", {})


def test_an_entity_listed_twice_is_answered_once_and_a_span_may_have_two_labels():
    listed = [
        {"start_idx": 2, "end_idx": 4, "entity_text": "北京", "entity_label": label} for label in ("GPE", "ORG", "GPE")
    ]
    task, row = get_task("ner"), {"text": "我在北京", "entities": listed}
    assert task.parse_answer(task.answer_of(row), row) == [Entity("北京", "GPE"), Entity("北京", "ORG")]


BEIJING, ZHANG = Entity("北京", "GPE"), Entity("张华", "PER")
BEIJING_JSON, ZHANG_JSON = (json.dumps({"entity_text": e.text, "entity_label": e.label}) for e in (BEIJING, ZHANG))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("没有找到任何实体", []),
        (" 没有找到任何实体。 ", []),
        (f"{BEIJING_JSON}\n{ZHANG_JSON}", [BEIJING, ZHANG]),
        (f"{BEIJING_JSON}{ZHANG_JSON}", [BEIJING, ZHANG]),
        (f"{BEIJING_JSON}, {ZHANG_JSON},\n", [BEIJING, ZHANG]),
        (f"```json\n[{BEIJING_JSON}, {ZHANG_JSON}]\n```", [BEIJING, ZHANG]),
        ("[]", []),
        ('{"entity_label": "GPE", "start_idx": 0, "entity_text": "北京"}', [BEIJING]),
        (f"{BEIJING_JSON}{BEIJING_JSON}", [BEIJING, BEIJING]),
        ("", "the answer is empty"),
        ("北京", "no JSON object at '北京'"),
        (f"{BEIJING_JSON} and {ZHANG_JSON}", "no JSON object at 'and {\"entity_text\": '"),
        (f"{BEIJING_JSON}\n{ZHANG_JSON[:-4]}", "no JSON object at '{\"entity_text\": \"\\\\u5'"),
        ('{"entity_text": ""}', "no entity_text and entity_label in '{\"entity_text\": \"\"}'"),
        ('{"entity_text": 3, "entity_label": "GPE"}', "no entity_text and entity_label in "
         "'{\"entity_text\": 3, \"entity_label\": \"GPE\"}'"),
        ("3", "no entity_text and entity_label in '3'"),
        ("[" * 100_000, "no JSON object at '[[[[[[[[[[[[[[[[[[[['"),
    ],
)  # fmt: skip
def test_entities_are_read_however_the_objects_are_joined(answer, value):
    task = get_task("ner")

    assert task.parse_answer(answer, task.example) == (value if isinstance(value, list) else Unparseable(value, answer))


def test_entities_are_answered_in_the_order_of_mention():
    text = "北京的张华去北京"
    entities = [
        {"start_idx": 6, "end_idx": 8, "entity_text": "北京", "entity_label": "GPE"},
        {"start_idx": 0, "end_idx": 2, "entity_text": "北京", "entity_label": "GPE"},
        {"start_idx": 3, "end_idx": 5, "entity_text": "张华", "entity_label": "PER"},
    ]
    row = {"text": text, "entities": entities}

    task = get_task("ner")
    assert task.parse_answer(task.answer_of(row), row) == [BEIJING, ZHANG, BEIJING]
    assert get_task("ner").answer_of({"text": text, "entities": []}) == "没有找到任何实体"


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ("sentiment", {"id": "r-1", "label": "正面"},
         "row r-1: no 'text'; task sentiment needs text, label; fix the row"),
        ("sentiment", {"text": "x"}, "the row: no 'label'; task sentiment needs text, label; fix the row"),
        ("sentiment", {"id": "r-1", "text": "x", "label": "中性"},
         "row r-1: the answer '中性' is none of 负面, 正面; fix the row"),
        ("sentiment", {"id": "r-1", "text": 3, "label": "正面"},
         "row r-1: 'text' is int, expected a string; fix the row"),
        ("sentiment_json", {"text": "x", "label": "正面"},
         "'label' is '正面', expected 0 (negative) or 1 (positive); fix the row"),
        ("sentiment_json", {"text": "x", "label": True},
         "'label' is True, expected 0 (negative) or 1 (positive); fix the row"),
        ("news", {"id": "n", "text": "x", "category": ["a", "b"], "output": "c"},
         "row n: the answer 'c' is none of a, b; fix the row"),
        ("news", {"text": "x", "category": "a", "output": "a"},
         "'category' is 'a', expected a list of labels; fix the row"),
        ("ner", {"text": "北京",
                 "entities": [{"start_idx": 0, "end_idx": 1, "entity_text": "北京", "entity_label": "GPE"}]},
         "entity '北京' is not at 0:1 of the text; fix the row"),
        ("ner", {"text": "北京", "entities": "北京"},
         "'entities' is no list of {start_idx, end_idx, entity_text, entity_label}; fix the row"),
        ("chat", {"messages": "hi"}, "'messages' is no list of {role, content}; fix the row"),
        ("chat", {"messages": [{"role": "user", "content": "hi"}]},
         "the last turn of 'messages' is not the assistant's; fix the row"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_refused_by_name(task, row, reason):
    with pytest.raises(PromptError) as caught:
        get_task(task).build_messages(row)
    assert str(caught.value) == reason


def test_a_row_without_its_answer_still_makes_a_prompt():
    for name in ASKED:
        task = get_task(name)
        question = {field: task.example[field] for field in task.prompt_fields}
        if name == "chat":
            question = {"messages": task.example["messages"][:-1]}
        asked = task.build_messages({**task.example, **question}, with_answer=False)
        assert task.build_messages(question, with_answer=False)[-1]["role"] == "user"
        assert name == "instruct" or task.build_messages(question, with_answer=False) == asked
