"""extract_mongo.py end to end: the real pymongo client against a server process that speaks MongoDB's protocol."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from sft.data.files.reader import RowReader, read_records
from sft.files import held, lock_of
from tests.data.samples import make_documents
from tests.terminal import Terminal

pytest_plugins = ("tests.mongo_client",)
PASSWORD = "love:la@ce/?"
LOGIN = ("-u", "ada", "--auth-database", "texts")


def read_rows(path: Path) -> list[dict[str, object]]:
    return [found.fields for found in read_records(path)]


def test_the_reference_command_line_works_as_it_is_written(start_server, run_command_line, tmp_path):
    port = start_server(make_documents(90), user="ada", password=PASSWORD)
    reference = [
        *LOGIN,
        "-l",
        "正常:15,暴恐:6",
        "-f",
        "text_cn,n_labels",
        "--random",
        "--seed",
        "123",
        "-o",
        "out.xlsx",
    ]

    done = run_command_line(*reference, "--port", port, password=PASSWORD)

    assert (done.returncode, done.stdout) == (0, "out.xlsx\n"), done.stderr
    rows = read_rows(tmp_path / "out.xlsx")
    assert list(rows[0]) == ["text_cn", "n_labels", "extracted_label"]
    assert Counter(row["n_labels"] for row in rows) == {"正常": 15, "暴恐": 6}
    assert all(row["extracted_label"] == row["n_labels"] for row in rows)
    assert len({row["text_cn"] for row in rows}) == 21
    assert done.stderr.splitlines()[-5:] == [
        "label  asked  read  kept  written  left out",
        "-----  -----  ----  ----  -------  -------------",
        "正常      15    30    15       15  15 over_quota",
        "暴恐       6    30     6        6  24 over_quota",
        "what became of every document: out.manifest.json",
    ]
    reader = RowReader(tmp_path / "out.xlsx")
    assert Counter(found.row["label"] for found in reader) == {"正常": 15, "暴恐": 6}
    assert dict(reader.dialects) == {"text_cn/extracted_label": 21}


def test_the_password_is_in_no_output_and_no_file(start_server, run_extract, tmp_path):
    port = start_server(make_documents(9), user="ada", password=PASSWORD)
    (tmp_path / "uri").write_text(f"mongodb://ada:love%3Ala%40ce%2F%3F@localhost:{port}/texts\n", encoding="utf-8")
    (tmp_path / "uri").chmod(0o600)
    wanted = ["-l", "正常:2", "--random", "-o"]

    ways = [
        run_extract(*LOGIN, "--port", port, *wanted, "a.csv", password=PASSWORD),
        run_extract("--mongo_uri_file", "uri", *wanted, "b.csv"),
        run_extract("--mongo_uri", f"mongodb://ada@localhost:{port}/texts", *wanted, "c.csv", password=PASSWORD),
        run_extract(*LOGIN, "--port", port, *wanted, "d.csv", password="wrong-secret"),
    ]

    assert [done.returncode for done in ways] == [0, 0, 0, 2]
    written = [path.read_text(encoding="utf-8") for path in tmp_path.glob("?.*")]
    assert len(written) == 6  # three files, three manifests
    for text in [*written, *(done.stdout + done.stderr for done in ways)]:
        assert "love" not in text
        assert "wrong-secret" not in text
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--mongo_uri", "mongodb://ada:s3cret@localhost/texts", "--list-labels"],
            "a MongoDB URI with a password is no setting, others could see it; ",
        ),
        (
            ["mongodb://ada:s3cret@localhost/texts"],
            "a MongoDB URI with a password is no setting, others could see it; ",
        ),
        (["--password=s3cret"], "--password: no password on the command line, others can see it; "),
        (["-ps3cret"], "-p: no password on the command line, others can see it; "),
    ],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(arguments, message, run_extract):
    done = run_extract(*arguments)

    advice = "set MONGO_PASSWORD, put the whole URI into a file and name it with --mongo_uri_file, or be asked for it"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}{advice}\n")


def test_a_password_in_a_recipe_is_refused_and_not_repeated(run_extract, tmp_path):
    (tmp_path / "mine.yaml").write_text("mongo_uri: mongodb://ada:s3cret@localhost/texts\n", encoding="utf-8")

    done = run_extract("--config", "mine.yaml", "--list-labels")

    assert done.returncode == 2
    assert done.stderr.startswith("error: a MongoDB URI with a password is no setting")
    assert "s3cret" not in done.stderr


def test_a_failed_login_is_one_line(start_server, run_extract):
    port = start_server(make_documents(3), user="ada", password=PASSWORD)

    wrong = run_extract(*LOGIN, "--port", port, "--list-labels", password="wrong")
    nobody = run_extract("--port", port, "--database", "texts", "--list-labels")
    silent = run_extract(*LOGIN, "--port", port, "--list-labels")

    where = f"error: mongodb://localhost:{port}: "
    assert [done.returncode for done in (wrong, nobody, silent)] == [2, 2, 2]
    assert wrong.stderr.splitlines()[-1] == (
        f"{where}the login of user 'ada' failed (authentication database 'texts'); "
        "check the user, --auth-database and the password"
    )
    assert nobody.stderr.splitlines()[-1] == (
        f"{where}anonymous users may not do this (Command listCollections requires authentication); "
        "give -u and --auth-database of a user that may read"
    )
    assert silent.stderr.splitlines()[-1] == (
        "error: no password for user 'ada'; set MONGO_PASSWORD, or use --mongo_uri_file"
    )


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        (f"{PASSWORD}\r", 0, r"label +documents\r\n"),
        ("wrong\r", 2, r"error: \S+ the login of user 'ada' failed \(authentication database 'texts'\); check .*\r\n"),
        ("\r", 2, r"error: no password was typed for user 'ada'; type it, or set MONGO_PASSWORD\r\n"),
        ("\x04", 2, r"error: no password was typed for user 'ada'; type it, or set MONGO_PASSWORD\r\n"),
        ("\x03", 130, r"interrupted\r\n"),
    ],
    ids=["right", "wrong", "empty", "Ctrl-D", "Ctrl-C"],
)
def test_the_password_is_prompted_for_at_a_terminal_and_not_shown(keys, code, says, start_server):
    port = start_server(make_documents(9), user="ada", password=PASSWORD)
    where = ("--port", str(port), "--database", "texts", "--collection", "rows")
    terminal = Terminal("extract_mongo.py", *LOGIN, *where, "--list-labels")
    try:
        terminal.wait_for(rf"password of ada at mongodb://localhost:{port}: ")
        terminal.type(keys)
        assert terminal.wait_for_exit() == code
        assert re.search(says, terminal.shown)
        assert terminal.shown.count("error: ") == (code == 2)
        assert PASSWORD not in terminal.shown
    finally:
        terminal.close()


def test_a_server_that_knows_no_users_and_is_sent_one_is_one_line(start_server, run_extract):
    """As nx-27017 (MongoDB's protocol over SQLite) answers."""
    port = start_server(make_documents(3), ignores_logins=True)

    done = run_extract(*LOGIN, "--port", port, "--list-labels", password=PASSWORD)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"error: mongodb://localhost:{port}: does not answer as a MongoDB server (KeyError at the first command)"
    )
    assert PASSWORD not in done.stderr


