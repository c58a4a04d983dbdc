"""Does the model know how sure it is? Confidence against accuracy, from the probabilities of the allowed labels.

Label scores become probabilities by `softmax`: a score is the log-probability of a label as the whole answer
(sft.scoring) or a logit of a classification head. Either way the probabilities of a row's labels add up to 1, so
the probability of other answers is left out.

Confidence is the highest probability of a row, in fp32: that of the answer given, whichever class it is. (P(positive)
is none: it calls every sure negative unsure.) Bins hold equally many rows, so that none is an accident of three rows.

The expected calibration error (ECE) of a sample is never 0: it sums absolute distances, and chance alone keeps every
bin's accuracy away from its confidence. So the figure has its noise floor beside it, what a perfectly calibrated model
would show on as many rows, and an interval that takes the floor into account.

`fit_temperature` finds the one number that the scores are divided by to make the probabilities honest. It is fitted on
validation rows and used on others (on its own rows it would flatter itself) and changes no answer, since it keeps the
order of the labels (Guo et al. 2017, arXiv:1706.04599).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from sft.metrics.resampling import CHUNK_ELEMENTS, CONFIDENCE

NUM_BINS = 15  # at most, and at least MIN_PER_BIN rows in each
MIN_PER_BIN = 10
LOW, HIGH = 0.6, 0.9  # thresholds of unsure and sure
NUM_SHOWN = 20  # rows listed of those unsure, and of those surely wrong
NUM_RESAMPLES = 1_000
PRECISION = 5e-4  # to which the upper end of an ECE is searched
Values = NDArray[np.float64]
LOWEST, HIGHEST = 0.05, 20.0  # beyond them nothing is gained but certainty, or indifference
Probabilities = NDArray[np.float32]


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

    ece: mean distance of confidence and accuracy over bins of equally many rows, low..high an interval of the true one.
    ece_floor: the mean ECE of a perfectly calibrated model with these confidences; ece_p_value: how often it would show
    this ECE or more.
    brier: mean squared distance of the probabilities from the right answer, 0 to 2 (two classes: twice the binary one).
    nll: mean negative log-probability of the right label among the allowed ones, nats. low_confidence is below LOW,
    high_confidence_errors are wrong above HIGH. histogram covers .5 to 1.0, below_half counts the rest, and
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
    ece_floor: float
    ece_p_value: float
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
    rng = np.random.default_rng(seed)
    low, high = interval_of_ece(confidence, right, num_bins, rng)
    floor, p_value = measure_floor(confidence, right, num_bins, rng)
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
        "ece_floor": floor,
        "ece_p_value": p_value,
        "num_bins": num_bins,
        "brier": sum(brier_of(row) for row in rows) / len(rows),
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


def brier_of(row: Judged) -> float:
    """Squared distance of a row's probabilities from the right answer, 0 to 2."""
    target = np.zeros(len(row.probabilities))
    target[row.right] = 1.0
    return float(((row.probabilities.astype(np.float64) - target) ** 2).sum())


