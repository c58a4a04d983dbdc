"""Settings of inference.py and chat.py. Model and prompt come from the run folder and have no second default here."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sft.config.decoding import DecodingSettings, Preset
from sft.config.layers import ResultSettings

MAX_SEQ_LENGTH = Field(
    None,
    ge=16,
    description="tokens that question and answer may have, the middle of longer texts is left out; default: as "
    "trained, so that the model is asked as evaluate.py measured it",
)
OR_UNTUNED = ", or talk to an untuned model with --model embedded"


class TalkSettings(DecodingSettings):
    """Whom to talk to; what inference.py and chat.py share."""

    run: str | None = Field(None, description="run folder; default outputs/latest")
    model: str | None = Field(
        None, description="talk to this untuned model instead of a run: embedded, a hub id, a folder, or auto"
    )
    allow_mismatch: bool = Field(False, description="go on where model, tokenizer or prompt differ from training")
    trust_remote_code: bool = Field(
        False, description="run model code that comes with the weights; a run trained with it needs this flag again"
    )

    @model_validator(mode="after")
    def _one_partner(self) -> "TalkSettings":
        if self.run is not None and self.model is not None:
            raise ValueError("run and model are both given; keep --run (a tuned model) or --model (an untuned one)")
        return self


class InferenceSettings(TalkSettings, ResultSettings):
    """Answer one text (streamed), a file of texts, or line after line."""

    prog: ClassVar[str] = "inference.py"
    texts: ClassVar[tuple[str, ...]] = ("text", "input")
    verbatim: ClassVar[tuple[str, ...]] = ("text", "input")

    text: str | None = Field(None, description="what to answer; default: standard input, else an example of the task")
    file: Path | None = Field(
        None, description="answer every row of this file (JSONL, JSON, CSV, TSV, Parquet); needs --output"
    )
    output: Path | None = Field(
        None, description="JSONL for the answers to --file, in its order; begun already, it is gone on with"
    )
    on_bad_row: Literal["error", "quarantine"] = Field(
        "error", description="--file: a row that cannot be asked ends the command, or gets a line that says why"
    )
    interactive: bool = Field(False, description="answer each line that is typed, by itself, until exit or quit")
    demo: bool = Field(False, description="answer a handful of rows that the run was not trained on")
    task: str | None = Field(
        None,
        description="whose prompt the text is put into: instruct, sentiment, ner, news, ...; default: the task the run "
        "was trained on, instruct where there are several",
    )
    input: str | None = Field(None, description="task instruct: supplementary information below the instruction")
    category: tuple[str, ...] = Field((), description="task news: the labels to choose from, separated by commas")
    max_seq_length: int | None = MAX_SEQ_LENGTH
    encoding: str | None = Field(None, description="of a --file that is not UTF-8: gb18030, cp1252, ...")
    decoding: Preset = Field(
        "precise",
        description="precise: greedy, as evaluate.py measures; chat: drawn, with penalties; labels are scored",
    )

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
        if self.file is not None and (self.input is not None or self.category):
            raise ValueError("--input and --category go with one text; write them into the rows of --file")
        return self


class ChatSettings(TalkSettings):
    """Talk in a terminal (or through a pipe) with a model that remembers the conversation."""

    prog: ClassVar[str] = "chat.py"

    decoding: Preset = Field("chat", description="chat: drawn, with penalties; precise: greedy")
    markdown: bool = Field(
        True, description="show an answer's Markdown as headings, lists, tables, code; in a terminal"
    )
    chats_dir: Path = Field(
        Path("outputs/chats"), description="folder of saved conversations, and of the one that goes on"
    )
