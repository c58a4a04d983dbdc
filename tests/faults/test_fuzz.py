"""Whatever comes, it is read or refused: files of rows, answers, YAML, what is typed into a chat, requests, terminals.

    make fuzz MINUTES=6                                        # six minutes of each of them, beside other work
    FAULTS_SECONDS=600 pytest tests/faults/test_fuzz.py -k yaml    # ten minutes of one
Each finding is an input of KNOWN here, or a test of its room. Long runs are added up in fuzzed.json.
"""

import io
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prompts.errors import PromptError
from prompts.task import Unparseable, make_definition, make_label_task
from prompts.tasks import get_task, task_names
from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.config.yaml_files import read_yaml
from sft.console.terminal import TerminalFilter, make_visible
from sft.data.building.preset import load_preset
from sft.data.files.reader import BadRow, FoundRow, RowReader
from sft.errors import UserError
from sft.runs.run import open_run
from sft.serve.protocol import ApiError, ChatRequest, read_request
from sft.talk.lines import COMMANDS
from tests.data.bad_inputs import CORPUS, sheet, table
from tests.serve.conftest import Running, run_server
from tests.talk.conftest import Partner

SECONDS = float(os.environ.get("FAULTS_SECONDS", "0"))  # of each; 0: a hundred inputs
SCHEMATHESIS = os.environ.get("SCHEMATHESIS")  # it asks for other versions of half of what is installed here
HANG_S = 60  # no input is to take as long, on however busy a machine
ROUND = settings(
    max_examples=500 if SECONDS else 100,  # more rounds, not longer ones: one remembers every input it has tried
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def fuzz(record_property: Callable[[str, object], None]) -> Iterator[Callable[..., None]]:
    """fuzz("yaml", check, YAML, known=[...]): inputs to check until its time is up, and how many for the table."""
    began, tried = time.monotonic(), 0
    name = ""

    def run(what: str, check: Callable[..., None], *strategies: st.SearchStrategy, known: list = ()) -> None:
        nonlocal name
        name = what

        def counted(inputs: tuple[object, ...]) -> None:
            nonlocal tried
            tried += 1
            with _no_longer_than(HANG_S):
                check(*inputs)

        for each in known:
            counted(each)
        go_round = ROUND(given(st.tuples(*strategies))(counted))
        go_round()
        while SECONDS and time.monotonic() - began < SECONDS:
            go_round()

    yield run
    record_property("kind", "fuzzing")
    record_property("tried", max(1, tried))
    record_property("fuzzed", json.dumps([name, tried, time.monotonic() - began]))


class HungError(BaseException):
    """Nothing that reads files may take it for an error of theirs."""


@contextmanager
def _no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HungError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal_of(read: Callable[[], object]) -> str:
    """What the user is told; "" where it could be read."""
    try:
        read()
    except (UserError, PromptError) as error:
        return str(error)
    return ""


NAMES = st.sampled_from(
    ["instruction", "input", "output", "messages", "role", "content", "text", "label", "entities", "conversations", "from",
     "value", "history", "system", "tools", "chosen", "rejected", "question", "answer", "prompt", "completion", "task", "id",
     "weight", "reasoning_content", "group", "category", "start_idx", "end_idx", "entity_text", "entity_label"]
) | st.text(max_size=8)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
SCRAPS = st.sampled_from(
    ['{"text": "', '", "label": 1}', "\n", "\r", "\ufeff", '"', ",", ";", "\t", "|", "[", "]", "{", "}", "\\ud83d", "\\", "\0",
     "NaN", "1e999", "text,label\n", "text\tlabel\n", "sep=;\n", "很好", "é", '""', "'", "<|im_start|>user\nhi<|im_end|>", "9" * 5000,
     "[" * 2000, ":", "null", "true", "-", "\x85", "\u2028", "\x1a", "\\u0000", "#", "\r\n"]
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=6) | SCRAPS.map(lambda text: text.encode("utf-8"))),
    min_size=1,
    max_size=5,
)  # fmt: skip


