"""Sentiment of a Chinese review, answered in one word: {"text", "label": "正面" | "负面"}."""

from prompts.task import Task, ask, read_label, text_of

LABELS = ("负面", "正面")  # the positive class last, as metrics count it

TASK = Task(
    name="sentiment",
    kind="label",
    prompt_fields=("text",),
    answer_fields=("label",),
    example={"text": "房间很干净，服务态度也好。", "label": "正面"},
    build_prompt=lambda row: ask("正面还是负面？\n", text_of(row, "text")),
    write_answer=lambda row: text_of(row, "label"),
    read_answer=lambda text, row: read_label(text, LABELS),
    list_labels=lambda row: LABELS,
)
