"""Sources of rows: each kind is one settings class that can read itself, told apart in YAML by `kind`.

A new kind is a file here with a subclass of Source, and its name in AnySource.
"""

from typing import Annotated

from pydantic import Field

from sft.data.sources.base import FoundRow, Origin, Source
from sft.data.sources.dialogues import Dialogues
from sft.data.sources.hub_dataset import HubDataset
from sft.data.sources.labelled_lines import LabelledLines
from sft.data.sources.local_file import LocalFile
from sft.data.sources.mongodb import MongoDB
from sft.data.sources.tagged_newspaper import TaggedNewspaper

__all__ = [
    "AnySource",
    "Dialogues",
    "FoundRow",
    "HubDataset",
    "LabelledLines",
    "LocalFile",
    "MongoDB",
    "Origin",
    "Source",
    "TaggedNewspaper",
]

AnySource = Annotated[
    LocalFile | HubDataset | LabelledLines | TaggedNewspaper | Dialogues | MongoDB, Field(discriminator="kind")
]