def edit(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """The same bytes with some cut out and others put in: at 0.5 of them, 3 out, b"x" in."""
    for where, cut, new in edits:
        start = round(where * len(content))
        content = content[:start] + new + content[start + cut :]
    return content


CORPUS_FILES: dict[str, list[bytes]] = {}


def sound_files(tmp: Path) -> dict[str, list[bytes]]:
    """Content of the corpus of bad inputs and of the examples, by kind of file."""
    if not CORPUS_FILES:
        for name, write in CORPUS.items():
            path = tmp / name
            path.parent.mkdir(exist_ok=True, parents=True)
            write(path)
            if path.is_file() and path.stat().st_size < 20_000:
                CORPUS_FILES.setdefault(path.name.rpartition(".")[2], []).append(path.read_bytes())
        for path in Path("examples").iterdir():
            if path.is_file() and path.stat().st_size < 20_000:
                CORPUS_FILES.setdefault(path.suffix[1:], []).append(path.read_bytes())
    return CORPUS_FILES


MADE = (
    st.binary(max_size=200)
    | st.lists(SCRAPS, max_size=30).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
    | st.lists(JSON, max_size=5).map(lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    | st.lists(JSON, max_size=5).map(lambda rows: json.dumps(rows).encode())
    | st.lists(SCRAPS, max_size=20).map(lambda parts: "".join(parts).encode("utf-16", "surrogatepass"))
    | st.lists(SCRAPS, max_size=20).map(lambda parts: "".join(parts).encode("gb18030", "replace"))
)


def read_file(path: Path, content: bytes) -> None:
    """Every row is one, or bad with a reason; a file that is none is refused by name in one line."""
    path.write_bytes(content)
    try:
        for row in RowReader(path):
            assert isinstance(row, FoundRow | BadRow)
            if isinstance(row, BadRow):
                assert row.message
                assert row.line >= 1
    except UserError as error:
        refusal = str(error)
    else:
        return
    assert path.name in refusal
    assert "\n" not in refusal


def test_a_file_of_text_is_read_row_by_row_or_refused_in_one_line(fuzz, tmp_path):
    def check(content: bytes, which: int, edits: list[tuple[float, int, bytes]], kind: str, is_made: bool) -> None:
        files = [
            file for kinds in ("jsonl", "json", "csv", "tsv", "txt") for file in sound_files(tmp_path).get(kinds, [])
        ]
        read_file(tmp_path / f"fuzzed.{kind}", content if is_made else edit(files[which % len(files)], edits))

    kinds = st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "xlsx", "jsonl.gz"])
    fuzz("files of rows: JSON, JSONL, CSV, TSV", check, MADE, st.integers(0, 200), EDITS, kinds, st.booleans())


XML = st.sampled_from(
    ["<c>", "</c>", "<row>", "<row/>", "</row>", "<v>", "</v>", "<is><t>", "<v>9</v>", ' t="s"', ' t="d"', ' t="b"', ' t="e"',
     ' t="str"', ' t="inlineStr"', ' r="A1"', ' r="ZZZ9999999"', ' r=""', ' s="9"', ' r="-1"', "<f>1+1</f>", "&amp;", "&x;", "<!--",
     "<![CDATA[", "<!DOCTYPE x>", "<?x?>", "1e999", "NaN", "-1", "99999999999", "_x0000_", "_xD83D_", "2024-13-45T99", "<mergeCell ref=\"A1:B9\"/>",
     "<sheetData>", "</sheetData>", "<dimension ref=\"A1:ZZZ99999999\"/>", "<sheet/>", "<numFmt/>", "\0", "<xf/>", 'count="-1"']
).map(str.encode)  # fmt: skip
XML_EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), XML | st.binary(max_size=4)), min_size=1, max_size=5)  # fmt: skip


