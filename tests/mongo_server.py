"""A MongoDB server of its own process: mockupdb speaks the wire protocol on 127.0.0.1, mongomock holds the documents.

    python tests/mongo_server.py '{"documents": "documents.json", "user": "ada", "password": "lovelace"}'

prints its port. It answers what extract_mongo.py and `kind: mongodb` send through the real pymongo client: hello, ping,
SCRAM-SHA-256 logins, listCollections, find, getMore, aggregate. On request it misbehaves: see Behaviour. MongoDB itself
is not needed, and what only MongoDB does (indexes, sharding, TLS) is not shown by it.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field

import bson.json_util
import mockupdb
import mongomock
import mongomock.filtering

MAX_WIRE_VERSION = 21
ITERATIONS = 4096
SALT = b"a salt of sixteen"
mongomock.filtering.TYPE_MAP["timestamp"] = lambda value: isinstance(value, bson.Timestamp)  # it names, but lacks it


@dataclass
class Behaviour:
    """What a test asks of the server, as its one argument in JSON."""

    documents: str  # file: database -> collection -> documents, in MongoDB's extended JSON
    user: str = ""  # "" lets everybody in
    password: str = ""
    auth_database: str = "admin"
    ignores_logins: bool = False  # says ok to a login without reading it, as servers do that know no users
    hang_up_at: list[int] = field(default_factory=list)  # batches (1, 2, ...) at which the connection is cut instead
    exit_at: int = 0  # batch at which the whole server dies
    delay_s: float = 0  # before each batch
    batch: int = 0  # most documents of a batch; 0: what the client asks for


class MongoServer:
    """Answers commands from a mongomock database."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._client = mongomock.MongoClient()
        self._cursors: dict[int, tuple[str, list[dict[str, object]]]] = {}
        self._logins: dict[int, tuple[str, str]] = {}  # port of the client -> what SCRAM said so far
        self._known: set[int] = set()
        self._batches = 0
        self._lock = threading.Lock()
        with open(behaviour.documents, encoding="utf-8") as file:
            for database, collections in bson.json_util.loads(file.read()).items():
                for name, documents in collections.items():
                    if documents:
                        self._client[database][name].insert_many(documents)

    def handle(self, request: mockupdb.Request) -> bool:
        """Answer one command; what is not known is refused as MongoDB does."""
        document = dict(request.doc)
        name = next(iter(document))
        answers = {
            "hello": self._hello,
            "ismaster": self._hello,
            "isMaster": self._hello,
            "saslStart": self._start_login,
            "saslContinue": self._continue_login,
            "ping": lambda *_: {},
            "endSessions": lambda *_: {},
            "killCursors": lambda *_: {},
            "listCollections": self._list_collections,
            "find": self._find,
            "getMore": self._get_more,
            "aggregate": self._aggregate,
        }
        if name not in answers:
            request.command_err(59, f"no such command: '{name}'")
            return True
        is_open = name in ("hello", "ismaster", "isMaster", "saslStart", "saslContinue", "ping", "endSessions")
        if self._behaviour.user and not is_open and request.client_port not in self._known:
            request.command_err(13, f"Command {name} requires authentication", codeName="Unauthorized")
            return True
        try:
            with self._lock:
                answer = answers[name](document, request)
        except PermissionError:
            request.command_err(18, "Authentication failed.", codeName="AuthenticationFailed")
            return True
        except ConnectionAbortedError:
            request.hangup()
            return True
        except Exception as error:  # what mongomock cannot do must not leave the client waiting
            request.command_err(1, f"the test's server: {error!r}")
            return True
        request.replies({**answer, "ok": 1})
        return True

    def _hello(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        answer: dict[str, object] = {
            "isWritablePrimary": True, "ismaster": True, "helloOk": True, "minWireVersion": 0,
            "maxWireVersion": MAX_WIRE_VERSION, "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "readOnly": False,
        }  # fmt: skip
        if "saslSupportedMechs" in document:
            answer["saslSupportedMechs"] = ["SCRAM-SHA-256"]
        return answer

    def _start_login(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        """RFC 5802: the client's first message is `n,,n=user,r=nonce`."""
        if self._behaviour.ignores_logins:
            return {}
        bare = bytes(document["payload"]).decode().removeprefix("n,,")
        user, nonce = (part[2:] for part in bare.split(","))
        if user != self._behaviour.user or document["$db"] != self._behaviour.auth_database:
            raise PermissionError
        salt = base64.b64encode(SALT).decode()
        first = f"r={nonce}{base64.b64encode(os.urandom(12)).decode()},s={salt},i={ITERATIONS}"
        self._logins[request.client_port] = (bare, first)
        return {"conversationId": 1, "done": False, "payload": first.encode()}

    def _continue_login(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        """The client's last message is `c=…,r=nonce,p=proof`; the answer proves that the server knows the password."""
        last = bytes(document["payload"]).decode()
        if not last:
            return {"conversationId": 1, "done": True, "payload": b""}
        bare, first = self._logins.pop(request.client_port)
        without_proof, _, proof = last.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self._behaviour.password.encode(), SALT, ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        message = f"{bare},{first},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        expected = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        if not hmac.compare_digest(expected, base64.b64decode(proof)):
            raise PermissionError
        self._known.add(request.client_port)
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return {"conversationId": 1, "done": True, "payload": b"v=" + base64.b64encode(server)}

    def _list_collections(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        database = str(document["$db"])
        names = self._client[database].list_collection_names()
        entries = [{"name": name, "type": "collection"} for name in names]
        return {"cursor": {"id": 0, "ns": f"{database}.$cmd.listCollections", "firstBatch": entries}}

    def _find(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        collection = self._client[str(document["$db"])][str(document["find"])]
        found = collection.find(document.get("filter") or {}, document.get("projection"))
        if sort := document.get("sort"):
            found = found.sort(list(dict(sort).items()))
        return self._first_batch(document, list(found), f"{document['$db']}.{document['find']}")

    def _aggregate(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        collection = self._client[str(document["$db"])][str(document["aggregate"])]
        pipeline = [dict(stage) for stage in document["pipeline"]]
        return self._first_batch(document, list(collection.aggregate(pipeline)), f"{document['$db']}.x")

    def _first_batch(
        self, document: dict[str, object], found: list[dict[str, object]], namespace: str
    ) -> dict[str, object]:
        number = len(self._cursors) + 1
        self._cursors[number] = (namespace, found)
        size = int(document.get("batchSize") or dict(document.get("cursor") or {}).get("batchSize") or 101)
        batch, left = self._take(number, size)
        return {"cursor": {"id": number if left else 0, "ns": namespace, "firstBatch": batch}}

    def _get_more(self, document: dict[str, object], request: mockupdb.Request) -> dict[str, object]:
        number = int(document["getMore"])
        batch, left = self._take(number, int(document.get("batchSize") or 1000))
        namespace = self._cursors[number][0]
        return {"cursor": {"id": number if left else 0, "ns": namespace, "nextBatch": batch}}

    def _take(self, number: int, size: int) -> tuple[list[dict[str, object]], bool]:
        self._batches += 1
        time.sleep(self._behaviour.delay_s)
        if self._batches == self._behaviour.exit_at:
            os._exit(0)
        if self._batches in self._behaviour.hang_up_at:
            raise ConnectionAbortedError
        size = min(size, self._behaviour.batch or size)
        namespace, left = self._cursors[number]
        self._cursors[number] = (namespace, left[size:])
        return left[:size], len(left) > size


def main() -> None:
    """Serve until standard input ends, so that no server outlives its test."""
    served = MongoServer(Behaviour(**json.loads(sys.argv[1])))
    server = mockupdb.MockupDB()
    server.autoresponds(served.handle)
    print(server.run(), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
