"""A chat's memory, and what of it the model is sent. Pure: no model, no terminal, no files.

chat = Conversation(system_prompt="Be brief.")
chat.ask("What is LoRA?")          # [system, user]: what the model is to answer
chat.keep_answer("A low-rank adapter.")
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prompts import ChatFormat, Head, Message, PromptError, Rules
from prompts.messages import check_conversation
from sft.runs.run import Run

LEAVING = ("exit", "quit", "/exit", "/quit")  # what leaves wherever lines are typed


@dataclass(frozen=True)
class Exchange:
    """A question with its answer, and what the model thought before it answered."""

    question: str
    answer: str
    reasoning: str = ""


class Conversation:
    """What was said so far, each answered question with its answer; the system prompt stands before all of it."""

    def __init__(self, system_prompt: str | None = None) -> None:
        """system_prompt: None leaves it to the chat template's own default."""
        self.system_prompt = system_prompt
        self._exchanges: list[Exchange] = []
        self._question: str | None = None
        self._replaced: Exchange | None = None  # what /retry asks anew, until there is another answer
        self._num_asked = 0

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> "Conversation":
        """A conversation as messages() gave it; one that ends with a question has it as its open one.

        Raises PromptError where the turns are not [system?, user, assistant, user, assistant, ...].
        """
        if not messages or (len(messages) == 1 and messages[0]["role"] == "system"):
            return cls(messages[0]["content"] if messages else None)  # nothing was said yet
        check_conversation(messages, last_role=messages[-1]["role"])
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        turns = messages[1:] if system is not None else messages
        chat = cls(system)
        for place, turn in enumerate(turns):
            if turn["role"] != ("user", "assistant")[place % 2]:
                raise PromptError(f"turn {place + 1} is {turn['role']!r}; questions and answers must take turns")
            if turn["role"] == "user":
                chat._question = turn["content"]
            else:
                chat.keep_answer(turn["content"], turn.get("reasoning_content", ""))
        return chat

    @property
    def num_exchanges(self) -> int:
        """Questions that were answered, the answer finished or not."""
        return len(self._exchanges)

    @property
    def num_asked(self) -> int:
        """Questions asked since the chat began, forgotten ones too: tells one draw from the next."""
        return self._num_asked

    @property
    def last(self) -> Exchange | None:
        """The last question that was answered, with its answer."""
        return self._exchanges[-1] if self._exchanges else None

    @property
    def open_question(self) -> str | None:
        """A question that has no answer yet."""
        return self._question

    def ask(self, question: str) -> list[Message]:
        """Everything the model is to see, with a new question last; keep_answer closes it."""
        self._question = question
        self._num_asked += 1
        return self.messages()

    def keep_answer(self, answer: str, reasoning: str = "") -> None:
        """Remember the answer to the last question, also a part of one; with "" the question is forgotten.

        After retry(), "" brings the former answer back.
        """
        if self._question is not None and (answer or reasoning):
            self._exchanges.append(Exchange(self._question, answer, reasoning))
        elif self._replaced is not None:
            self._exchanges.append(self._replaced)
        self._question = self._replaced = None

    def retry(self) -> str | None:
        """Take the last question back to ask it again, and give it; None where there is none."""
        if self._question is None and self._exchanges:
            self._replaced = self._exchanges.pop()
            self._question = self._replaced.question
        return self._question

    def messages(self) -> list[Message]:
        """[system?, user, assistant, user, assistant, ...]: all that is remembered, an open question last."""
        turns: list[Message] = []
        if self.system_prompt is not None:
            turns.append({"role": "system", "content": self.system_prompt})
        for exchange in self._exchanges:
            answer: Message = {"role": "assistant", "content": exchange.answer}
            if exchange.reasoning:
                answer["reasoning_content"] = exchange.reasoning
            turns += [{"role": "user", "content": exchange.question}, answer]
        if self._question is not None:
            turns.append({"role": "user", "content": self._question})
        return turns

    def undo(self) -> bool:
        """Forget the last question and its answer; False where there is none."""
        if self._question is not None:
            self._question = None
            return True
        return bool(self._exchanges and self._exchanges.pop())

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self._exchanges.clear()
        self._question = self._replaced = None


def limits_of(run: Run | None, max_context: int, *, max_seq_length: int | None = None) -> Rules:
    """The limits that a run's rows were trained and are evaluated with; of an untuned model (None) its own context.

    max_seq_length: instead of the run's.
    """
    if run is None:
        return Rules(max_length=min(max_seq_length or max_context, max_context))
    trained = run.train_settings()
    return trained.rules._replace(max_length=min(max_seq_length or trained.max_seq_length, max_context))


@dataclass(frozen=True)
class FittedPrompt:
    """Ids to send, and how many tokens of the whole conversation are not among them."""

    ids: list[int]
    num_cut: int


def fit_prompt(
    chat: ChatFormat, messages: Sequence[Message], limits: Rules, *, head: Head | None = None
) -> FittedPrompt:
    """The prompt of a conversation, shortened as in training where it would leave no room for the answer.

    head: what reads it, where it is a classification head, which needs no room. Raises prompts.TooLong where the last
    question alone is too long and cannot be shortened.
    """
    ids = chat.encode_prompt(messages, limits._replace(supervise="last" if head is None else "none"))
    return FittedPrompt(ids, len(chat.encode_prompt(messages)) - len(ids))