def _bin_starts(num_rows: int, num_bins: int) -> NDArray[np.int64]:
    """Start of each bin in the sorted rows, as in numpy.array_split: the first bins have one row more."""
    sizes = np.full(num_bins, num_rows // num_bins)
    sizes[: num_rows % num_bins] += 1
    starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return starts


def _ece_of_sorted(gaps: Values, starts: NDArray[np.int64]) -> Values:
    """ECE of sorted rows' confidence - right, (R, N) -> (R,): the bins' absolute sums over N."""
    totals: Values = np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(1) / gaps.shape[1]
    return totals


def measure_floor(
    confidence: Values, right: NDArray[np.bool_], num_bins: int, rng: np.random.Generator
) -> tuple[float, float]:
    """ECE that a perfectly calibrated model of these confidences shows on average, and how often it shows at least what
    was found: (0.087, 0.42) of 240 rows between .5 and 1, in whose ECE there is nothing but chance.
    """
    ordered, starts = np.sort(confidence), _bin_starts(len(confidence), num_bins)
    found = measure_ece(confidence, right, num_bins)
    size = max(1, CHUNK_ELEMENTS // len(ordered))
    drawn = np.concatenate(
        [
            _ece_of_sorted(ordered - (rng.random((min(size, NUM_RESAMPLES - done), len(ordered))) < ordered), starts)
            for done in range(0, NUM_RESAMPLES, size)
        ]
    )
    return float(drawn.mean()), (1 + int((drawn >= found - 1e-12).sum())) / (1 + NUM_RESAMPLES)


def interval_of_ece(
    confidence: Values, right: NDArray[np.bool_], num_bins: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Interval of the true ECE by inverting two tests; it is wide where the bins hold few rows, and reaches 0 where
    chance alone could have made the figure.

    Bin by bin the found distance is the true one plus noise, a binomial share less its mean. Low: by the triangle
    inequality the found ECE is at most the true one plus the sum of the absolute noise. High: the largest true ECE
    that would show as little as was found in one of 40 samples, spread evenly over the bins, where noise adds least.
    Both ends move out by what rows of other confidences could change, the high one by a row besides.
    """
    bins = measure_reliability(confidence, right, num_bins)
    sizes = np.array([one["num_rows"] for one in bins])
    accuracy = np.array([one["accuracy"] for one in bins])
    share = sizes / sizes.sum()
    found = float(share @ np.abs(accuracy - [one["confidence"] for one in bins]))
    distances = np.abs(np.sort(confidence) - np.repeat(accuracy, sizes))  # (N,) of each row to its bin's accuracy
    tail = (1 - CONFIDENCE) / 2
    direction = 1.0 if right.mean() >= confidence.mean() else -1.0
    rate = (accuracy * sizes + 1) / (sizes + 2)  # ten right rows of ten are no proof of 1.0 (Laplace)
    noise = rng.binomial(sizes, rate, (NUM_RESAMPLES, len(bins))) / sizes - rate  # (R, B)
    low = found - float(np.quantile(np.abs(noise) @ share, 1 - tail))
    high = _largest_showing(found, direction, noise, share, tail)
    reach = float(norm.ppf(1 - tail)) * float(distances.std()) / len(distances) ** 0.5
    return max(0.0, low - reach), min(1.0, high + reach + 1 / len(distances))


def _largest_showing(found: float, direction: float, noise: Values, share: Values, tail: float) -> float:
    """The largest true ECE, the same in all bins, that shows at most `found` in this share of samples; noise (R, B)."""
    lower, upper = found, 1.0
    while upper - lower > PRECISION:
        middle = (lower + upper) / 2
        shown = float(np.quantile(np.abs(direction * middle + noise) @ share, tail))
        lower, upper = (middle, upper) if shown <= found else (lower, middle)
    return upper


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


def fit_temperature(scores: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    """The temperature of the lowest mean nll. scores[i] are those of row i's labels, right[i] the right label's place.

    fit_temperature([[2.0, 0.0]] * 3, [0, 0, 1]) -> 2.885: as sure as it is often right, softmax([0.693, 0]) = 2/3

    Raises ValueError for no rows.
    """
    if not scores or len(scores) != len(right):
        raise ValueError(f"one right label per row of scores: {len(scores)} rows, {len(right)} labels")
    width = max(map(len, scores))
    # Rows may allow fewer labels than others: the missing ones get a score that no temperature brings back.
    table = np.full((len(scores), width), -np.inf)  # (N, L)
    for place, row in enumerate(scores):
        table[place, : len(row)] = row
    wanted = table[np.arange(len(right)), right]  # (N,)

    def mean_nll(log_temperature: float) -> float:
        scaled = table / math.exp(log_temperature)
        top = scaled.max(1)
        normaliser = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((normaliser - wanted / math.exp(log_temperature)).mean())

    found = minimize_scalar(mean_nll, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(float(found.x)), 6)


def softmax(scores: Sequence[float], temperature: float = 1.0) -> Probabilities:
    """Probabilities in fp32: softmax([-0.1, -2.3]) -> [0.9, 0.1]. temperature > 1 flattens, < 1 sharpens.

    Raises ValueError for no scores and for a score that is not finite.
    """
    logits = np.asarray(scores, np.float32) / np.float32(temperature)
    if logits.size == 0 or not np.isfinite(logits).all():
        raise ValueError(f"scores must be finite numbers, at least one, not {list(scores)}")
    exponents = np.exp(logits - logits.max())
    shares: Probabilities = exponents / exponents.sum()
    return shares


def spread_over(classes: Sequence[str], labels: Sequence[str], probabilities: Sequence[float]) -> NDArray[np.float64]:
    """A row's probabilities over all classes of its task; 0 for those the row does not allow.

    spread_over(["体育", "经济", "娱乐"], ["经济", "体育"], [0.2, 0.8]) -> [0.8, 0.2, 0.0]
    """
    row = np.zeros(len(classes))
    for label, probability in zip(labels, probabilities, strict=True):
        row[classes.index(label)] += probability
    return row