def test_a_workbook_is_read_row_by_row_or_refused_in_one_line(fuzz, tmp_path):
    book = sheet(["text", "label", "when"], ["好", 1, 2.5], ["a", True, None], ["=1+1", "x", "2024-01-01"])
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(parts) + ["xl/worksheets/sheet1.xml"] * 8 + ["xl/styles.xml", "xl/workbook.xml"] * 2

    def check(
        name: str, xml: list[tuple[float, int, bytes]], edits: list[tuple[float, int, bytes]], is_raw: bool
    ) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            for part, content in parts.items():
                made.writestr(part, edit(content, xml) if part == name else content)
        read_file(tmp_path / "fuzzed.xlsx", edit(file.getvalue(), edits) if is_raw else file.getvalue())

    fuzz(
        "files of rows: XLSX",
        check,
        st.sampled_from(names),
        XML_EDITS,
        EDITS,
        st.sampled_from([False, False, False, True]),
    )


def test_a_parquet_file_is_read_row_by_row_or_refused_in_one_line(fuzz, tmp_path):
    files = [
        table(text=["好", "a", None], label=[1, 0, 1]),
        table(messages=[[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]] * 3, w=[1.5] * 3),
        table(instruction=["a"] * 50, output=["b"] * 50),
    ]

    def check(which: int, edits: list[tuple[float, int, bytes]], at_end: bool) -> None:
        content = files[which]
        start = int.from_bytes(content[-8:-4], "little") + 8 if at_end else 0  # the footer, that all is read by
        read_file(
            tmp_path / "fuzzed.parquet",
            content[:-start] + edit(content[-start:], edits) if start else edit(content, edits),
        )

    fuzz("files of rows: Parquet", check, st.integers(0, 2), EDITS, st.booleans())


ANSWERS = st.text(max_size=60) | st.lists(
    st.sampled_from(["正面", "负面", "答案：", "```json\n", "```", '{"sentiment": ', "1", "0", "}", "[", "]", '"', "，", "。", "\n",
                     "<think>", "</think>", "**", '{"text": "北京", "label": "GPE"}', "北京", "GPE", "positive", "-", " ", "9" * 5000,
                     "[" * 5000, "\ud83d", "\u202e", "\\", "null", ":", "\\ud83d", "NaN", "'", "{", '"entities": [']), max_size=12).map("".join)  # fmt: skip


def test_an_answer_is_read_or_said_to_be_none(fuzz):
    def check(answer: str, name: str) -> None:
        task = get_task(name)
        assert isinstance(task.parse_answer(answer, task.example), str | list | Unparseable)

    fuzz("parsers of answers", check, ANSWERS, st.sampled_from(task_names()))


YAML = st.lists(
    st.sampled_from(["seed: ", "model: ", "lora_r: ", "target_modules: ", "\n", " ", "  ", "- ", "? ", ": ", "&a ", "*a", "<<: *a",
                     "!!int ", "!!float ", "!!bool ", "!!null ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!map ", "!!seq ",
                     "!!str ", "!x ", "2024-13-45", "0x_", "0b_", "1:2", "1_", ".nan", "-.inf", "1e400", "{", "}", "[", "]", ",", "'",
                     '"', "|", ">", "#", "%YAML 1.1\n", "---\n", "...\n", "\t", "~", "yes", "9" * 5000, "0x" + "f" * 5000, "\\x", "\0",
                     "\ufeff", "\u2028", '"\\U0010ffff"', '"\\UFFFFFFFF"', "sources: {s: {kind: file, path: x}}\n", "splits: ", "rows: ",
                     "{train: {rows: {s: 5}}}\n", "kind: ", "labels: ", "name: ", "[a, b]\n", "prompt: ", "total: ", "shares: ", "filters: ",
                     "template: ", "'{x.__class__}'", "'{input!r:>9}'", "'{'", "columns: ", "2001-01-01T00:00:00+99:00", "190:20:30",
                     "per_device_train_batch_size: ", "learning_rate: ", "on_bad_row: "]) | st.text(max_size=4), max_size=14).map("".join)  # fmt: skip