def test_a_server_that_is_not_there_is_said_within_five_seconds(run_extract):
    started = time.monotonic()

    done = run_extract("--port", 1, "--database", "texts", "--list-labels")

    assert time.monotonic() - started < 5
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: mongodb://localhost:1: the server cannot be reached (localhost:1: "
    )
    assert done.stderr.splitlines()[-1].endswith("; is it running, are host and port right?")


def test_a_connection_lost_midway_is_taken_up_behind_the_last_document(start_server, run_extract, tmp_path):
    documents = make_documents(300)
    wanted = ["--database", "texts", "-l", "正常:40,暴恐:40", "--random", "-o"]
    sound = run_extract("--port", start_server(documents), *wanted, "sound.jsonl")
    port = start_server(documents, batch=40, hang_up_at=[3, 5, 6, 7], delay_s=0.02)

    done = run_extract("--port", port, *wanted, "broken.jsonl")

    assert (sound.returncode, done.returncode) == (0, 0), done.stderr
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "sound.jsonl").read_bytes()
    lost = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    reason = f"(localhost:{port}: connection closed)"
    assert [line.replace(reason, "()") for line in lost] == [
        "warning: texts.rows: connection lost behind _id 118 (); try 1 in 0.5 s",
        "warning: texts.rows: connection lost behind _id 178 (); try 1 in 0.5 s",
        "warning: texts.rows: connection lost behind _id 178 (); try 2 in 1 s",
    ]
    repeated = done.stderr.splitlines()[-5:-1]
    assert repeated == ["3 warnings, repeated here:", *(line.replace("warning: ", "  ") for line in lost)]


