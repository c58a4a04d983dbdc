"""Settings of extract_mongo.py. A password is not a setting: it comes from MONGO_PASSWORD, a URI file or a prompt."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from sft.config.layers import ResultSettings
from sft.config.secrets import ADVICE, holds_password, refuse_password_words
from sft.errors import ConfigError


class ExtractSettings(ResultSettings):
    """Draw rows from a MongoDB collection, a given number per label, into Excel, CSV or JSONL files.

    The password of -u comes from the environment (MONGO_PASSWORD), from --mongo_uri_file, or from a prompt.
    """

    prog: ClassVar[str] = "extract_mongo.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python extract_mongo.py -u ada --auth-database texts --list-labels",
        'python extract_mongo.py -u ada --auth-database texts -l "正常:15000,暴恐:6000" --random -o out.xlsx',
    )
    common: ClassVar[tuple[str, ...]] = (
        "host", "user", "auth_database", "collection", "labels", "list_labels", "fields", "random", "output", "splits",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {
        "mongo_uri": "Server", "labels": "Rows", "output": "Output", "on_shortage": "Problems",
    }  # fmt: skip

    mongo_uri: str | None = Field(None, description="mongodb://USER@HOST:PORT/DATABASE?options, without a password")
    mongo_uri_file: str | None = Field(None, description="file with such a URI; this one may contain the password")
    host: str | None = Field(None, description="the server; default: localhost")
    port: int | None = Field(None, ge=1, le=65535, description="its port; default: 27017")
    user: str | None = Field(None, validation_alias=AliasChoices("user", "u"), description="user name for the login")
    auth_database: str | None = Field(
        None,
        validation_alias=AliasChoices("auth_database", "auth-database"),
        description="database the user logs in to; default: the URI's, or admin",
    )
    database: str | None = Field(
        None, description="database that holds the rows; default: the URI's, or --auth-database"
    )
    collection: str | None = Field(None, description="collection that holds the rows; default: the database's only one")
    labels: tuple[str, ...] = Field(
        (), validation_alias=AliasChoices("labels", "l"), description='rows of each label: "正常:15000,暴恐:6000"'
    )
    label_field: str = Field("n_labels", description="field that holds a document's label; a.b: b within a")
    list_labels: bool = Field(
        False,
        validation_alias=AliasChoices("list_labels", "list-labels"),
        description="print every label with its number of documents, and write nothing",
    )
    fields: tuple[str, ...] = Field(
        ("text_cn", "n_labels"),
        validation_alias=AliasChoices("fields", "f"),
        description="columns to write, the text first; extracted_label is added",
    )
    random: bool = Field(False, description="draw at random by --seed instead of taking the first rows by _id")
    seed: int = Field(42, description="seed that decides which rows are drawn, their split and their order")
    splits: tuple[str, ...] = Field(
        (), description="one file per split, no text in two of them: train:0.8,validation:0.1,test:0.1"
    )
    output: Path | None = Field(
        None, validation_alias=AliasChoices("output", "o"), description="file to write: .xlsx, .csv or .jsonl"
    )
    on_shortage: Literal["error", "rescale", "upsample", "accept"] = Field(
        default="error",
        description="what to do if a label has too few rows: stop, shrink all, repeat its training rows, or take fewer",
    )
    on_bad_row: Literal["error", "quarantine"] = Field(
        default="error",
        description="what to do with a document that cannot be used: stop, or leave it out and count it",
    )
    max_bad_rows: int | None = Field(default=None, ge=0, description="fail when more documents than this are left out")
    max_retries: int = Field(5, ge=0, description="tries to restore a lost connection; waits double from 0.5 s")
    timeout_s: float = Field(60, gt=0, description="seconds the server may take to answer")

    @classmethod
    def spell_out(cls, values: dict[str, object]) -> dict[str, object]:
        """Refuses a URI with a password in every layer, before anything can be printed."""
        refuse_password_words([str(value) for value in values.values() if value is not None])
        for name in ("host", "mongo_uri"):
            if holds_password(str(values.get(name) or "")):
                raise ConfigError(f"{name}: contains a password, which would be shown; {ADVICE}")
        if "@" in str(values.get("host") or ""):
            raise ConfigError("host: name the server alone; who logs in there is --user")
        return values
