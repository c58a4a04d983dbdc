"""Free-text answers against their references: BLEU and chrF by sacrebleu, exact match.

BLEU counts words, and Chinese is written without spaces between them. So where any reference holds an ideograph,
sacrebleu's tokeniser `zh` makes each of them a word (Latin text is cut as by its default, `13a`). The signatures say
which one it was: figures are comparable only where they agree.
"""

import re
from collections.abc import Sequence
from typing import TypedDict

from sacrebleu.metrics import BLEU, CHRF

from sft.metrics.words import CHARACTER

IDEOGRAPH = re.compile(f"[{CHARACTER}]")
EXACT_SIGNATURE = "exact:equal after strip|share-of-rows"


class TextFigures(TypedDict):
    """bleu and chrf are corpus figures from 0 to 100, as sacrebleu prints them; exact_match is a share of rows."""

    bleu: float
    chrf: float
    exact_match: float
    num_rows: int
    signatures: dict[str, str]


def summarise_text(references: Sequence[str], predictions: Sequence[str]) -> TextFigures:
    """Figures of answers, one reference each.

    summarise_text(["这家酒店很好"], ["这家酒店很好"]) -> bleu 100.0, chrf 100.0, exact_match 1.0

    Raises ValueError for no rows and where the two lists differ in length.
    """
    if len(references) != len(predictions) or not references:
        raise ValueError(f"one prediction per reference: {len(references)} references, {len(predictions)} predictions")
    bleu, chrf = BLEU(tokenize=choose_tokeniser(references)), CHRF()
    columns = [list(references)]  # sacrebleu takes one list per set of references
    bleu_score, chrf_score = (metric.corpus_score(list(predictions), columns) for metric in (bleu, chrf))
    return {
        "bleu": float(bleu_score.score),
        "chrf": float(chrf_score.score),
        "exact_match": sum(is_exact(*pair) for pair in zip(references, predictions, strict=True)) / len(references),
        "num_rows": len(references),
        "signatures": {
            "bleu": str(bleu.get_signature()),
            "chrf": str(chrf.get_signature()),
            "exact_match": EXACT_SIGNATURE,
        },
    }


def is_exact(reference: str, prediction: str) -> bool:
    """Whether the answer is the reference, blanks around it aside; case and punctuation count."""
    return reference.strip() == prediction.strip()


def choose_tokeniser(references: Sequence[str]) -> str:
    """sacrebleu's name: "zh" where a reference holds an ideograph or kana, else its default "13a"."""
    return "zh" if any(IDEOGRAPH.search(reference) for reference in references) else "13a"