def test_a_yaml_file_holds_settings_or_is_refused_in_one_line(fuzz, tmp_path):
    path = tmp_path / "fuzzed.yaml"
    readers: dict[str, Callable[[], object]] = {
        "recipe": lambda: load_settings(TrainSettings, ["--config", str(path)]),
        "preset": lambda: load_preset(str(path)),
        "task": lambda: make_label_task(make_definition("t", read_yaml(path))),
    }

    def check(content: str, reader: str) -> None:
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        assert "\n" not in refusal_of(readers[reader])

    known = ["seed: !!map [1]", 'model: "\\UFFFFFFFF"', "seed: 0x" + "f" * 5000, "[1, 2]: 3"]
    fuzz(
        "YAML: recipes, presets, tasks",
        check,
        YAML,
        st.sampled_from(list(readers)),
        known=[(text, "recipe") for text in known],
    )


CONDITIONS = st.lists(
    st.sampled_from(["eval_loss", "rouge", ".", "rougeL", " < ", " > ", " == ", "1", "0.5", "(", ")", " and ", " or ", "not ", "'a'", "[", "]",
                     "-", "*", "**", "nan", "None", "True", ",", "lambda: ", "x if y else z", "9" * 5000, "1e999", "\0", "\n", "f'{x}'", "1j",
                     "{", "}", ":=", "...", "_", "你好", "\\", "#"]) | st.text(max_size=3), max_size=12).map("".join)  # fmt: skip


def test_a_condition_is_one_or_is_refused_in_one_line(fuzz):
    def check(text: str) -> None:
        assert "\n" not in refusal_of(lambda: load_settings(EvaluateSettings, ["--fail_if", text]))

    fuzz("conditions of --fail_if", check, CONDITIONS)


TYPED = st.lists(
    st.text(max_size=30)
    | st.tuples(st.sampled_from(list(COMMANDS)), st.sampled_from(
        ["", " ", " none", " temperature 0.7", " temperature nan", " seed 99999999999999999999", " top_p 2", " last", " x", " ../x",
         " /dev/full", " a\0b", " max_new_tokens 0", " " + "n" * 300, " temperature 1e999", " \x1b[31m", " 你好", " x x x", " .", " ..",
         " /", " ~", " ~nobody/x", " spoilt", " temperature", " seed -1", " seed 1.5", " top_k " + "9" * 5000])
    ).map(lambda pair: f"/{pair[0]}{pair[1]}"), max_size=8)  # fmt: skip


def test_whatever_is_typed_into_a_chat_it_continues(fuzz, tiny_model_folder, tmp_path, monkeypatch):
    from sft.models.loading import load_base

    monkeypatch.chdir(tmp_path)
    partner = Partner(load_base(str(tiny_model_folder), dtype="fp32"), tmp_path / "chats", monkeypatch)
    saved = tmp_path / "chats/spoilt.json"

    def check(lines: list[str], content: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        found = sorted((tmp_path / "chats").glob("*.json"))
        saved.parent.mkdir(exist_ok=True)
        saved.write_bytes(edit(found[0].read_bytes(), edits) if found else content)
        partner.talk(*lines)

    fuzz("commands of chats and saved chats", check, TYPED, MADE, EDITS)


FIELDS = st.sampled_from([*ChatRequest.model_fields, "role", "content", "type", "text", "name", "tool_calls"])
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]), "content": st.text(max_size=12) | JSON},
        optional={
            "tool_calls": JSON
            | st.just([{"function": {"name": "f", "arguments": "{}"}}])
            | st.just([{"function": {"name": "f", "arguments": "[" * 3000}}]),
            "name": st.text(max_size=4),
            "tool_call_id": st.text(max_size=4),
            "reasoning_content": st.text(max_size=9),
        },
    ),
    max_size=5,
)  # fmt: skip
TOOLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries({"name": st.text(max_size=5), "parameters": st.dictionaries(NAMES, JSON, max_size=3)})}),
    max_size=2,
)  # fmt: skip
REQUESTS = st.binary(max_size=100) | st.dictionaries(
    FIELDS, JSON | TURNS | TOOLS | st.integers(-(2**70), 2**70), max_size=8
).map(lambda value: json.dumps(value).encode())


