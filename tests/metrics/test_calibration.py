import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binom, kstest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from sft.metrics.calibration import (
    HIGH,
    LOW,
    Judged,
    choose_num_bins,
    fit_temperature,
    interval_of_ece,
    measure_ece,
    measure_floor,
    measure_reliability,
    nll_of,
    softmax,
    summarise_calibration,
)

LABELS = ("负面", "正面")


def _row(name: str, positive: float, right: int) -> Judged:
    return Judged(name, np.array([1 - positive, positive], np.float32), LABELS, right, text=f"text of {name}")


def test_a_sure_negative_is_as_confident_as_a_sure_positive():
    assert _row("a", 0.03, 0).confidence == pytest.approx(0.97)
    assert _row("a", 0.03, 0).is_right


def test_all_figures_of_four_rows():
    rows = [_row("a", 0.95, 1), _row("b", 0.05, 0), _row("c", 0.55, 0), _row("d", 0.98, 0)]
    figures = summarise_calibration(rows)
    assert {key: figures[key] for key in ("num_rows", "accuracy", "num_bins", "share_above_high", "below_half")} == {
        "num_rows": 4,
        "accuracy": 0.5,
        "num_bins": 1,
        "share_above_high": 0.75,
        "below_half": 0,
    }
    assert figures["avg_confidence"] == pytest.approx((0.95 + 0.95 + 0.55 + 0.98) / 4)
    assert figures["avg_confidence_right"] == pytest.approx(0.95)
    assert figures["avg_confidence_wrong"] == pytest.approx((0.55 + 0.98) / 2)
    assert figures["ece"] == pytest.approx((0.95 + 0.95 + 0.55 + 0.98) / 4 - 0.5)
    assert figures["brier"] == pytest.approx(2 * (0.05**2 + 0.05**2 + 0.55**2 + 0.98**2) / 4)
    assert figures["histogram"] == {
        "edges": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0],
        "right": [0, 0, 0, 0, 0, 0, 0, 0, 2, 0],  # 0.95 in fp32 lies just below the edge
        "wrong": [0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
    }
    assert sum(figures["full_histogram"]["right"]) == sum(figures["full_histogram"]["wrong"]) == 2
    assert figures["low_confidence"] == {
        "num_rows": 1,
        "share": 0.25,
        "accuracy": 0.0,
        "rows": [
            {
                "id": "c",
                "text": "text of c",
                "reference": "负面",
                "prediction": "正面",
                "confidence": pytest.approx(0.55),
            }
        ],
    }
    assert [row["id"] for row in figures["high_confidence_errors"]["rows"]] == ["d"]


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # to seven digits, in fp32
def test_brier_and_nll_equal_scikit_learn_on_200_generated_cases():
    rng = np.random.default_rng(10)
    for _ in range(200):
        classes = tuple(f"类{index}" for index in range(rng.integers(2, 6)))
        num_rows = int(rng.integers(len(classes), 40))
        right = np.concatenate([np.arange(len(classes)), rng.integers(0, len(classes), num_rows - len(classes))])
        table = np.array([softmax(row) for row in rng.normal(0, 3, (num_rows, len(classes)))])
        rows = [Judged(str(i), table[i], classes, int(right[i])) for i in range(num_rows)]
        figures = summarise_calibration(rows) if num_rows < 8 else None  # the interval is what takes time
        brier = brier_score_loss(right, table.astype(float), labels=range(len(classes)), scale_by_half=False)
        ours = np.mean(
            [((row.probabilities.astype(float) - np.eye(len(classes))[row.right]) ** 2).sum() for row in rows]
        )
        assert ours == pytest.approx(brier, abs=1e-9)
        if figures is not None:
            assert figures["brier"] == pytest.approx(brier, abs=1e-9)
        nll = np.mean([nll_of(row.probabilities, row.right) for row in rows])
        assert nll == pytest.approx(log_loss(right, table.astype(float), labels=range(len(classes))), abs=1e-9)


def test_the_error_is_that_of_scikit_learns_quantile_bins_on_200_generated_cases():
    rng = np.random.default_rng(11)
    for _ in range(200):
        num_bins = int(rng.integers(1, 8))
        confidence = rng.permutation(np.linspace(0.5, 0.99, num_bins * 10))  # no ties, and bins of ten rows exactly
        right = rng.random(len(confidence)) < 0.7
        accuracy, average = calibration_curve(right, confidence, n_bins=num_bins, strategy="quantile")
        assert measure_ece(confidence, right, num_bins) == pytest.approx(np.abs(accuracy - average).mean(), abs=1e-9)
        bins = measure_reliability(confidence, right, num_bins)
        assert [b["accuracy"] for b in bins] == pytest.approx(accuracy.tolist(), abs=1e-9)
        assert [b["confidence"] for b in bins] == pytest.approx(average.tolist(), abs=1e-9)


