"""Settings of inference.py and chat.py. Model and prompt come from the run folder and have no second default here."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sft.config.decoding import DecodingSettings, Preset
from sft.config.layers import ResultSettings


class TalkSettings(DecodingSettings):
    """Whom to talk to; what inference.py and chat.py share."""

    run: str | None = Field(None, description="run folder; default outputs/latest")
    model: str | None = Field(
        None, description="talk to this untuned model instead of a run: embedded, a hub id, a folder, or auto"
    )
    allow_mismatch: bool = Field(False, description="go on where model, tokenizer or prompt differ from training")

    @model_validator(mode="after")
    def _one_partner(self) -> "TalkSettings":
        if self.run is not None and self.model is not None:
            raise ValueError("run and model are both given; keep --run (a tuned model) or --model (an untuned one)")
        return self


class InferenceSettings(TalkSettings, ResultSettings):
    """Answer one text, streamed as it is written."""

    prog: ClassVar[str] = "inference.py"

    text: str | None = Field(None, description="what to answer; default: standard input, else an example of the task")
    task: str = Field("instruct", description="whose prompt the text is put into: instruct, sentiment, ner, news, ...")
    input: str | None = Field(None, description="task instruct: supplementary information below the instruction")
    category: tuple[str, ...] = Field((), description="task news: the labels to choose from, separated by commas")
    decoding: Literal["auto", "chat", "precise"] = Field(
        "auto",
        description="chat: drawn, for free text; precise: greedy, for labels and entities; auto: by task",
    )

    def preset_for(self, kind: Literal["text", "label", "entities"]) -> Preset:
        """The preset to answer a kind of task with: penalties would spoil labels and repeated JSON keys."""
        if self.decoding == "auto":
            return "chat" if kind == "text" else "precise"
        return self.decoding


class ChatSettings(TalkSettings):
    """Talk in a terminal (or through a pipe) with a model that remembers the conversation."""

    prog: ClassVar[str] = "chat.py"

    decoding: Preset = Field("chat", description="chat: drawn, with penalties; precise: greedy")
