"""The models that clients can request: the run, each of its tasks under its own name, and the untuned model.

    demo                   chat, with the run's system prompt
    demo:sentiment         one text -> its label, with the probability of every label
    demo:ner               one text -> its entities
    demo:base              chat with the model as it was before tuning, with the same prompt
    demo:base:sentiment    its label for the text

A run that knows one label task and nothing else answers with labels under its plain name too, and so does one with a
classification head, which cannot chat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prompts import Head, Message, Tool, conversation_of
from prompts.head import answers_of
from prompts.tasks import Task, get_task, task_names
from sft.runs.run import Run
from sft.serve.protocol import ApiError


@dataclass(frozen=True)
class Served:
    """One model name: Served("demo:sentiment", task=<sentiment>); task None is chat.

    base: the name under which the untuned model answers the same, None if it is not served.
    """

    name: str
    task: Task | None
    base: str | None = None
    is_base: bool = False

    def build_prompt(self, system_prompt: str | None) -> list[Message]:
        """What the model reads, with "…" for the text: [{"role": "user", "content": "评论：…"}]."""
        if self.task is None:
            own: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
            return [*own, {"role": "user", "content": "…"}]
        row = {**self.task.example, "task": self.task.name, self.task.prompt_fields[0]: "…"}
        return [
            {"role": turn["role"], "content": turn["content"]}
            for turn in conversation_of(row, system_prompt, with_answer=False)
        ]


@dataclass(frozen=True)
class Asked:
    """A request as messages for the model and, for a task, the row that they are made from."""

    messages: list[Message]
    task: Task | None = None
    row: dict[str, object] | None = None
    head: Head | None = None  # the classification head that chooses among the labels
    tools: Sequence[Tool] = ()  # that a chat offers
    is_base: bool = False  # whether the untuned model is to answer

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers to choose from; () if the answer is written freely."""
        return answers_of(self.task, self.row, self.head) if self.task and self.row else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the labels, in their order."""
        return self.task.classes_of(self.labels, self.row) if self.task and self.row else ()


def list_served(name: str, run: Run | None, *, with_base: bool = False) -> dict[str, Served]:
    """Every model name. An untuned model (run None), or one whose tasks are unknown, is offered every task.

    with_base: the untuned model under the same names with ":base" after the first part.
    """
    names: Sequence[object] = task_names()
    if run is not None and run.tasks:
        names = run.tasks
    tasks = [get_task(str(task)) for task in names]
    special = [task for task in tasks if task.has_form]
    is_classifier = (len(tasks) == 1 and tasks[0].kind == "label") or (run is not None and run.is_classifier)
    with_base = with_base and not any(task.name == "base" for task in special)
    offered = [("", tasks[0] if is_classifier else None), *((f":{task.name}", task) for task in special)]
    served = [Served(name + ending, task, f"{name}:base{ending}" if with_base else None) for ending, task in offered]
    served += [Served(entry.base, entry.task, is_base=True) for entry in served if entry.base]
    return {entry.name: entry for entry in served}


def ask(
    served: Served,
    turns: Sequence[Message],
    system_prompt: str | None,
    category: list[str] | None,
    head: Head | None = None,
    tools: Sequence[Tool] = (),
) -> Asked:
    """The conversation the model is to answer, its system prompt the client's, else the run's.

    Raises ApiError 400 if a task gets anything but one text, and PromptError for roles in a wrong order.
    """
    task = served.task
    if task is None:
        if category:
            raise ApiError(400, f"category is for task news; {served.name} chats", param="category")
        check_results(turns)
        num_own = turns[0]["role"] == "system"
        first: list[Message] = [*turns[:num_own]]
        if not first and system_prompt is not None:
            first = [{"role": "system", "content": system_prompt}]
        if tools:
            first.append({"role": "tools", "content": "", "tools": tools})
        return Asked([*first, *turns[num_own:]], tools=tools, is_base=served.is_base)
    if tools:
        raise ApiError(
            400, f"tools: {served.name} reads one text and calls nothing; send it to the chat", param="tools"
        )
    texts = [turn for turn in turns if turn["role"] != "system"]
    if len(texts) != 1 or texts[0]["role"] != "user":
        raise ApiError(400, f"{served.name} answers one text: send one user message", param="messages")
    row: dict[str, object] = {"task": task.name, task.prompt_fields[0]: texts[0]["content"]}
    row |= {"system": turns[0]["content"]} if turns[0]["role"] == "system" else {}
    if category:
        row["category"] = category
    if missing := [name for name in task.prompt_fields if name not in row]:
        raise ApiError(400, f"task {task.name} needs {missing[0]} too; send it in the body", param=missing[0])
    return Asked(conversation_of(row, system_prompt, with_answer=False), task, row, head, is_base=served.is_base)


def check_results(turns: Sequence[Message]) -> None:
    """Raise ApiError 400 where a tool's message follows nothing that was called."""
    has_called = False
    for number, turn in enumerate(turns):
        if turn["role"] == "tool" and not has_called:
            raise ApiError(
                400, f"messages.{number}: a tool message follows the answer that called it", param="messages"
            )
        if turn["role"] != "tool":
            has_called = bool(turn.get("tool_calls"))
