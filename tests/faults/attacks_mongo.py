"""extract_mongo.py: addresses that are none, outputs that cannot be written, secrets that must not be shown."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.attacks import Attack
from tests.faults.attacks_disks import file_at, folder_at, mode
from tests.faults.commands_apart import Limits

KIND = "MongoDB"


def nothing(folder: Path) -> None:
    """No file is needed."""


def uri_file(uri: str) -> Callable[[Path], object]:
    """A file with the address, which others may not read."""

    def write(folder: Path) -> None:
        (folder / "uri").write_text(uri)
        (folder / "uri").chmod(0o600)

    return write


URIS = {
    "a port that is no number": "mongodb://ada:CANARY@h:abc/d",
    "a port of 5 digits too many": "mongodb://ada:CANARY@h:9999999999/d",
    "a port below 0": "mongodb://ada:CANARY@h:-1/d",
    "a port of 0": "mongodb://ada:CANARY@h:0/d",
    "an empty port": "mongodb://ada:CANARY@h:/d",
    "half an IPv6 address": "mongodb://ada:CANARY@[::1/d",
    "an IPv6 address of letters": "mongodb://ada:CANARY@[zz]:1/d",
    "no host": "mongodb://ada:CANARY@/d",
    "an empty host among others": "mongodb://ada:CANARY@127.0.0.1:1,,b/d",
    "a password with an unescaped @": "mongodb://ada:CAN@CANARY@127.0.0.1:1/d",
    "a password with an unescaped /": "mongodb://ada:CANARY/x@127.0.0.1:1/d",
    "a password with a broken escape": "mongodb://ada:CANARY%zz@127.0.0.1:1/d",
    "a password in the options": "mongodb://127.0.0.1:1/d?authMechanismProperties=x:CANARY",
    "an option of nobody": "mongodb://ada:CANARY@127.0.0.1:1/d?foo=bar",
    "an option without value": "mongodb://ada:CANARY@127.0.0.1:1/d?tls",
    "an option of a wrong type": "mongodb://ada:CANARY@127.0.0.1:1/d?connectTimeoutMS=abc",
    "an option below 0": "mongodb://ada:CANARY@127.0.0.1:1/d?serverSelectionTimeoutMS=-5",
    "two options that quarrel": "mongodb://ada:CANARY@127.0.0.1:1/d?tls=true&tlsInsecure=true&tlsAllowInvalidCertificates=true",
    "a mechanism of nobody": "mongodb://ada:CANARY@127.0.0.1:1/d?authMechanism=FOO",
    "a certificate that is not there": "mongodb://ada:CANARY@127.0.0.1:1/d?tls=true&tlsCAFile=/nowhere.pem",
    "a database with a dot": "mongodb://ada:CANARY@127.0.0.1:1/a.b",
    "a database with a NUL": "mongodb://ada:CANARY@127.0.0.1:1/a%00b",
    "srv with a port": "mongodb+srv://ada:CANARY@h:1/d",
    "srv with two hosts": "mongodb+srv://ada:CANARY@a,b/d",
    "srv of an address": "mongodb+srv://ada:CANARY@127.0.0.1/d",
    "another scheme": "http://ada:CANARY@h/d",
    "no scheme": "ada:CANARY@h/d",
    "a newline in the middle": "mongodb://ada:CANARY@h/d\nmore",
    "a host of 70,000 characters": "mongodb://ada:CANARY@" + "h" * 70_000 + "/d",
    "a host with a NUL": "mongodb://ada:CANARY@a\0b/d",
    "nothing": "",
    "a path to a socket that is not there": "mongodb://ada:CANARY@%2Ftmp%2Fnone.sock/d",
    "compression of nobody": "mongodb://ada:CANARY@127.0.0.1:1/d?compressors=foo",
    "a read preference of nobody": "mongodb://ada:CANARY@127.0.0.1:1/d?readPreference=foo",
}
LABELS = "extract_mongo.py --timeout_s 1 --list-labels --collection rows "
DRAW = "extract_mongo.py --timeout_s 5 --port {mongo} --database texts --collection rows -l 正常:5 -o "
QUICK = Limits(seconds=30)
ATTACKS = [
    *(
        Attack(KIND, f"an address in a file: {name}", uri_file(uri), LABELS + "--mongo_uri_file uri", limits=QUICK)
        for name, uri in URIS.items()
    ),
    *(
        Attack(KIND, f"an address by flag: {name}", nothing, LABELS + "--mongo_uri '" + uri + "'", limits=QUICK)
        for name, uri in URIS.items()
        if uri and len(uri) < 1000
    ),
    *(
        Attack(KIND, f"by flag: {name}", nothing, LABELS + flags, limits=QUICK)
        for name, flags in {
            "a port of 70,000": "--port 70000",
            "a port below 0": "--port -1",
            "a port of 0": "--port 0",
            "a host with a space": "--host 'a b'",
            "a host with a slash": "--host a/b",
            "a host with a query": "--host 'h?tls=true'",
            "a host that is a URI": "--host mongodb://ada:CANARY@h",
            "a host with an @": "--host ada@h",
            "half an IPv6 address": "--host '[::1'",
            "an IPv6 address with a zone": "--host fe80::1%nobody",
            "a port in the host": "--host 127.0.0.1:1",
            "a time-out below 0": "--port 1 --timeout_s -1",
            "an endless time-out": "--port 1 --timeout_s inf",
            "a database with a dollar": "--port {mongo} --database 'a$b'",
            "an empty label field": "--port {mongo} --database texts --label_field ''",
        }.items()
    ),
    Attack(KIND, "an address in a folder", folder_at("uri"), LABELS + "--mongo_uri_file uri", "uri"),
    Attack(
        KIND,
        "an address nobody may read",
        lambda folder: (uri_file("mongodb://h")(folder), mode("uri", 0)(folder)),
        LABELS + "--mongo_uri_file uri",
        "uri",
        limits=Limits(obeys_permissions=True),
    ),
    Attack(
        KIND,
        "an address of 100 MB",
        lambda folder: uri_file("mongodb://" + "h" * 10**8)(folder),
        LABELS + "--mongo_uri_file uri",
        "uri|database",
    ),
    *(
        Attack(KIND, f"written to {name}", prepare, DRAW + output, says, limits=limits, leaves=leaves)
        for name, (prepare, output, says, limits, leaves) in {
            "/proc": (nothing, "/proc/x/q.csv", "/proc", Limits(), ()),
            "/dev/null as a folder": (nothing, "/dev/null/q.csv", "/dev/null", Limits(), ()),
            "a file as a folder": (file_at("f"), "f/q.csv", r"\bf\b", Limits(), ()),
            "a folder nobody may write to": (
                folder_at("d", 0o555),
                "d/q.csv",
                r"\bd\b",
                Limits(obeys_permissions=True),
                (),
            ),
            "a folder of that name": (folder_at("q.csv"), "q.csv", "q.csv", Limits(), ()),
            "a name too long": (nothing, "q" * 300 + ".csv", "qqq", Limits(), ()),
            "a name without a suffix": (nothing, "q", r"\bq\b", Limits(), ()),
            "nothing but a suffix": (nothing, ".csv", "csv", Limits(), ()),
            "files of at most 10 bytes, csv": (nothing, "q.csv", "q.csv|room|large", Limits(file_bytes=10), ()),
            "files of at most 10 bytes, xlsx": (nothing, "q.xlsx", "q.xlsx|room|large", Limits(file_bytes=10), ()),
            "files of at most 10 bytes, jsonl": (nothing, "q.jsonl", "q.jsonl|room|large", Limits(file_bytes=10), ()),
        }.items()
    ),
    Attack(KIND, "texts that spreadsheets run, as CSV", nothing, DRAW + "q.csv", may_work=True, leaves=("q.*",)),
]
