"""Sentiment of a Chinese review, answered in one word: {"text", "label": "正面" | "负面"}."""

from prompts.task import Task, ask, read_label, text_of

LABELS = ("负面", "正面")  # the positive class last, as metrics count it
# Class numbers as ChnSentiCorp and its like count them, and the words of other data sets.
SPELLINGS = {
    **dict.fromkeys(("0", "false", "negative", "neg", "负", "负向", "消极"), LABELS[0]),
    **dict.fromkeys(("1", "true", "positive", "pos", "正", "正向", "积极"), LABELS[1]),
}

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
    spellings=SPELLINGS,
)
