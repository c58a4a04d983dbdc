"""Plain text, learned whole: {"text": "..."}. There is no prompt and no answer; a model continues it."""

from prompts.messages import Message
from prompts.task import Row, Task, text_of
from prompts.tasks.instruct import read_answer


def build_prompt(row: Row) -> list[Message]:
    """The document, as prompts/chatml.py learns it, and as a model is given it to continue."""
    return [{"role": "document", "content": text_of(row, "text")}]


TASK = Task(
    name="text",
    kind="document",
    prompt_fields=("text",),
    answer_fields=(),
    example={"text": "LoRA 只训练很小的低秩矩阵，其余的权重不变。"},
    build_prompt=build_prompt,
    write_answer=lambda row: text_of(row, "text"),
    read_answer=read_answer,
)
