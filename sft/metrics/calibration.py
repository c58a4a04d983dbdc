"""Does the model know how sure it is? Confidence against accuracy, from the probabilities of the allowed labels.

Confidence is the highest probability of a row, in fp32: that of the answer given, whichever class it is. (P(positive)
is none: it calls every sure negative unsure.) Bins hold equally many rows, so that none is an accident of three rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from sft.metrics.resampling import CONFIDENCE

NUM_BINS = 15  # at most, and at least MIN_PER_BIN rows in each
MIN_PER_BIN = 10
LOW, HIGH = 0.6, 0.9  # thresholds of what is called unsure and sure
NUM_SHOWN = 20  # rows listed of those unsure, and of those surely wrong
NUM_RESAMPLES = 1_000

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One row: its id, the probability of each of its labels, which is right, and which the model chose."""

    row_id: str
    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]
    right: int
    text: str = ""

    @property
    def chosen(self) -> int:
        """Place of the label with the highest probability, the first of equals."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """The highest probability."""
        return float(self.probabilities.max())

    @property
    def is_right(self) -> bool:
        """Whether the chosen label is the right one."""
        return self.chosen == self.right


class Histogram(TypedDict):
    """Rows per bin of confidence; edges has one number more than the counts, the last edge belongs to its bin."""

    edges: list[float]
    right: list[int]
    wrong: list[int]


class ReliabilityBin(TypedDict):
    """Rows of one bin: how sure the model was on average, how often it was right, its lowest and highest confidence."""

    confidence: float
    accuracy: float
    num_rows: int
    low: float
    high: float


class RowConfidence(TypedDict):
    """One row named for a person to look at."""

    id: str
    text: str
    reference: str
    prediction: str
    confidence: float


class RowList(TypedDict):
    """How many rows of a kind there are, their share, how many of them are right, and the first few."""

    num_rows: int
    share: float
    accuracy: float | None
    rows: list[RowConfidence]


class CalibrationFigures(TypedDict):
    """Calibration of N rows.

    ece: mean distance of confidence and accuracy over bins of equally many rows, low..high its bootstrap interval.
    brier: mean squared distance of the probabilities from the right answer, 0 to 2 (two classes: twice the binary one).
    nll: mean negative log-probability of the right label among the allowed ones, nats. low_confidence is below LOW,
    high_confidence_errors are wrong above HIGH. histogram covers .5 to 1.0, below_half counts what lies under it, and
    full_histogram covers 0 to 1.
    """

    num_rows: int
    accuracy: float
    avg_confidence: float
    avg_confidence_right: float | None
    avg_confidence_wrong: float | None
    share_above_high: float
    ece: float
    ece_low: float
    ece_high: float
    num_bins: int
    brier: float
    nll: float
    histogram: Histogram
    below_half: int
    full_histogram: Histogram
    reliability: list[ReliabilityBin]
    low_confidence: RowList
    high_confidence_errors: RowList


def summarise_calibration(rows: Sequence[Judged], *, seed: int = 0) -> CalibrationFigures:
    """All figures of rows that were each given a probability per label. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("no rows with label probabilities")
    confidence = np.array([row.confidence for row in rows])
    right = np.array([row.is_right for row in rows])
    num_bins = choose_num_bins(len(rows))
    low, high = _interval_of_ece(confidence, right, num_bins, np.random.default_rng(seed))
    unsure = sorted((row for row in rows if row.confidence < LOW), key=lambda row: row.confidence)
    surely_wrong = sorted(
        (row for row in rows if row.confidence > HIGH and not row.is_right), key=lambda row: -row.confidence
    )
    return {
        "num_rows": len(rows),
        "accuracy": float(right.mean()),
        "avg_confidence": float(confidence.mean()),
        "avg_confidence_right": float(confidence[right].mean()) if right.any() else None,
        "avg_confidence_wrong": float(confidence[~right].mean()) if not right.all() else None,
        "share_above_high": float((confidence > HIGH).mean()),
        "ece": measure_ece(confidence, right, num_bins),
        "ece_low": low,
        "ece_high": high,
        "num_bins": num_bins,
        "brier": sum(_brier_of(row) for row in rows) / len(rows),
        "nll": sum(nll_of(row.probabilities, row.right) for row in rows) / len(rows),
        "histogram": _count_histogram(confidence, right, np.linspace(0.5, 1.0, 11)),
        "below_half": int((confidence < 0.5).sum()),
        "full_histogram": _count_histogram(confidence, right, np.linspace(0.0, 1.0, 21)),
        "reliability": measure_reliability(confidence, right, num_bins),
        "low_confidence": _list_rows(unsure, len(rows)),
        "high_confidence_errors": _list_rows(surely_wrong, len(rows)),
    }


