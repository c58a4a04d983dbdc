"""Content safety in six classes: {"text", "label"}."""

from prompts.task import Task, ask, read_label, text_of

LABELS = ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗")  # 0 to 5, also of the classification head

TASK = Task(
    name="moderation",
    kind="label",
    prompt_fields=("text",),
    answer_fields=("label",),
    example={"text": "今天天气不错。", "label": "正常"},
    build_prompt=lambda row: ask(f"判断文本属于哪一类（{'、'.join(LABELS)}），只回答类别：\n", text_of(row, "text")),
    write_answer=lambda row: text_of(row, "label"),
    read_answer=lambda text, row: read_label(text, LABELS),
    list_labels=lambda row: LABELS,
    spellings={str(number): label for number, label in enumerate(LABELS)},
    # the reference system's table; where n_labels is a list, extracted_label has its one label
    columns=({"text": "text_cn", "label": "extracted_label"}, {"text": "text_cn", "label": "n_labels"}),
)
