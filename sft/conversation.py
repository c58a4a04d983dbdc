"""A chat's memory and the words that steer it. Pure: no model, no terminal, no files.

chat = Conversation(system_prompt="Be brief.")
chat.ask("What is LoRA?")          # [system, user]: what the model is to answer
chat.keep_answer("A low-rank adapter.")
read_line("exit")                  # Command("exit", "")
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prompts import ChatFormat, Message

COMMANDS = {
    "/help": "what can be typed",
    "/clear": "forget the conversation",
    "/undo": "forget the last question and its answer",
    "/exit": "leave; so do exit, quit and Ctrl-D",
}
LEAVING = ("exit", "quit", "/exit", "/quit")


@dataclass(frozen=True)
class Question:
    """A line that is for the model, blanks around it left out."""

    text: str


@dataclass(frozen=True)
class Command:
    """A line that is for the chat itself: Command("undo"). An unknown one has its name: Command("udno")."""

    name: str


def read_line(line: str) -> Question | Command | None:
    """What a typed line is: a question, a command, or nothing at all (None, a blank line).

    Commands begin with a slash; `exit` and `quit` need none. "/etc/hosts: what is it?" is a question: a command is a
    single word of letters.
    """
    text = line.strip()
    if not text:
        return None
    if text.lower() in LEAVING:
        return Command("exit")
    if text.startswith("/") and text[1:].isalpha() and text.isascii():
        return Command(text[1:].lower())
    return Question(text)


class Conversation:
    """What was said so far, each answered question with its answer; the system prompt stands before all of it."""

    def __init__(self, system_prompt: str | None = None) -> None:
        """system_prompt: None leaves it to the chat template's own default."""
        self.system_prompt = system_prompt
        self._exchanges: list[tuple[str, str]] = []
        self._question: str | None = None
        self._num_asked = 0

    @property
    def num_exchanges(self) -> int:
        """Questions that were answered, the answer finished or not."""
        return len(self._exchanges)

    @property
    def num_asked(self) -> int:
        """Questions asked since the chat began, forgotten ones too: tells one draw from the next."""
        return self._num_asked

    def ask(self, question: str) -> list[Message]:
        """Everything the model is to see, with a new question last; keep_answer closes it."""
        self._question = question
        self._num_asked += 1
        return [*self.messages(), {"role": "user", "content": question}]

    def keep_answer(self, answer: str) -> None:
        """Remember the answer to the last question, also a part of one; with "" the question is forgotten."""
        if self._question is not None and answer:
            self._exchanges.append((self._question, answer))
        self._question = None

    def messages(self) -> list[Message]:
        """[system?, user, assistant, user, assistant, ...]: all that is remembered."""
        turns: list[Message] = []
        if self.system_prompt is not None:
            turns.append({"role": "system", "content": self.system_prompt})
        for question, answer in self._exchanges:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return turns

    def undo(self) -> bool:
        """Forget the last question and its answer; False where there is none."""
        if not self._exchanges:
            return False
        self._exchanges.pop()
        return True

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self._exchanges.clear()
        self._question = None


@dataclass(frozen=True)
class FittedPrompt:
    """Ids to send, and how many tokens of the whole conversation are not among them."""

    ids: list[int]
    num_cut: int


def fit_prompt(chat: ChatFormat, messages: Sequence[Message], *, max_context: int, max_new_tokens: int) -> FittedPrompt:
    """The prompt of a conversation, shortened as in training where it would leave no room for the answer.

    Of max_context tokens the answer may take max_new_tokens, but never more than half. Raises prompts.TooLong where
    the last question alone is too long and cannot be shortened.
    """
    max_length = max(max_context - max_new_tokens, max_context // 2)
    whole = chat.encode_prompt(messages)
    if len(whole) <= max_length:
        return FittedPrompt(whole, 0)
    ids = chat.encode_prompt(messages, max_length=max_length)
    return FittedPrompt(ids, len(whole) - len(ids))
