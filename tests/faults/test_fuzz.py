"""Whatever comes, it is read or refused: files of rows, answers, YAML, what is typed into a chat, requests, terminals.

    FAULTS_SECONDS=600 pytest tests/faults/test_fuzz.py -k yaml       # ten minutes of one of them
Each finding is an @example here, or a test of its room.
"""

import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from prompts.task import Unparseable
from prompts.tasks import get_task, task_names
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.config.yaml_files import read_yaml
from sft.console.terminal import TerminalFilter, make_visible
from sft.data.files.reader import BadRow, FoundRow, RowReader
from sft.errors import UserError
from sft.serve.protocol import ApiError, ChatRequest, read_request
from sft.talk.lines import COMMANDS
from tests.talk.conftest import Partner

SECONDS = float(os.environ.get("FAULTS_SECONDS", "0"))  # of each; 0: a hundred examples
LEISURELY = settings(
    max_examples=10**9 if SECONDS else 100,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
began: dict[str, float] = {}
examples: dict[str, int] = {}


def is_over(name: str) -> bool:
    """Count an example; whether the time of this kind is up."""
    examples[name] = examples.get(name, 0) + 1
    return bool(SECONDS) and time.monotonic() - began.setdefault(name, time.monotonic()) > SECONDS


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]):
    """Tell the table how many examples were tried."""
    examples.clear()
    yield
    record_property("kind", "fuzzing")
    record_property("tried", max(1, sum(examples.values())))


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
     "NaN", "1e999", "text,label\n", "text\tlabel\n", "sep=;\n", "很好", "é", '""', "'", "<|im_start|>user\nhi<|im_end|>"]
)  # fmt: skip
FILES = (
    st.binary(max_size=200)
    | st.lists(SCRAPS, max_size=30).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
    | st.lists(JSON, max_size=5).map(lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    | st.lists(JSON, max_size=5).map(lambda rows: json.dumps(rows).encode())
    | st.lists(SCRAPS, max_size=20).map(lambda parts: "".join(parts).encode("utf-16", "surrogatepass"))
    | st.lists(SCRAPS, max_size=20).map(lambda parts: "".join(parts).encode("gb18030", "replace"))
)


@LEISURELY
@given(content=FILES, kind=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "xlsx", "jsonl.gz"]))
def test_a_file_of_rows_is_read_row_by_row_or_refused_in_one_line(content: bytes, kind: str, tmp_path_factory):
    if is_over("rows"):
        return
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{kind}"
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


ANSWERS = st.text(max_size=60) | st.lists(
    st.sampled_from(["正面", "负面", "答案：", "```json\n", "```", '{"sentiment": ', "1", "0", "}", "[", "]", '"', "，", "。", "\n",
                     "<think>", "</think>", "**", '{"text": "北京", "label": "GPE"}', "北京", "GPE", "positive", "-", " ", "9" * 5000,
                     "[" * 5000, "\ud83d", "\u202e"]), max_size=12).map("".join)  # fmt: skip


@LEISURELY
@given(answer=ANSWERS, name=st.sampled_from(task_names()))
def test_an_answer_is_read_or_said_to_be_none(answer: str, name: str):
    if is_over("answers"):
        return
    task = get_task(name)
    value = task.parse_answer(answer, task.example)
    assert isinstance(value, str | list | Unparseable)


YAML = st.lists(
    st.sampled_from(["seed: ", "model: ", "lora_r: ", "target_modules: ", "\n", " ", "  ", "- ", "? ", ": ", "&a ", "*a", "<<: *a",
                     "!!int ", "!!float ", "!!bool ", "!!null ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!map ", "!!seq ",
                     "!!str ", "!x ", "2024-13-45", "0x_", "0b_", "1:2", "1_", ".nan", "-.inf", "1e400", "{", "}", "[", "]", ",", "'",
                     '"', "|", ">", "#", "%YAML 1.1\n", "---\n", "...\n", "\t", "~", "yes", "9" * 5000, "0x" + "f" * 5000, "\\x", "\0",
                     "\ufeff", "\u2028", '"\\U0010ffff"', '"\\UFFFFFFFF"']) | st.text(max_size=4), max_size=14).map("".join)  # fmt: skip


@LEISURELY
@given(content=YAML)
@example(content="seed: !!map [1]")
@example(content='model: "\\UFFFFFFFF"')
@example(content="seed: 0x" + "f" * 5000)
@example(content="[1, 2]: 3")
def test_a_yaml_file_holds_settings_or_is_refused_in_one_line(content: str, tmp_path_factory):
    if is_over("yaml"):
        return
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    try:
        read_yaml(path)
        load_settings(TrainSettings, ["--config", str(path)])
    except UserError as error:
        refusal = str(error)
    else:
        return
    assert "\n" not in refusal


TYPED = st.lists(
    st.text(max_size=30)
    | st.tuples(st.sampled_from(list(COMMANDS)), st.sampled_from(
        ["", " ", " none", " temperature 0.7", " temperature nan", " seed 99999999999999999999", " top_p 2", " last", " x", " ../x",
         " /dev/full", " a\0b", " max_new_tokens 0", " " + "n" * 300, " temperature 1e999", " \x1b[31m", " 你好"])
    ).map(lambda pair: f"/{pair[0]}{pair[1]}"), max_size=8)  # fmt: skip


@LEISURELY
@given(lines=TYPED)
def test_whatever_is_typed_into_a_chat_it_goes_on_to_its_end(lines: list[str], fuzzed_partner: Partner, tmp_path):
    if is_over("chat"):
        return
    fuzzed_partner.talk(*lines)


@pytest.fixture
def fuzzed_partner(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Partner:
    """A chat with scripted answers, in a folder of its own."""
    from sft.models.loading import load_base

    monkeypatch.chdir(tmp_path)
    return Partner(load_base(str(tiny_model_folder), dtype="fp32"), tmp_path / "chats", monkeypatch)


FIELDS = st.sampled_from([*ChatRequest.model_fields, "role", "content", "type", "text", "name", "tool_calls"])
REQUESTS = st.binary(max_size=100) | st.dictionaries(
    FIELDS, JSON | st.just([{"role": "user", "content": "hi"}]) | st.integers(-(2**70), 2**70), max_size=8
).map(lambda value: json.dumps(value).encode())


@LEISURELY
@given(body=REQUESTS)
@example(body=b"[" * 100_000)
@example(body=b'{"messages": ' + b"9" * 5000 + b"}")
def test_a_request_is_read_or_refused_as_openai_refuses(body: bytes):
    if is_over("protocol"):
        return
    try:
        outcome: ChatRequest | ApiError = read_request(body)
    except ApiError as error:
        outcome = error
    assert isinstance(outcome, ChatRequest) or outcome.status == 400


@LEISURELY
@given(pieces=st.lists(st.text(max_size=20) | st.binary(max_size=8).map(lambda raw: raw.decode("latin-1")), max_size=8))
def test_a_terminal_is_shown_nothing_that_steers_it(pieces: list[str]):
    if is_over("terminal"):
        return
    shown = io.StringIO()
    passing = TerminalFilter(shown)
    for piece in pieces:
        passing.write(piece)
    assert shown.getvalue() == make_visible("".join(pieces))
    steering = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown.getvalue())
    assert steering is None
