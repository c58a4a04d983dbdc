"""Settings of inference.py and chat.py. Model and prompt come from the run folder and have no second default here."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sft.config.decoding import Decoding, DecodingSettings, Preset
from sft.config.layers import ResultSettings, write_pairs
from sft.config.tuned import TunedSettings

MAX_SEQ_LENGTH = Field(
    None,
    ge=16,
    description="most tokens of question and answer together; the middle of longer texts is left out; default: as "
    "trained, which is what evaluate.py measured",
)
OR_UNTUNED = ", or talk to an untuned model with --model embedded"


TOOLS = Field(
    None,
    description="JSON file with the functions that the model may call, as OpenAI describes them; its calls are shown, "
    "and nothing is carried out",
)


class TalkSettings(TunedSettings, DecodingSettings):
    """Whom to talk to and how it answers; what inference.py, chat.py and serve.py share."""


class InferenceSettings(TalkSettings, ResultSettings):
    """Answer one text (streamed), a file of texts, or line after line."""

    prog: ClassVar[str] = "inference.py"
    examples: ClassVar[tuple[str, ...]] = (
        'python inference.py --text "What is LoRA?"',
        "python inference.py --task sentiment --file reviews.csv --output answers.jsonl",
        "python inference.py --demo",
    )
    common: ClassVar[tuple[str, ...]] = (
        "text", "file", "output", "task", "run", "model", "interactive", "demo", "max_new_tokens", "json_output",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {"text": "Question"}
    texts: ClassVar[tuple[str, ...]] = ("text", "input", "system_prompt")
    verbatim: ClassVar[tuple[str, ...]] = ("text", "input")

    text: str | None = Field(
        None, description="the text to answer; default: standard input, or else an example of the task"
    )
    file: Path | None = Field(
        None, description="answer every row of this file (JSONL, JSON, CSV, TSV, Parquet); needs --output"
    )
    output: Path | None = Field(
        None, description="JSONL file for the answers to --file, in its order; a file that was begun is continued"
    )
    on_bad_row: Literal["error", "quarantine"] = Field(
        "error",
        description="what to do with a row of --file that cannot be used: stop, or write a line with the reason",
    )
    interactive: bool = Field(False, description="answer each line you type on its own, until exit or quit")
    demo: bool = Field(False, description="answer a handful of rows that the run was not trained on")
    task: str | None = Field(
        None,
        description="task whose prompt is used: instruct, sentiment, ner, news, ...; default: the task the run was "
        "trained on, or instruct if there were several",
    )
    input: str | None = Field(None, description="task instruct: additional information below the instruction")
    category: tuple[str, ...] = Field((), description="task news: the labels to choose from, separated by commas")
    tools: Path | None = TOOLS
    max_seq_length: int | None = MAX_SEQ_LENGTH
    columns: tuple[str, ...] = Field(
        (), description="columns of --file: text=review; default: as the run's own rows called them"
    )
    encoding: str | None = Field(None, description="encoding of a --file that is not UTF-8: gb18030, cp1252, ...")
    decoding: Preset = Field(
        "precise",
        description="precise: greedy, as evaluate.py measures; chat: sampled, with penalties; labels are scored either "
        "way",
    )

    _write_pairs = field_validator("columns", mode="before")(write_pairs)

    @model_validator(mode="after")
    def _one_question(self) -> "InferenceSettings":
        given = [
            f"--{name}" for name in ("text", "file", "interactive", "demo") if getattr(self, name) not in (None, False)
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; keep one of them")
        if (self.file is None) != (self.output is None):
            raise ValueError("--file and --output belong together: the rows to answer, and the JSONL for the answers")
        if self.file is not None and self.output is not None and self.file.absolute() == self.output.absolute():
            raise ValueError(f"--output {self.output} is the file to answer; name another")
        if self.output is not None and self.output.exists() and not self.output.is_file():
            raise ValueError(f"--output {self.output} is no regular file; name one")
        if self.file is not None and (self.input is not None or self.category or self.tools):
            raise ValueError("--input, --category and --tools go with one text; write them into the rows of --file")
        if self.file is None and self.columns:
            raise ValueError("--columns says what a --file calls its fields; leave it out")
        if self.demo and self.tools:
            raise ValueError("--tools goes with one text; the rows of --demo bring their own")
        return self

    def columns_after(self, of_run: tuple[str, ...]) -> dict[str, str]:
        """The column of each field: those that the run's own rows had, and over them --columns."""
        return dict(pair.split("=", 1) for pair in (*of_run, *self.columns))

    @property
    def made_from(self) -> dict[str, object]:
        """The settings that an answer depends on."""
        named: dict[str, object] = {"columns": list(self.columns)} if self.columns else {}
        return self.decoding_of(self.decoding).model_dump() | named

    @property
    def task_name(self) -> str | None:
        """The requested task: chat if tools are offered, since no other task has tools."""
        return self.task or ("chat" if self.tools else None)


class ChatSettings(TalkSettings):
    """Talk with a model that remembers the conversation, in a terminal or through a pipe."""

    prog: ClassVar[str] = "chat.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python chat.py",
        "python chat.py --model embedded --temperature 0.5",
        "printf 'hello\\nexit\\n' | python chat.py",
    )
    common: ClassVar[tuple[str, ...]] = (
        "run", "model", "temperature", "top_p", "max_new_tokens", "decoding", "markdown", "chats_dir",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {"markdown": "Screen"}

    decoding: Preset = Field("chat", description="chat: sampled, with penalties; precise: greedy")
    tools: Path | None = TOOLS
    markdown: bool = Field(True, description="format Markdown in answers (headings, lists, tables, code) in a terminal")
    chats_dir: Path = Field(Path("outputs/chats"), description="folder of saved conversations and of the current one")

    def choose_decoding(self) -> Decoding:
        """How answers are drawn: --decoding, without its penalties where tools are offered: calls repeat words."""
        decoding = self.decoding_of(self.decoding)
        unsaid = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0} if self.tools else {}
        return decoding.model_copy(update={name: off for name, off in unsaid.items() if getattr(self, name) is None})
