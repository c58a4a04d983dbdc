"""A collection of a MongoDB server, streamed by ascending _id; on the same code as extract_mongo.py."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from sft.config.secrets import ADVICE, holds_password
from sft.console import say
from sft.data.files.reader import convert_records
from sft.data.mongo import Address, make_address
from sft.data.rows.canonical import BadRecord, GoodRecord, RowError
from sft.data.rows.recognised import Recognised
from sft.data.sources.base import BadRow, FoundRow, MappedSource, Origin

if TYPE_CHECKING:  # pymongo is imported where a connection is made
    from pymongo.collection import Collection


class MongoDB(MappedSource):
    """`kind: mongodb`, `database: texts`, `collection: rows`, `columns: {text_cn: text_cn, n_labels: label.name}`.

    The server is mongo_uri (without a password), mongo_uri_file, or host and port; the password of `user` comes from
    MONGO_PASSWORD, the URI file or a prompt. Fields are columns (a.b: b within a): those that `columns` and `templates`
    name are fetched; all of them if none are named. `query` is a MongoDB filter.
    """

    is_remote: ClassVar[bool] = True

    kind: Literal["mongodb"]
    mongo_uri: str | None = None
    mongo_uri_file: str | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    auth_database: str | None = None
    database: str | None = None
    collection: str
    query: dict[str, JsonValue] = Field(default={})
    max_retries: int = Field(default=5, ge=0)
    timeout_s: float = Field(default=60, gt=0)

    @field_validator("mongo_uri")
    @classmethod
    def _refuse_password(cls, uri: str | None) -> str | None:
        if uri is not None and holds_password(uri):
            raise ValueError(f"contains a password, which the manifest would keep; {ADVICE.replace('--', '')}")
        return uri

    def read(self) -> Iterator[FoundRow | BadRow]:
        """Every document as a row; its line is its number by ascending _id, and a bad one's message names the _id."""
        from sft.data.mongo import choose_collection, choose_database, connect

        address = self._address()
        database = choose_database(address, self.database)
        recognised = Recognised()
        shown_as = f"{database}.{self.collection}"
        with connect(address, self.timeout_s) as client:
            ids: list[object] = [None]  # of the document whose row comes next: records become rows one at a time
            documents = self._read_documents(choose_collection(client, address, database, self.collection), ids)
            records = self.mapping().map_records(documents, recognised.ignored_columns)
            for found in convert_records(records, shown_as, self.reading(), recognised):
                if isinstance(found, BadRow):
                    found = found._replace(message=f"{found.message} (_id {ids[0]})")
                yield found
        say(recognised.describe(shown_as))

    def _read_documents(
        self, collection: "Collection[dict[str, object]]", ids: list[object]
    ) -> Iterator[GoodRecord | BadRecord]:
        from sft.data.mongo import Retry, stream_documents, to_json

        fields = self.mapping().paths()
        documents = stream_documents(collection, dict(self.query), fields or None, Retry(self.max_retries))
        for line, document in enumerate(documents, start=1):
            ids[0] = document["_id"]
            names = [name for name in document if name != "_id" or "_id" in fields]
            try:
                yield GoodRecord(line, {name: to_json(document[name], name) for name in names})
            except RowError as error:
                yield BadRecord(line, error.reason, str(error))

    def _address(self) -> Address:
        return make_address(
            uri=self.mongo_uri,
            uri_file=self.mongo_uri_file,
            host=self.host,
            port=self.port,
            user=self.user,
            auth_database=self.auth_database,
        )

    def origin(self) -> Origin:
        """The server without user and password, database and collection; a collection has no revision."""
        address = self._address()
        database = self.database or address.database or address.auth_database or ""
        return Origin(f"{address.shown}/{database}.{self.collection}", "", {})