def choose_num_bins(num_rows: int) -> int:
    """Bins of at least MIN_PER_BIN rows, at most NUM_BINS of them: 15 for 200 rows, 4 for 40."""
    return max(1, min(NUM_BINS, num_rows // MIN_PER_BIN))


def measure_ece(confidence: Values, right: NDArray[np.bool_], num_bins: int) -> float:
    """Expected calibration error over equal-mass bins: sum of share times |accuracy - confidence| (Nixon et al. 2019).

    Bins differ by one row at most where the rows do not divide evenly; rows of equal confidence keep their order.
    """
    order = np.argsort(confidence, kind="stable")
    starts = _bin_starts(len(order), num_bins)
    return float(_ece_of_sorted((confidence - right)[order][None, :], starts)[0])


def measure_reliability(confidence: Values, right: NDArray[np.bool_], num_bins: int) -> list[ReliabilityBin]:
    """What a reliability diagram draws: the bins of measure_ece, from unsure to sure."""
    bins = np.array_split(np.argsort(confidence, kind="stable"), num_bins)
    return [
        {
            "confidence": float(confidence[places].mean()),
            "accuracy": float(right[places].mean()),
            "num_rows": len(places),
            "low": float(confidence[places].min()),
            "high": float(confidence[places].max()),
        }
        for places in bins
        if len(places)
    ]


def nll_of(probabilities: NDArray[np.float32], right: int) -> float:
    """Negative log-probability of the right label, nats; a probability that underflowed counts as the least fp32."""
    return -float(np.log(max(float(probabilities[right]), float(np.finfo(np.float32).tiny))))


def _brier_of(row: Judged) -> float:
    target = np.zeros(len(row.probabilities))
    target[row.right] = 1.0
    return float(((row.probabilities.astype(np.float64) - target) ** 2).sum())


def _bin_starts(num_rows: int, num_bins: int) -> NDArray[np.int64]:
    """Where each bin begins in the sorted rows, as numpy.array_split cuts them: the first ones hold one row more."""
    sizes = np.full(num_bins, num_rows // num_bins)
    sizes[: num_rows % num_bins] += 1
    starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return starts


def _ece_of_sorted(gaps: Values, starts: NDArray[np.int64]) -> Values:
    """ECE of sorted rows' confidence - right, (R, N) -> (R,): the bins' absolute sums over N."""
    totals: Values = np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(1) / gaps.shape[1]
    return totals


def _interval_of_ece(
    confidence: Values, right: NDArray[np.bool_], num_bins: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Basic bootstrap interval over rows, from 0 up.

    ECE of few rows is too high even for a calibrated model, and a resample adds as much again: the plain percentiles
    would often lie above the figure itself. The basic interval (2 ece - quantile) turns that around.
    """
    num_rows, starts = len(confidence), _bin_starts(len(confidence), num_bins)
    found = measure_ece(confidence, right, num_bins)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        drawn = np.sort(rng.integers(0, num_rows, num_rows))
        order = drawn[np.argsort(confidence[drawn], kind="stable")]
        resampled.append(float(_ece_of_sorted((confidence - right)[order][None, :], starts)[0]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return max(0.0, float(2 * found - high)), max(0.0, float(2 * found - low))


def _count_histogram(confidence: Values, right: NDArray[np.bool_], edges: Values) -> Histogram:
    counts = [np.histogram(confidence[side], edges)[0].tolist() for side in (right, ~right)]
    return {"edges": [round(float(edge), 4) for edge in edges], "right": counts[0], "wrong": counts[1]}


def _list_rows(rows: Sequence[Judged], num_all: int) -> RowList:
    return {
        "num_rows": len(rows),
        "share": len(rows) / num_all,
        "accuracy": sum(row.is_right for row in rows) / len(rows) if rows else None,
        "rows": [
            {
                "id": row.row_id,
                "text": row.text,
                "reference": row.labels[row.right],
                "prediction": row.labels[row.chosen],
                "confidence": row.confidence,
            }
            for row in rows[:NUM_SHOWN]
        ],
    }
