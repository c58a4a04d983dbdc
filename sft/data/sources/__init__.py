"""Sources of rows: each kind is one settings class that can read itself, selected in YAML by `kind`.

A new kind is a file here with a subclass of Source, and its name in AnySource.
"""

from typing import Annotated

from pydantic import Field

from sft.data.sources.base import FoundRow, Origin, Source
from sft.data.sources.hub import HubDataset
from sft.data.sources.local_file import LocalFile
from sft.data.sources.mongodb import MongoDB
from sft.data.sources.packaged import Articles, Dialogues, LabelledLines, TaggedNewspaper

__all__ = [
    "AnySource",
    "Articles",
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
    LocalFile | HubDataset | LabelledLines | Articles | TaggedNewspaper | Dialogues | MongoDB,
    Field(discriminator="kind"),
]