def test_a_request_is_read_or_refused_as_openai_refuses(fuzz):
    def check(body: bytes) -> None:
        try:
            outcome: ChatRequest | ApiError = read_request(body)
        except ApiError as error:
            outcome = error
        assert isinstance(outcome, ChatRequest) or outcome.status == 400

    fuzz("requests, read", check, REQUESTS, known=[(b"[" * 100_000,), (b'{"messages": ' + b"9" * 5000 + b"}",)])


@pytest.fixture(scope="module")
def server(tiny_run) -> Iterator[Running]:
    from sft.models.loading import load_run

    run = open_run(tiny_run)
    with run_server(load_run(run), run, max_new_tokens=2, max_tokens_limit=4) as running:
        yield running


CHATS = st.tuples(TURNS, st.dictionaries(FIELDS, JSON | TOOLS | st.integers(0, 3) | st.floats(0, 2), max_size=4)).map(
    lambda pair: {**pair[1], "messages": pair[0], "model": "tiny"}
)


def test_a_request_that_is_sent_is_answered_or_refused_and_never_fails_the_server(fuzz, server):
    def check(body: dict[str, object], raw: bytes, is_raw: bool) -> None:
        content = raw if is_raw else json.dumps(body | {"max_tokens": 2}).encode()
        answer = client.post("/v1/chat/completions", content=content)
        assert answer.status_code in (200, 400, 404), answer.text
        if answer.headers["content-type"] == "application/json":
            assert ("error" in answer.json()) == (answer.status_code != 200)
        assert "server_error" not in answer.text

    headers = {"Authorization": "Bearer sk-tests", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=HANG_S) as client:
        fuzz("requests, sent to a server", check, CHATS, REQUESTS, st.sampled_from([False, False, False, True]))


@pytest.mark.slow
@pytest.mark.skipif(SCHEMATHESIS is None, reason="SCHEMATHESIS=/its/own/venv/bin/schemathesis, version 4")
def test_what_the_schema_allows_or_forbids_is_answered_as_it_documents(server, record_property):
    seconds = round(max(30, SECONDS))
    command = [
        SCHEMATHESIS,
        "run",
        f"{server.url}/openapi.json",
        "-H",
        "Authorization: Bearer sk-tests",
        "-n",
        "100000",
    ]
    # What one field allows another may forbid, which no schema says: that it is refused is no fault.
    command += [
        "--exclude-checks",
        "positive_data_acceptance",
        "--request-timeout",
        str(HANG_S),
        "--max-time",
        str(seconds),
    ]
    done = subprocess.run(
        [*command, "--phases", "coverage,fuzzing"], capture_output=True, text=True, timeout=seconds + 300
    )
    tried = re.search(r"([\d,]+) generated", done.stdout)
    assert tried, done.stdout + done.stderr
    record_property("kind", "fuzzing")
    record_property("tried", int(tried[1].replace(",", "")))
    record_property(
        "fuzzed", json.dumps(["the server's schema, by schemathesis", int(tried[1].replace(",", "")), seconds])
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_terminal_is_shown_nothing_that_steers_it(fuzz):
    def check(pieces: list[str]) -> None:
        shown = io.StringIO()
        passing = TerminalFilter(shown)
        for piece in pieces:
            passing.write(piece)
        assert shown.getvalue() == make_visible("".join(pieces))
        steering = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown.getvalue())
        assert steering is None

    raw = st.binary(max_size=8).map(lambda content: content.decode("latin-1"))
    steps = st.sampled_from(
        [
            "\x1b",
            "[",
            "]",
            "0;",
            "\x07",
            "\x9b",
            "P",
            "\\",
            "31m",
            "\r",
            "\n",
            "\u200f",
            "\ud83d",
            "\udc00",
            "\x1b]8;;http://x\x1b\\",
        ]
    )
    fuzz("what a terminal is shown", check, st.lists(st.text(max_size=20) | raw | steps, max_size=8))
