import pytest

from sft.config.decoding import DECODING
from sft.conversation import Conversation
from sft.models.loading import load_base, load_run
from sft.runs.run import open_run
from sft.talk import session as session_module
from sft.talk.saved import SavedChats
from sft.talk.session import Session


class ScriptedReader:
    """Lines a user would type; an exception among them is raised."""

    def __init__(self, *lines: str | BaseException, is_terminal: bool = True) -> None:
        self.lines, self.is_terminal = list(lines), is_terminal

    def read(self) -> str | None:
        line = self.lines.pop(0) if self.lines else None
        if isinstance(line, BaseException):
            raise line
        return line


class ScriptedStream:
    """Pieces of an answer; an exception among them is raised. A piece ("...",) is a thought, a dict a call."""

    def __init__(self, pieces: list) -> None:
        self.pieces, self.finished, self.is_thought, self.token_ids = iter(pieces), False, False, []
        self.message = {"role": "assistant", "content": ""}

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            if isinstance(piece, dict):
                self.message.setdefault("tool_calls", []).append(piece)
                yield "<tool_call>...</tool_call>"
                continue
            self.is_thought = isinstance(piece, tuple)
            text = piece[0] if isinstance(piece, tuple) else piece
            name = "reasoning_content" if self.is_thought else "content"
            self.message[name] = self.message.get(name, "") + text
            self.token_ids.append(0)
            yield text
        self.finished = True

    def stop(self) -> None:
        self.pieces = iter(())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Partner:
    """A session with a real model's prompts and scripted answers; keeps every prompt it was sent."""

    def __init__(self, loaded, folder, monkeypatch) -> None:
        self.loaded, self.chat = loaded, loaded.chat
        self.chats = SavedChats(folder)
        self.answers: list[list] = []
        self.prompts: list[list[int]] = []
        self.seeds: list[int] = []
        self.session = Session(loaded, Conversation("Be brief."), DECODING["chat"], ScriptedReader(), self.chats)
        monkeypatch.setattr(session_module, "stream", self._stream)

    @property
    def conversation(self) -> Conversation:
        return self.session.conversation

    def talk(self, *lines: str | BaseException, is_terminal: bool = True, **changes: float) -> None:
        self.session.decoding = self.session.decoding.model_copy(update=changes)
        self.session.reader = ScriptedReader(*lines, is_terminal=is_terminal)
        self.session.run()

    def _stream(self, loaded, prompt_ids, decoding, *, tools=()) -> ScriptedStream:
        self.tools = list(tools)
        self.prompts.append(prompt_ids)
        self.seeds.append(decoding.seed)
        return ScriptedStream(self.answers.pop(0) if self.answers else ["fi", "ne"])


@pytest.fixture
def partner(tiny_model_folder, tmp_path, monkeypatch) -> Partner:
    """The tiny model, untuned."""
    return Partner(load_base(str(tiny_model_folder), dtype="fp32"), tmp_path / "chats", monkeypatch)


@pytest.fixture
def tuned_partner(tiny_run, tmp_path, monkeypatch) -> Partner:
    """The tiny model with an adapter."""
    return Partner(load_run(open_run(tiny_run)), tmp_path / "chats", monkeypatch)


@pytest.fixture
def full_partner(full_run, tmp_path, monkeypatch) -> Partner:
    """The tiny model with its own weights tuned."""
    return Partner(load_run(open_run(full_run)), tmp_path / "chats", monkeypatch)


def turns(*texts: str) -> list[dict[str, str]]:
    """[system, user, assistant, user, ...]"""
    roles = ["system", *["user", "assistant"] * len(texts)]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.fixture(name="turns")
def turns_fixture():
    """turns("Be brief.", "a", "b"): messages."""
    return turns
