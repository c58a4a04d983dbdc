"""A tuned model as a Python object: texts in, answers, labels or entities out. docs/inference.md shows it in use.

from sft.inference import Predictor

predictor = Predictor("outputs/latest")
predictor.predict("What is LoRA?").answer
predictor.predict_batch(["hello", "你好"])
with predictor.stream("hello") as pieces:
    for piece in pieces: ...
"""

from typing import TYPE_CHECKING

from sft.inference.predictor import Prediction

if TYPE_CHECKING:
    from sft.inference.predictor import Predictor

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> object:
    """Import Predictor on first use: it needs torch, which a mistyped flag should not wait for."""
    if name == "Predictor":
        from sft.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
