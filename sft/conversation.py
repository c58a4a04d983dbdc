"""A chat's memory, and what of it the model is sent. Pure: no model, no terminal, no files.

chat = Conversation(system_prompt="Be brief.")
chat.ask("What is LoRA?")          # [system, user]: the prompt
chat.keep_answer("A low-rank adapter.")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from prompts import ChatFormat, Head, Message, PromptError, Rules, Tool, ToolCall
from prompts.messages import LEADING, check_conversation
from sft.runs.run import Run

LEAVING = ("exit", "quit", "/exit", "/quit")  # what leaves wherever lines are typed


@dataclass(frozen=True)
class Exchange:
    """A question with its answer, and what the model thought before it answered.

    calls: the functions that the answer calls. results: of the functions called before; they replace the question,
    whose text is theirs.
    """

    question: str
    answer: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[str, ...] = ()


class Conversation:
    """The conversation so far: the system prompt, then each answered question with its answer."""

    def __init__(self, system_prompt: str | None = None, tools: Sequence[Tool] = ()) -> None:
        """system_prompt: None leaves it to the chat template's own default. tools: the functions that may be called."""
        self.system_prompt = system_prompt
        self.tools = list(tools)
        self._exchanges: list[Exchange] = []
        self._question: str | None = None
        self._results: tuple[str, ...] = ()  # of the open question, if it consists of results
        self._given: list[str] = []  # results that came, of calls that wait for more of them
        self._replaced: Exchange | None = None  # the exchange that /retry repeats, until there is another answer
        self._num_asked = 0

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> "Conversation":
        """A conversation as messages() gave it; one that ends with a question has it as its open one.

        Raises PromptError if the turns are not [system?, tools?, user, assistant, user, assistant, ...], with what
        was returned in the user's place after a call.
        """
        leading = list(takewhile(lambda turn: turn["role"] in LEADING, messages))
        chat = cls(
            next((turn["content"] for turn in leading if turn["role"] == "system"), None),
            next((turn["tools"] for turn in leading if "tools" in turn), ()),
        )
        turns = list(messages[len(leading) :])
        if not turns:  # nothing was said yet
            return chat
        check_conversation(messages, last_role=messages[-1]["role"])
        for place, (role, group) in enumerate(groupby(turns, key=lambda turn: turn["role"])):
            said = list(group)
            allowed = ("assistant",) if place % 2 else ("tool" if chat.open_calls else "user",)
            if role not in allowed or (len(said) > 1 and role != "tool"):
                number = turns.index(said[0]) + len(said) if role in allowed else turns.index(said[0]) + 1
                raise PromptError(f"turn {number} is {role!r}; questions and answers must take turns")
            if role == "assistant":
                answer = said[0]
                chat.keep_answer(answer["content"], answer.get("reasoning_content", ""), answer.get("tool_calls", ()))
            else:
                contents = [turn["content"] for turn in said]
                chat._question, chat._results = "\n".join(contents), tuple(contents if role == "tool" else ())
        return chat

    @property
    def num_exchanges(self) -> int:
        """Questions that were answered, the answer finished or not."""
        return len(self._exchanges)

    @property
    def num_asked(self) -> int:
        """Number of questions since the chat began, forgotten ones included: seeds each draw differently."""
        return self._num_asked

    @property
    def last(self) -> Exchange | None:
        """The last question that was answered, with its answer."""
        return self._exchanges[-1] if self._exchanges else None

    @property
    def open_question(self) -> str | None:
        """A question that has no answer yet."""
        return self._question

    @property
    def open_results(self) -> tuple[str, ...]:
        """The results that are the open question, () if it is a user's."""
        return self._results

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the last answer whose results have not come yet."""
        if self._question is not None or self.last is None:
            return ()
        return self.last.calls[len(self._given) :]

    def give_result(self, result: str) -> tuple[str, ...]:
        """Add the result of the first open call; returns all results once there are as many as calls, else ()."""
        self._given.append(result)
        if self.open_calls:
            return ()
        given, self._given = tuple(self._given), []
        return given

    def ask(self, question: str, results: tuple[str, ...] = ()) -> list[Message]:
        """Everything the model is to see, with a new question last; keep_answer closes it.

        results: of the functions that the last answer called, instead of a question.
        """
        self._question, self._results = question, results
        self._num_asked += 1
        return self.messages()

    def keep_answer(self, answer: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> None:
        """Remember the answer to the last question, also a part of one; with "" the question is forgotten.

        After retry(), "" brings the former answer back.
        """
        if self._question is not None and (answer or reasoning or calls):
            self._exchanges.append(Exchange(self._question, answer, reasoning, tuple(calls), self._results))
        elif self._replaced is not None:
            self._exchanges.append(self._replaced)
        self._question, self._results, self._replaced = None, (), None

    def retry(self) -> str | None:
        """Take back and return the last question, to repeat it; None if there is none."""
        if self._question is None and self._exchanges:
            self._replaced = self._exchanges.pop()
            self._question, self._results = self._replaced.question, self._replaced.results
        return self._question

    def messages(self) -> list[Message]:
        """[system?, tools?, user, assistant, user, assistant, ...]: all that is remembered, an open question last."""
        turns: list[Message] = []
        if self.system_prompt is not None:
            turns.append({"role": "system", "content": self.system_prompt})
        if self.tools:
            turns.append({"role": "tools", "content": "", "tools": self.tools})
        for exchange in self._exchanges:
            answer: Message = {"role": "assistant", "content": exchange.answer}
            if exchange.reasoning:
                answer["reasoning_content"] = exchange.reasoning
            if exchange.calls:
                answer["tool_calls"] = exchange.calls
            turns += [*_question_turns(exchange.question, exchange.results), answer]
        if self._question is not None:
            turns += _question_turns(self._question, self._results)
        return turns

    def undo(self) -> bool:
        """Forget the last question and its answer; False if there is none."""
        if self._question is not None or self._given:
            self._question, self._results, self._given = None, (), []
            return True
        return bool(self._exchanges and self._exchanges.pop())

    def clear(self) -> None:
        """Forget everything but the system prompt and the tools."""
        self._exchanges.clear()
        self._given.clear()
        self._question, self._results, self._replaced = None, (), None


def _question_turns(question: str, results: Sequence[str]) -> list[Message]:
    if results:
        return [{"role": "tool", "content": result} for result in results]
    return [{"role": "user", "content": question}]


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
    """The prompt of a conversation, shortened as in training if it would leave no room for the answer.

    head: a classification head that reads it and needs no room. Raises prompts.TooLong where the last
    question alone is too long and cannot be shortened.
    """
    ids = chat.encode_prompt(messages, limits._replace(supervise="last" if head is None else "none"))
    return FittedPrompt(ids, len(chat.encode_prompt(messages)) - len(ids))