def test_bins_hold_equally_many_rows_and_at_least_ten():
    confidence, right = np.linspace(0.5, 1, 47), np.arange(47) < 21
    assert choose_num_bins(47) == 4
    assert [b["num_rows"] for b in measure_reliability(confidence, right, 4)] == [12, 12, 12, 11]
    bins = measure_reliability(confidence, right, 4)
    by_hand = sum(b["num_rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 47
    assert measure_ece(confidence, right, 4) == pytest.approx(by_hand, abs=1e-12)
    assert (choose_num_bins(3), choose_num_bins(1_000)) == (1, 15)


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


# How right a model is at a confidence, and how sure it is: uniform from .5 to 1, or nearly always above .9.
RATES = {
    "calibrated": lambda c: c,
    "too sure by .1": lambda c: np.clip(c - 0.1, 0, 1),
    "temperature 2": lambda c: _sigmoid(np.log(c / (1 - c)) / 2),
    "not sure enough": lambda c: _sigmoid(np.log(c / (1 - c)) * 2),
}
CONFIDENCES = {
    "uniform": lambda rng, n: rng.uniform(0.5, 0.999, n),
    "sure": lambda rng, n: 0.5 + 0.499 * rng.beta(5, 0.5, n),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("confidences", CONFIDENCES)
def test_the_interval_of_the_ece_holds_the_true_one_at_least_93_times_in_100(rate, confidences):
    many = CONFIDENCES[confidences](np.random.default_rng(1), 400_000)
    true = float(np.abs(many - RATES[rate](many)).mean())
    rng = np.random.default_rng(2)
    for num_rows in (50, 240):
        held, num_trials = 0, 60
        for _ in range(num_trials):
            confidence = CONFIDENCES[confidences](rng, num_rows)
            right = rng.random(num_rows) < RATES[rate](confidence)
            low, high = interval_of_ece(confidence, right, choose_num_bins(num_rows), rng)
            held += low <= true <= high
        assert held >= binom.ppf(0.005, num_trials, 0.93)


def test_the_floor_is_what_calibrated_models_show_and_their_p_values_are_spread_evenly():
    rng = np.random.default_rng(12)
    confidence = rng.uniform(0.5, 1, 240)
    shown, floors, p_values = [], [], []
    for _ in range(60):
        right = rng.random(240) < confidence
        shown.append(measure_ece(confidence, right, 15))
        floor, p_value = measure_floor(confidence, right, 15, rng)
        floors.append(floor)
        p_values.append(p_value)
    assert np.mean(floors) == pytest.approx(np.mean(shown), abs=0.005)
    assert 0.07 < np.mean(floors) < 0.09  # of 240 rows in 15 bins, not .03
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_an_overconfident_model_is_distinguished_from_a_calibrated_one():
    rng = np.random.default_rng(12)
    honest, boastful = [], []
    for number in range(600):
        chance = float(rng.uniform(0.5, 1))
        right = int(rng.random() < chance)
        honest.append(_row(str(number), chance, right))
        boastful.append(_row(str(number), min(0.999, chance + 0.2), right))
    calm, bold = summarise_calibration(honest), summarise_calibration(boastful)
    assert (calm["ece_low"], calm["ece_p_value"] > 0.05) == (0.0, True)
    assert bold["ece_p_value"] < 0.002
    assert 0.08 < bold["ece_low"] < bold["ece"] < bold["ece_high"] < 0.25
    assert bold["ece_floor"] < bold["ece"]
    assert summarise_calibration(honest, seed=0) == calm


def _of_confidence(name: str, confidence: float) -> Judged:
    return Judged(name, np.array([1 - confidence, confidence]), LABELS, 0)


def test_rows_are_listed_from_the_least_sure_and_errors_from_the_surest():
    unsure = [_row("less", 0.55, 1), _row("least", 0.51, 1), _row("not", 0.61, 1), _row("little", 0.58, 0)]
    wrong = [_row("sure", 0.93, 0), _row("surest", 0.99, 0), _row("below", 0.89, 0), _row("right", 0.99, 1)]
    wrong += [_of_confidence("at the lower threshold", LOW), _of_confidence("at the upper one", HIGH)]
    figures = summarise_calibration([*unsure, *wrong])
    assert [row["id"] for row in figures["low_confidence"]["rows"]] == ["least", "less", "little"]
    assert [row["id"] for row in figures["high_confidence_errors"]["rows"]] == ["surest", "sure"]
    assert figures["low_confidence"]["accuracy"] == pytest.approx(2 / 3)


def test_the_temperature_is_found_again_on_200_generated_cases():
    rng = np.random.default_rng(13)
    for _ in range(200):
        true = float(rng.uniform(0.5, 4))
        scores = rng.normal(0, 2, (400, int(rng.integers(2, 5))))
        right = (scores + rng.gumbel(size=scores.shape)).argmax(1).tolist()  # drawn from softmax(scores)
        found = fit_temperature((scores * true).tolist(), right)
        grid = np.exp(np.linspace(np.log(found) - 0.05, np.log(found) + 0.05, 11))
        nll = [-log_softmax(scores * true / t, axis=1)[np.arange(400), right].mean() for t in grid]
        assert min(nll) >= nll[5] - 1e-9  # no better one beside it
        assert found == pytest.approx(true, rel=0.45)


def test_rows_that_allow_different_labels_share_one_temperature():
    unlikely_third = [[2.0, 0.0], [2.0, 0.0, -900.0], [2.0, 0.0]]  # as good as not allowed
    assert fit_temperature(unlikely_third, [0, 0, 1]) == pytest.approx(fit_temperature([[2.0, 0.0]] * 3, [0, 0, 1]))
    assert fit_temperature([[2.0, 0.0]] * 3, [0, 0, 1]) == pytest.approx(2 / np.log(2), abs=1e-3)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows with label probabilities"):
        summarise_calibration([])
    with pytest.raises(ValueError, match="one right label per row"):
        fit_temperature([], [])
