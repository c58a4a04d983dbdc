"""Conversations on the disk: those a user saves, and the one that continues, so that a crash loses nothing.

A file holds one line, {"messages": [...], "model": ..., "decoding": ..., "saved": ...}: also a row of a dataset.

outputs/chats/<name>.jsonl                  saved with /save
outputs/chats/unsaved-<time>-<process>.jsonl   of a chat that continues, or was cut off
outputs/chats/last.jsonl                    the last one that ended without being saved
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prompts import PromptError
from sft.conversation import Conversation
from sft.data.rows.tools import read_tools
from sft.errors import DataError, one_line
from sft.files import parse_json
from sft.runs.run import write_atomically

LAST = "last"
UNSAVED = re.compile(r"unsaved-[\d-]+-(\d+)")
Facts = Mapping[str, object]
"""What a conversation was held with: {"model": "...", "decoding": {...}}."""


@dataclass(frozen=True)
class SavedChat:
    """A file with a conversation: its name for /load, when it was written, how many questions and the first of them."""

    path: Path
    when: datetime
    num_questions: int
    first_question: str

    @property
    def name(self) -> str:
        """What /load calls it: "unsaved-20261122-081200-4711"."""
        return self.path.stem

    def describe(self) -> str:
        """`holiday: 3 questions, 22 Nov 08:12, "Where is it warm …"`"""
        first = self.first_question if len(self.first_question) <= 40 else self.first_question[:39] + "…"
        questions = "1 question" if self.num_questions == 1 else f"{self.num_questions} questions"
        return f'{self.name}: {questions}, {self.when:%d %b %H:%M}, "{" ".join(first.split())}"'


class SavedChats:
    """A folder of conversations, readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._going_on = folder / f"unsaved-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.jsonl"

    @property
    def history_file(self) -> Path:
        """The lines that were typed, for the arrow keys."""
        return self.folder / "typed_lines"

    def keep(self, conversation: Conversation, facts: Facts) -> None:
        """Write down the conversation that continues, also with a question that has no answer yet."""
        if conversation.num_exchanges or conversation.open_question is not None:
            self._write(self._going_on, conversation, facts)

    def put_aside(self, conversation: Conversation, facts: Facts, *, is_saved: bool) -> None:
        """The conversation ends here (left, cleared, another loaded): unless it is saved, /load last brings it back."""
        if not is_saved and conversation.num_exchanges:
            self._write(self.folder / f"{LAST}.jsonl", conversation, facts)
        self._going_on.unlink(missing_ok=True)

    def save(self, name: str, conversation: Conversation, facts: Facts, *, own: Path | None) -> Path:
        """Save under a name, or without one under the time. `own` may be replaced; DataError for any other file."""
        path = self.path_of(name or f"{datetime.now():%Y%m%d-%H%M%S}")
        try:
            if path.exists() and path != own and path.stem != LAST:
                raise DataError(f"{path} is there already; choose another name")
            self._write(path, conversation, facts)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}); choose another name") from None
        return path

    def path_of(self, name: str) -> Path:
        """`holiday` -> outputs/chats/holiday.jsonl; a name with a slash or .jsonl is a path of its own."""
        if not name.isprintable():
            raise DataError("a name must not contain control characters; choose another one")
        is_path = "/" in name or name.endswith(".jsonl")
        try:
            return Path(name).expanduser() if is_path else self.folder / f"{name}.jsonl"
        except RuntimeError:  # ~somebody
            raise DataError(f"{name}: no such user; choose another name") from None

    def load(self, path: Path) -> Conversation:
        """The conversation of a file. Raises DataError if there is none."""
        try:
            if path.exists() and not path.is_file():  # a pipe or a device could be read for ever
                raise DataError(f"{path}: no file; a conversation is a line of a .jsonl file")
            with path.open(encoding="utf-8") as file:
                fields = parse_json(file.readline())
            chat = Conversation.from_messages(fields["messages"])
            chat.tools = read_tools(fields["tools"]) if fields.get("tools") else []
            return chat
        except FileNotFoundError:
            known = ", ".join(chat.name for chat in self.find_all()[:8]) or "none yet"
            raise DataError(f"{path}: no such conversation; saved are: {known}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, PromptError) as error:
            raise DataError(f"{path}: contains no conversation ({one_line(error)})") from None

    def take_up(self, path: Path, conversation: Conversation, facts: Facts) -> None:
        """Continue an interrupted conversation under this chat's name, saved before the old file is deleted."""
        self.keep(conversation, facts)
        if UNSAVED.fullmatch(path.stem) and path.parent == self.folder and path != self._going_on:
            path.unlink(missing_ok=True)

    def find_all(self) -> list[SavedChat]:
        """All conversations of the folder but those of chats that continue, the newest first."""
        found = []
        for path in self.folder.glob("*.jsonl"):
            try:
                conversation, when = self.load(path), datetime.fromtimestamp(path.stat().st_mtime)
            except (DataError, OSError):
                continue
            questions = [turn["content"] for turn in conversation.messages() if turn["role"] == "user"]
            if questions and not self._goes_on(path):
                found.append(SavedChat(path, when, len(questions), questions[0]))
        return sorted(found, key=lambda chat: chat.when, reverse=True)

    def cut_off(self) -> list[SavedChat]:
        """Conversations whose chat ended without a word: killed, crashed, the terminal closed. Newest first."""
        return [chat for chat in self.find_all() if UNSAVED.fullmatch(chat.name)]

    def _write(self, path: Path, conversation: Conversation, facts: Facts) -> None:
        self._make_folder()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        turns = [turn for turn in conversation.messages() if turn["role"] != "tools"]
        offered = {"tools": conversation.tools} if conversation.tools else {}
        fields = {"messages": turns, **offered, **facts, "saved": now}
        write_atomically(path, json.dumps(fields, ensure_ascii=False) + "\n", mode=0o600)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _goes_on(self, path: Path) -> bool:
        """Whether the chat that writes a file still runs. In containers another's number may have been ours."""
        match = UNSAVED.fullmatch(path.stem)
        if match is None:
            return False
        process = int(match.group(1))
        if process == os.getpid():
            return path == self._going_on
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):  # a number that no process can have
            return False
        except OSError:  # it runs, and belongs to somebody else
            return True
        return True
