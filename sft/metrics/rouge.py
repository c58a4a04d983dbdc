"""ROUGE-1/2/L for mixed Chinese and Latin text: rouge-score's own counting over the words of sft.text.words."""

from collections.abc import Sequence
from importlib.metadata import version

from rouge_score.rouge_scorer import RougeScorer

from sft.text.words import WORDS_SIGNATURE, split_words

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


class MixedTokenizer:
    """What rouge-score asks of a tokenizer, answered by split_words."""

    def tokenize(self, text: str) -> list[str]:
        """Words of one text: "我用 python" -> ["我", "用", "python"]."""
        return split_words(text)


def rouge_signature() -> str:
    """How the figures came about, to print beside them: two tools' ROUGE are comparable only where this agrees."""
    return f"rouge-score:{version('rouge-score')}|{WORDS_SIGNATURE}|stemmer:no|f-measure|mean-over-rows"


def score_rouge(
    references: Sequence[str], predictions: Sequence[str], rouge_types: Sequence[str] = ROUGE_TYPES
) -> dict[str, list[float]]:
    """F-measure of every row: score_rouge(["你好"], ["你们好"]) -> {"rouge1": [0.8], "rouge2": [0.0], "rougeL": [0.8]}.

    Raises ValueError if the two lists differ in length.
    """
    scorer = RougeScorer(list(rouge_types), tokenizer=MixedTokenizer())
    rows = [scorer.score(target, prediction) for target, prediction in zip(references, predictions, strict=True)]
    return {name: [float(row[name].fmeasure) for row in rows] for name in rouge_types}
