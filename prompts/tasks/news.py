"""News topics; each row brings its own options: {"text", "category": ["Sports", "Economy"], "output": "Sports"}."""

from prompts.errors import PromptError
from prompts.task import Row, Task, ask, read_label, text_of


def list_labels(row: Row) -> tuple[str, ...]:
    """The row's options, each once: ("Sports", "Economy"). Raises PromptError if they are no list of strings."""
    options = row.get("category")
    if not isinstance(options, list | tuple) or not options or not all(isinstance(option, str) for option in options):
        raise PromptError(f"'category' is {options!r}, expected a list of labels; fix the row")
    return tuple(dict.fromkeys(options))


TASK = Task(
    name="news",
    kind="label",
    prompt_fields=("text", "category"),
    answer_fields=("output",),
    example={"text": "国家队三比一取胜。", "category": ["Sports", "Economy"], "output": "Sports"},
    build_prompt=lambda row: ask("文本:", text_of(row, "text"), f",类型选型:{'、'.join(list_labels(row))}"),
    write_answer=lambda row: text_of(row, "output"),
    read_answer=lambda text, row: read_label(text, list_labels(row)),
    list_labels=list_labels,
)