@pytest.mark.slow
def test_a_server_that_dies_is_given_up_with_one_line_and_nothing_is_written(start_server, run_extract, tmp_path):
    port = start_server(make_documents(300), batch=40, exit_at=3)
    (tmp_path / "out.csv").write_text("old", encoding="utf-8")

    done = run_extract(
        "--port", port, "--database", "texts", "-l", "正常:40", "--random", "--max_retries", 1, "-o", "out.csv"
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "error: texts.rows: the connection was lost behind _id 237 and 1 tries to take it up again failed (no server "
        "answers); nothing was written, run the command again when the server is back"
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents-0.json", "out.csv"]


@pytest.mark.slow
def test_a_server_that_stops_answering_is_distinguished_from_a_slow_one(start_server, run_extract):
    slow = start_server(make_documents(30), batch=5, delay_s=0.3)
    silent = start_server(make_documents(30), batch=5, delay_s=2.5)
    wanted = ["--database", "texts", "-l", "正常:5", "--random", "--timeout_s", 1, "--max_retries", 0, "-o", "out.csv"]

    assert run_extract("--port", slow, *wanted).returncode == 0
    done = run_extract("--port", silent, *wanted)

    assert done.returncode == 2
    assert "timed out" in done.stderr.splitlines()[-1]


def test_the_labels_are_listed_with_their_numbers(start_server, run_extract):
    documents = [*make_documents(7), {"_id": 8, "n_labels": ["暴恐", "其他"]}, {"_id": 9}, {"_id": 10, "n_labels": 3}]
    port = start_server(documents)

    listed = run_extract("--port", port, "--database", "texts", "--list-labels")
    as_json = run_extract("--port", port, "--database", "texts", "--list-labels", "--json")

    counts = {"暴恐": 3, "正常": 3, "色情低俗": 2, "(none)": 1, "3": 1, "其他": 1}
    assert json.loads(as_json.stdout) == counts
    assert [line.split() for line in listed.stdout.splitlines()[2:]] == [[name, str(n)] for name, n in counts.items()]


def test_a_short_label_ends_the_extraction_unless_it_is_accepted(start_server, run_extract, tmp_path):
    port = start_server(make_documents(30))
    wanted = ["--port", port, "--database", "texts", "-l", "正常:12,暴恐:4", "--random", "-o", "out.csv"]

    done = run_extract(*wanted)
    accepted = run_extract(*wanted, "--on_shortage", "accept", "--json")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: 正常: 12 rows asked, 10 found; ask for fewer, or pass --on_shortage rescale|upsample|accept"
    )
    labels = json.loads(accepted.stdout)["labels"]
    assert [labels[name]["written"] for name in ("正常", "暴恐")] == [{"train": 10}, {"train": 4}]
    assert "warning: 正常: 12 rows asked, 10 found (--on_shortage accept)" in accepted.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-l", "正常:5"], "output: none is named; give -o out.xlsx, or see which labels there are: --list-labels"),
        (
            ["-o", "out.csv"],
            'labels: none is named; give -l "正常:15000,暴恐:6000", or see which there are: --list-labels',
        ),
        (["-l", "正常", "-o", "out.csv"], "labels: '正常' does not say how many; write 正常:15000,暴恐:6000"),
        (["-l", "正常:x", "-o", "out.csv"], "labels: 正常:x: 'x' is no number of rows; write 正常:15000"),
        (["-l", "a:1,a:2", "-o", "out.csv"], "labels: 'a' is given twice"),
        (["-l", "a:1,b:0", "-o", "out.csv"], "labels: b:0 asks for no rows; leave it out, or write b:15000"),
        (["-l", "a:1", "-o", "out.txt"], "out.txt: cannot write .txt; name one of: .jsonl, .csv, .xlsx"),
        (
            ["-l", "a:1", "-o", "out.csv", "--splits", "train:1"],
            "splits: rows are dealt out to splits at random; add --random",
        ),
        (
            ["-l", "a:1", "-o", "out.csv", "--splits", "train:.8,test:.1"],
            "splits: the shares add up to 0.9, expected 1",
        ),
        (
            ["-l", "a:1", "-o", "out.csv", "--splits", "train:.8,tset:.2"],
            "splits: 'tset' is none of train, validation, test; did you mean 'test'?",
        ),
        (
            ["-l", "a:2000000", "-o", "out.xlsx"],
            "out.xlsx: 2,000,000 rows and a header, an Excel sheet holds 1,048,576; name a .csv or .jsonl file",
        ),
        (["-l", "a:1", "-o", "out.csv"], "database: none is named; give --database"),
        (
            ["--host", "a", "--mongo_uri", "mongodb://b", "--list-labels"],
            "mongo_uri and host: both say where the server is; give one",
        ),
        (
            ["--mongo_uri", "http://b", "--list-labels"],
            "mongo_uri: not a MongoDB URI; expected mongodb://USER@HOST:PORT/DATABASE?options",
        ),
        (
            ["--mongo_uri_file", "nowhere", "--list-labels"],
            "nowhere: cannot be read (No such file or directory); give a file that holds one MongoDB URI",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, run_extract):
    done = run_extract(*arguments)

    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (2, "", f"error: {message}")


def test_a_collection_that_is_not_there_is_named_with_those_that_are(start_server, run_extract):
    port = start_server(make_documents(3))

    done = run_extract("--port", port, "--database", "texts", "--collection", "row", "--list-labels")

    assert done.stderr.splitlines()[-1] == (
        f"error: collection 'row': database 'texts' at mongodb://localhost:{port} has rows"
    )


def test_an_output_that_another_command_writes_or_that_cannot_be_written_is_one_line(
    start_server, run_extract, tmp_path
):
    port = start_server(make_documents(30))
    wanted = ["--port", port, "--database", "texts", "-l", "正常:5", "-o"]
    (tmp_path / "file").touch()
    with held(lock_of(tmp_path / "out.csv"), "x", "y"):
        busy = run_extract(*wanted, "out.csv")
    barred = run_extract(*wanted, "file/out.csv")
    assert [done.returncode for done in (busy, barred)] == [2, 2]
    assert busy.stderr.splitlines()[-1].startswith("error: out.csv: another command is writing it (process ")
    line = "error: file: cannot be written to (File exists); free it, or name another place"
    assert barred.stderr.splitlines()[-1] == line
    assert not (tmp_path / "out.csv").exists()
