"""Figures of generated text: what it looks like (empty, cut off, long, repetitive), and BLEU, chrF and exact match.

The former judge no answer; the latter compare answers with their references, by sacrebleu. BLEU counts words, and
Chinese is written without spaces between them. So where any reference holds an ideograph, sacrebleu's tokeniser `zh`
makes each ideograph a word (Latin text is cut as by its default, `13a`). The signatures say which tokeniser it was:
figures are comparable only if they agree.
"""

import math
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import TypedDict

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from sft.text import CHARACTER, WORDS_SIGNATURE, split_words

VOCABULARY = 30_522  # V of the authors' experiments; one number for every model, so that figures are comparable
DISTINCT_SIGNATURE = f"distinct:corpus|{WORDS_SIGNATURE}|adjusted:liu2022,V={VOCABULARY}"
IDEOGRAPH = re.compile(f"[{CHARACTER}]")
EXACT_SIGNATURE = "exact:equal after strip|share-of-rows"


class GenerationFigures(TypedDict):
    """Rates are shares of rows (0 to 1); lengths are means in tokens of the model's tokenizer, end token left out.

    distinct_n falls as answers get longer, however varied they are; distinct_n_adjusted does not (see adjust_distinct).
    """

    empty_rate: float
    unfinished_rate: float
    avg_pred_len_tokens: float
    avg_ref_len_tokens: float
    len_ratio_pred_over_ref: float
    distinct_1: float
    distinct_2: float
    distinct_1_adjusted: float
    distinct_2_adjusted: float
    num_rows: int


def summarise_generations(
    predictions: Sequence[str],
    finished: Sequence[bool],
    prediction_tokens: Sequence[int],
    reference_tokens: Sequence[int],
) -> GenerationFigures:
    """Figures of generated answers; `finished` says whether the model itself ended the answer (else it was cut off).

    len_ratio_pred_over_ref is the ratio of the two mean lengths, so one very short reference cannot rule it.
    Raises ValueError for no rows at all.
    """
    num_rows = len(predictions)
    if num_rows == 0:
        raise ValueError("no generated answers to describe")
    prediction_length = sum(prediction_tokens) / num_rows
    reference_length = sum(reference_tokens) / num_rows
    return {
        "empty_rate": sum(not prediction.strip() for prediction in predictions) / num_rows,
        "unfinished_rate": sum(not done for done in finished) / num_rows,
        "avg_pred_len_tokens": prediction_length,
        "avg_ref_len_tokens": reference_length,
        "len_ratio_pred_over_ref": prediction_length / reference_length if reference_length else 0.0,
        "distinct_1": count_distinct(predictions, 1),
        "distinct_2": count_distinct(predictions, 2),
        "distinct_1_adjusted": adjust_distinct(*_count_ngrams(predictions, 1)),
        "distinct_2_adjusted": adjust_distinct(*_count_ngrams(predictions, 2)),
        "num_rows": num_rows,
    }


def count_distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the corpus; no n-gram spans two texts. 0.0 if there is none.

    count_distinct(["好好学", "好学"], 1) -> 0.4        # {好, 学} of 5; Li et al. 2016, arXiv:1510.03055
    """
    distinct, total = _count_ngrams(texts, n)
    return distinct / total if total else 0.0


def adjust_distinct(num_distinct: int, num_total: int, vocabulary: int = VOCABULARY) -> float:
    """Distinct n-grams over those expected of as many drawn at random: Liu et al. 2022, arXiv:2202.13587, equation 4.

    Of C n-grams drawn from V, V (1 - ((V - 1) / V)^C) are expected to be distinct. adjust_distinct(2, 5) -> 0.4;
    adjust_distinct(20_000, 100_000) -> 0.681, where distinct-n says 0.2. 0.0 if there is no n-gram.
    """
    expected = -vocabulary * math.expm1(num_total * math.log1p(-1 / vocabulary))
    return num_distinct / expected if num_total else 0.0


def _count_ngrams(texts: Sequence[str], n: int) -> tuple[int, int]:
    """(distinct, all) n-grams of the corpus."""
    total, seen = 0, set()
    for text in texts:
        words = split_words(text)
        ngrams = list(zip(*(words[start:] for start in range(n)), strict=False))  # the shortest of the n shifts ends it
        total += len(ngrams)
        seen.update(ngrams)
    return len(seen), total


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


ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


class MixedTokenizer:
    """split_words behind rouge-score's tokenizer interface."""

    def tokenize(self, text: str) -> list[str]:
        """Words of one text: "我用 python" -> ["我", "用", "python"]."""
        return split_words(text)


def rouge_signature() -> str:
    """Signature of the figures, printed with them: two ROUGE values are comparable only if their signatures agree."""
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
