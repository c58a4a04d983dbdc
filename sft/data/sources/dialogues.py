"""Question and answer pairs from chatterbot-corpus: the first two turns of each conversation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from sft.data.canonical import RowError
from sft.data.dialects import read_instruct
from sft.data.fields import Record
from sft.data.sources.base import BadRow, FoundRow, PackagedSource
from sft.errors import DataError

# Without types: an answer "yes" or 1963 stays the text it is. The C parser is ten times the Python one's speed.
TextLoader: type[yaml.BaseLoader] | type[yaml.CBaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


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
        raise DataError(
            f"{name}: not YAML in UTF-8 ({' '.join(str(error).split())}); install the package again"
        ) from None
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
