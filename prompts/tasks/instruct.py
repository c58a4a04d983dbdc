"""Instructions answered in free text: {"instruction", "input" (may be empty), "output"}, optionally "system"."""

from prompts.messages import Message
from prompts.task import Parsed, Row, Task, Unparseable, ask, text_of

INPUT_HEADING = "\n\n补充信息：\n"


def build_prompt(row: Row) -> list[Message]:
    """The instruction followed by its input; only the input may be shortened, or the instruction if there is none."""
    instruction, extra = text_of(row, "instruction"), text_of(row, "input")
    return ask(instruction + INPUT_HEADING, extra) if extra.strip() else [{"role": "user", "content": instruction}]


def read_answer(text: str, row: Row) -> Parsed | Unparseable:
    """The answer without surrounding blanks; an empty one is Unparseable."""
    return text.strip() or Unparseable("the answer is empty", text)


TASK = Task(
    name="instruct",
    kind="text",
    prompt_fields=("instruction",),
    answer_fields=("output",),
    optional_fields=("input",),
    example={"instruction": "用一句话总结。", "input": "LoRA 只训练很小的低秩矩阵。", "output": "LoRA 省显存。"},
    build_prompt=build_prompt,
    write_answer=lambda row: text_of(row, "output"),
    read_answer=read_answer,
)
