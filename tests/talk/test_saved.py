import json
import os
import stat
import subprocess
import sys

import pytest

from sft.conversation import Conversation
from sft.data.files.reader import RowReader
from sft.errors import DataError
from sft.talk.saved import SavedChats

FACTS = {"model": "embedded"}


def talk_of(*texts: str, open_question: str | None = None) -> Conversation:
    chat = Conversation("Be brief.")
    for question in texts:
        chat.ask(question)
        chat.keep_answer(question.upper())
    if open_question is not None:
        chat.ask(open_question)
    return chat


@pytest.fixture
def chats(tmp_path) -> SavedChats:
    return SavedChats(tmp_path / "chats")


def chat_of_another_process(chats: SavedChats, conversation: Conversation, *, process: int):
    """The file of a chat that another process holds, or held."""
    chats.keep(conversation, FACTS)
    (own,) = chats.folder.glob(f"unsaved-*-{os.getpid()}.jsonl")
    return own.rename(own.with_name(f"unsaved-20261122-081200-{process}.jsonl"))


@pytest.fixture
def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_saved_conversation_comes_back_and_only_its_owner_can_read_it(chats):
    path = chats.save("holiday", talk_of("海边?", "b"), FACTS, own=None)
    assert path == chats.folder / "holiday.jsonl"
    assert chats.load(path).messages() == talk_of("海边?", "b").messages()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text(encoding="utf-8"))["model"] == "embedded"


def test_a_saved_conversation_is_a_row_to_train_on(chats):
    path = chats.save("holiday", talk_of("a", "b"), FACTS, own=None)
    (found,) = RowReader(path)
    assert (found.row["task"], found.row["messages"]) == ("chat", talk_of("a", "b").messages())


def test_a_name_that_is_taken_is_refused_unless_it_is_this_conversations_own(chats):
    path = chats.save("holiday", talk_of("a"), FACTS, own=None)
    with pytest.raises(DataError, match=r"holiday\.jsonl is there already; choose another name$"):
        chats.save("holiday", talk_of("b"), FACTS, own=None)
    chats.save("holiday", talk_of("a", "b"), FACTS, own=path)
    assert chats.load(path).num_exchanges == 2


def test_what_was_cut_off_is_offered_once_its_process_is_gone(chats, ended_process):
    chat_of_another_process(chats, talk_of("alive"), process=os.getppid())
    path = chat_of_another_process(chats, talk_of("a", open_question="b?"), process=ended_process)
    chats.keep(talk_of("mine"), FACTS)
    (found,) = chats.cut_off()
    assert (found.path, found.num_questions, found.first_question) == (path, 2, "a")
    assert chats.load(found.path).open_question == "b?"


def test_a_resumed_conversation_is_saved_as_the_new_chat_before_its_old_file_is_deleted(chats, ended_process):
    path = chat_of_another_process(chats, talk_of("a"), process=ended_process)
    chats.take_up(path, chats.load(path), FACTS)
    (left,) = chats.folder.glob("unsaved-*")
    assert left != path
    assert chats.load(left).messages() == talk_of("a").messages()


def test_a_conversation_that_ends_unsaved_is_the_last_one_and_a_saved_one_leaves_nothing(chats):
    chats.keep(talk_of("a"), FACTS)
    chats.put_aside(talk_of("a"), FACTS, is_saved=False)
    assert [path.name for path in chats.folder.iterdir()] == ["last.jsonl"]
    assert chats.load(chats.path_of("last")).messages() == talk_of("a").messages()
    chats.keep(talk_of("b"), FACTS)
    chats.put_aside(talk_of("b"), FACTS, is_saved=True)
    assert chats.load(chats.path_of("last")).messages() == talk_of("a").messages()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"messages": 3}', '{"messages": [{"role": "user"}]}', "\x00"])
def test_a_file_that_holds_no_conversation_is_refused_and_listed_nowhere(chats, content):
    path = chats.save("x", talk_of("a"), FACTS, own=None)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.jsonl: contains no conversation"):
        chats.load(path)
    assert chats.find_all() == []


def test_a_name_nobody_saved_is_answered_with_those_there_are(chats):
    chats.save("holiday", talk_of("a"), FACTS, own=None)
    with pytest.raises(DataError, match=r"holidy\.jsonl: no such conversation; saved are: holiday$"):
        chats.load(chats.path_of("holidy"))


def test_a_conversation_is_described_in_one_line(chats):
    chats.save("holiday", talk_of("first\nline" + "x" * 50), FACTS, own=None)
    (found,) = chats.find_all()
    assert found.describe().startswith("holiday: 1 question, ")
    assert found.describe().endswith(f'"first line{"x" * 29}…"')


@pytest.mark.parametrize(
    ("name", "problem"), [("n" * 300, "File name too long"), ("~nobody-of-this-name/chat", "no such user")]
)
def test_a_name_that_the_disk_refuses_is_one_line(tmp_path, name, problem):
    with pytest.raises(DataError, match=rf"{problem}.*choose another name"):
        SavedChats(tmp_path).save(name, Conversation(), {}, own=None)
