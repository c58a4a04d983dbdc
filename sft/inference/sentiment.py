"""The Python class of an earlier sentiment project, by its names; sft.inference.Predictor can do more.

from inference import SentimentPredictor
SentimentPredictor("Qwen/Qwen2.5-1.5B", "outputs/lora_adapter").predict("房间很干净")
# {"text": "房间很干净", "label": "正面", "confidence": 0.97, "probabilities": {"负面": 0.03, "正面": 0.97}}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from prompts.tasks import get_task
from sft.config.layers import restore_settings
from sft.config.tuned import TunedSettings
from sft.inference.predictor import Prediction, Predictor
from sft.models.adopted import open_tuned


class Verdict(TypedDict):
    """The result for one text; confidence is the label's probability among the labels."""

    text: str
    label: str
    confidence: float
    probabilities: dict[str, float]


class SentimentPredictor:
    """A tuned model that returns positive or negative, or the label of its run's only label task."""

    def __init__(self, base_model_name: str | None = None, lora_path: str | Path | None = None) -> None:
        """Load a run, or an adapter on a base; without a path the latest run, on its own base. Raises as Predictor."""
        named = {"run": lora_path and str(lora_path), "base": base_model_name}
        run = open_tuned(restore_settings(TunedSettings, named, "SentimentPredictor"))
        labelled = [task for task in run.tasks if get_task(task).kind == "label"]
        self.predictor = Predictor(run, task=labelled[0] if len(labelled) == 1 else "sentiment")

    def predict(self, text: str) -> Verdict:
        """The label of a text."""
        return self.predict_batch([text])[0]

    def predict_batch(self, texts: Sequence[str]) -> list[Verdict]:
        """The labels of many texts, in their order."""
        return [
            _describe(text, answer) for text, answer in zip(texts, self.predictor.predict_batch(texts), strict=True)
        ]


def _describe(text: str, answer: Prediction) -> Verdict:
    assert answer.label is not None
    assert answer.confidence is not None  # labels are scored: one of them is always the likeliest
    probabilities = answer.probabilities or {}
    return {"text": text, "label": answer.label, "confidence": answer.confidence, "probabilities": probabilities}
