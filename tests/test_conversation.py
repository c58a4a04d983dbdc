import pytest

from prompts import PromptError, Rules, TooLong
from sft.conversation import Conversation, Exchange, fit_prompt


def test_a_conversation_remembers_every_answered_question_behind_the_system_prompt():
    chat = Conversation("Be brief.")
    assert chat.ask("2 + 2?") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    chat.keep_answer("4")
    assert chat.ask("Sure?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
    ]


def test_without_a_system_prompt_the_template_keeps_its_own():
    assert Conversation().ask("hi") == [{"role": "user", "content": "hi"}]


def test_a_question_without_any_answer_is_forgotten():
    chat = Conversation()
    chat.ask("never mind")
    chat.keep_answer("")
    assert (chat.messages(), chat.num_exchanges, chat.num_asked) == ([], 0, 1)
    chat.ask("first")
    assert chat.ask("second") == [{"role": "user", "content": "second"}]


def test_undo_forgets_the_last_exchange_and_clear_all_of_them():
    chat = Conversation("Be brief.")
    for question in ("a", "b", "c"):
        chat.ask(question)
        chat.keep_answer(question.upper())
    assert chat.undo()
    assert [message["content"] for message in chat.messages()] == ["Be brief.", "a", "A", "b", "B"]
    chat.clear()
    assert chat.messages() == [{"role": "system", "content": "Be brief."}]
    assert not chat.undo()
    assert chat.num_asked == 3


def test_a_retried_question_replaces_its_answer_or_restores_it():
    chat = Conversation()
    chat.ask("a")
    chat.keep_answer("first")
    assert chat.retry() == "a"
    assert chat.ask("a") == [{"role": "user", "content": "a"}]
    chat.keep_answer("second")
    assert chat.last == Exchange("a", "second")
    chat.ask(str(chat.retry()))
    chat.keep_answer("")  # stopped before a word was said
    assert (chat.last, chat.num_exchanges) == (Exchange("a", "second"), 1)
    assert Conversation().retry() is None


def test_what_was_thought_stays_with_its_answer():
    chat = Conversation("Be brief.")
    chat.ask("2 + 2?")
    chat.keep_answer("4", "two and two")
    answer = {"role": "assistant", "content": "4", "reasoning_content": "two and two"}
    assert chat.messages()[2:] == [answer]
    assert Conversation.from_messages(chat.messages()).messages() == chat.messages()


def test_a_conversation_comes_back_from_its_messages_with_an_open_question():
    messages = [{"role": "system", "content": "Be brief."}, *talk_of("a", "A", "b")]
    chat = Conversation.from_messages(messages)
    assert chat.messages() == messages
    assert (chat.system_prompt, chat.num_exchanges, chat.open_question) == ("Be brief.", 1, "b")
    assert chat.retry() == "b"
    assert chat.undo()
    assert chat.messages() == messages[:3]


def test_a_conversation_in_which_nothing_was_said_comes_back_too():
    assert Conversation.from_messages([]).messages() == []
    assert Conversation.from_messages(Conversation("Be brief.").messages()).system_prompt == "Be brief."


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
    ],
)
def test_turns_that_are_no_conversation_are_refused(messages):
    with pytest.raises(PromptError):
        Conversation.from_messages(messages)


def talk_of(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_a_prompt_that_fits_is_sent_whole(tiny_chat):
    messages = talk_of("hello")
    fitted = fit_prompt(tiny_chat, messages, Rules(max_length=512, answer_room=100))
    assert (fitted.ids, fitted.num_cut) == (tiny_chat.encode_prompt(messages), 0)


def test_the_oldest_exchanges_are_dropped_when_the_answer_needs_room(tiny_chat):
    messages = talk_of("a" * 150, "b" * 150, "c" * 40, "d" * 40, "e")
    fitted = fit_prompt(tiny_chat, messages, Rules(max_length=512, answer_room=200))
    assert fitted.ids == tiny_chat.encode_prompt(messages[2:])
    assert fitted.num_cut == len(tiny_chat.encode_prompt(messages)) - len(fitted.ids) > 300


def test_half_of_the_context_is_always_left_for_the_question(tiny_chat):
    messages = talk_of("a" * 200)
    fitted = fit_prompt(tiny_chat, messages, Rules(max_length=512, answer_room=10_000))
    assert fitted.num_cut == 0


def test_a_question_that_cannot_be_shortened_enough_is_refused(tiny_chat):
    messages = [{"role": "system", "content": "s" * 520}, *talk_of("hello")]
    with pytest.raises(TooLong):
        fit_prompt(tiny_chat, messages, Rules(max_length=512, answer_room=200))


@pytest.fixture
def tiny_chat(tiny_model_folder):
    from sft.models.loading import load_chat_format

    return load_chat_format(str(tiny_model_folder))


CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]


def test_what_functions_returned_takes_the_place_of_a_question():
    chat = Conversation("Be brief.", TOOLS)
    chat.ask("Rome and Oslo?")
    chat.keep_answer("", calls=[CALL, CALL])
    assert chat.open_calls == (CALL, CALL)
    assert (chat.give_result("18"), chat.open_calls) == ((), (CALL,))
    results = chat.give_result("5")
    assert results == ("18", "5")
    asked = chat.ask("18\n5", results)
    assert asked == [
        {"role": "system", "content": "Be brief."},
        {"role": "tools", "content": "", "tools": TOOLS},
        {"role": "user", "content": "Rome and Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": (CALL, CALL)},
        {"role": "tool", "content": "18"},
        {"role": "tool", "content": "5"},
    ]
    again = Conversation.from_messages(asked)
    assert (again.messages(), again.open_results, again.open_calls) == (asked, results, ())
    chat.keep_answer("Warm.")
    assert Conversation.from_messages(chat.messages()).messages() == chat.messages()
    assert chat.retry() == "18\n5"
    assert (chat.messages(), chat.open_results) == (asked, results)
    assert chat.undo()
    assert chat.open_calls == (CALL, CALL)
    assert chat.undo()
    assert (chat.open_calls, chat.num_exchanges) == ((), 0)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("user tool", "turn 2 is 'tool'; questions and answers must take turns"),
        ("user assistant tool", "turn 3 is 'tool'; questions and answers must take turns"),
        ("user user", "turn 2 is 'user'; questions and answers must take turns"),
        ("user assistant assistant", "turn 3 is 'assistant'; questions and answers must take turns"),
    ],
)
def test_a_result_that_nothing_called_is_refused(roles, message):
    with pytest.raises(PromptError, match=message):
        Conversation.from_messages([{"role": role, "content": f"x{n}"} for n, role in enumerate(roles.split())])
