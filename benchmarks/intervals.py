"""How often the intervals contain the true figure, and how often equal models are called different.

The rows of an evaluation (`make demo` makes one, of packaged texts) are the population: each trial draws rows from it,
with replacement, and checks whether the interval contains the figure of all of them. `old` is the plain bootstrap
(expanded percentiles; for the ECE the basic interval), `new` what evaluate.py prints. Confidences are drawn from the
reliability bins of metrics.json, once as accurate as the model was and once as accurate as it claimed. The aim is at
least 93 % from 50 rows on. Simulated rows in groups stand for conversations; A/A compares a model with another that is
as good on average, where at most 5 % of the comparisons may call one better or worse. Prints a table, and one JSON line
last.
    python -m benchmarks.intervals --evaluation outputs/latest/evaluation
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from prompts.tasks import Unparseable, get_task
from sft.metrics.calibration import choose_num_bins, interval_of_ece, measure_ece
from sft.metrics.classification import interval_of_area, summarise_roc
from sft.metrics.comparison import PairedMetric, compare_metrics, ratio
from sft.metrics.entities import EntityCounts, Span, count_entities, place_mentions
from sft.metrics.generations import is_exact, score_rouge
from sft.metrics.resampling import bounded_interval, pair_sides, studentised_interval, sum_by_group

NUM_RESAMPLES = 500
SIZES = (20, 50, 100, 200)
POPULATION = 400_000
Span95 = tuple[float, float]


class Case(NamedTuple):
    """A figure: draw(rng, n) gives a sample, truth its true figure, old and new an interval of a sample."""

    draw: Callable[[np.random.Generator, int], object]
    truth: float
    old: Callable[[object, np.random.Generator], Span95] | None  # None if there was none
    new: Callable[[object, np.random.Generator], Span95]


def percentile_interval(units: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> Span95:
    """The expanded percentile interval (Hesterberg 2015), used before."""
    num_units = len(units)
    drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=NUM_RESAMPLES)
    sums = (drawn @ units.reshape(num_units, -1)).reshape(NUM_RESAMPLES, *units.shape[1:])
    tail = norm.cdf(-np.sqrt(num_units / (num_units - 1)) * t.ppf(0.975, num_units - 1))
    return tuple(np.quantile(ratio(sums) @ weights, [tail, 1 - tail]))


def basic_interval_of_ece(confidence: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> Span95:
    """The basic bootstrap interval of the ECE, used before."""
    num_rows, num_bins = len(confidence), choose_num_bins(len(confidence))
    found, resampled = measure_ece(confidence, right, num_bins), []
    for _ in range(NUM_RESAMPLES // 5):
        drawn = rng.integers(0, num_rows, num_rows)
        resampled.append(measure_ece(confidence[drawn], right[drawn], num_bins))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return max(0.0, 2 * found - high), max(0.0, 2 * found - low)


def case_of_sums(units: np.ndarray, weights: np.ndarray, *, is_bounded: bool = True) -> Case:
    """A figure that is a weighted sum of ratios of (N, M, 2) sums."""

    def find(sample: np.ndarray, rng: np.random.Generator) -> Span95:
        if is_bounded:
            return bounded_interval(sample, weights)
        return studentised_interval(sample, weights, rng, NUM_RESAMPLES)

    truth = float(ratio(units.sum(0)) @ weights)
    return Case(
        lambda rng, n: units[rng.integers(0, len(units), n)],
        truth,
        lambda sample, rng: percentile_interval(sample, weights, rng),
        find,
    )


def cases_of_rows(folder: Path) -> Iterable[tuple[str, Case]]:
    """The figures of an evaluation's rows, of the tuned model and of the difference."""
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens = [row["reference_tokens"] + 1.0 for row in rows]
    losses = [
        np.array([[row[key], size] for row, size in zip(rows, tokens, strict=True)]) for key in ("base_nll", "nll")
    ]
    yield "eval_loss, difference", case_of_sums(*pair_sides(*losses), is_bounded=False)
    kinds = {
        kind: [row for row in rows if get_task(row["task"]).kind == kind] for kind in ("label", "entities", "text")
    }
    sides = {}
    if kinds["label"]:
        sides["accuracy"] = [_means(row[key] == row["reference"] for row in kinds["label"]) for key in LABELS]
        sides["accuracy (generated)"] = [
            _means(row[key] == row["reference"] for row in kinds["label"]) for key in TEXTS
        ]
    if kinds["entities"]:
        sides["ner f1"] = [_entity_sums(kinds["entities"], key) for key in TEXTS]
    if kinds["text"]:
        references = [row["reference"] for row in kinds["text"]]
        texts = [[row[key] for row in kinds["text"]] for key in TEXTS]
        sides["rougeL"] = [_means(score_rouge(references, side, ("rougeL",))["rougeL"]) for side in texts]
        sides["exact match"] = [_means(map(is_exact, references, side)) for side in texts]
    for name, (base, tuned) in sides.items():
        yield f"{name}, tuned", case_of_sums(tuned[:, None], np.ones(1))
        yield f"{name}, difference", case_of_sums(*pair_sides(base, tuned))
    if kinds["label"]:
        names = sorted({row["reference"] for row in kinds["label"]})
        yield "macro f1, tuned", case_of_sums(_class_sums(kinds["label"], names), np.full(len(names), 1 / len(names)))
    for task, found in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["calibration"][
        "by_task"
    ].items():
        yield from cases_of_confidence(task, found["reliability"])


LABELS, TEXTS = ("base_label", "label"), ("base_prediction", "prediction")


def cases_of_confidence(task: str, bins: list[dict[str, float]]) -> Iterable[tuple[str, Case]]:
    """ECE, Brier and AUC of two classes whose confidences fall into these bins."""
    weights = np.array([one["num_rows"] for one in bins], float)
    mean, accuracy, low, high = (
        np.array([one[key] for one in bins]) for key in ("confidence", "accuracy", "low", "high")
    )

    def draw(rng: np.random.Generator, n: int, *, honest: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = rng.choice(len(bins), n, p=weights / weights.sum())
        confidence = np.clip(mean[place] + rng.uniform(-0.3, 0.3, n) * (high - low)[place], 0.5, 1 - 1e-6)
        right = rng.random(n) < (confidence if honest else accuracy[place])
        return confidence, right, rng.random(n) < 0.5  # confidence, whether right, which class was chosen

    many = draw(np.random.default_rng(1), POPULATION)
    parted = np.digitize(many[0], np.unique(np.quantile(many[0], np.linspace(0, 1, 201)))[1:-1])
    gaps = np.bincount(parted, many[0] - many[1]) / len(parted)
    for name, honest, truth in (("as it was", False, float(np.abs(gaps).sum())), ("were it calibrated", True, 0.0)):
        yield (
            f"{task} ECE, {name}",
            Case(
                lambda rng, n, honest=honest: draw(rng, n, honest=honest),
                truth,
                lambda sample, rng: basic_interval_of_ece(sample[0], sample[1], rng),
                lambda sample, rng: interval_of_ece(sample[0], sample[1], choose_num_bins(len(sample[0])), rng),
            ),
        )
    halved = _means((many[0] - many[1]) ** 2)[:, None]  # between 0 and 1
    yield f"{task} Brier / 2, tuned", case_of_sums(halved, np.ones(1))

    def ask_area(sample: tuple[np.ndarray, ...]) -> tuple[list[str], np.ndarray]:
        confidence, right, chosen = sample
        positive = np.where(chosen, confidence, 1 - confidence)
        return [str(int(one)) for one in chosen == right], np.stack([1 - positive, positive], axis=1)

    truth = summarise_roc(*ask_area([part[:50_000] for part in many]), "01")["macro"]
    yield (
        f"{task} AUC, tuned",
        Case(draw, truth, None, lambda sample, rng: interval_of_area(*ask_area(sample), "01", range(len(sample[0])))),
    )


def _means(values: Iterable[float]) -> np.ndarray:
    return np.array([[float(value), 1.0] for value in values])


def _class_sums(rows: list[dict], names: list[str]) -> np.ndarray:
    sums = [[[2.0 * (row["label"] == row["reference"] == name), (row["label"] == name) + (row["reference"] == name)]
             for name in names] for row in rows]  # fmt: skip
    return np.array(sums, float)


def _entity_sums(rows: list[dict], key: str) -> np.ndarray:
    counts = [count_row(row["input"] or row["instruction"], row["reference"], row[key]) for row in rows]
    return np.array([[2.0 * found, predicted + gold] for found, predicted, gold in (one.totals for one in counts)])


def count_row(text: str, reference: str, answer: str) -> EntityCounts:
    """Counts of one answer; the reference's own entities are placed in the text as an answer's are."""
    task = get_task("ner")
    gold: list[Span] = place_mentions(text, task.parse_answer(reference, {}), [])
    said = task.parse_answer(answer, {})
    return count_entities(gold, None if isinstance(said, Unparseable) else place_mentions(text, said, gold))


def draw_accuracy(rng: np.random.Generator, num_groups: int, gain: float, rows_per_group: int = 1) -> tuple:
    """Right or wrong. Groups are easy or hard for both models, and some are all gained or all lost by tuning."""
    ability = np.repeat(rng.uniform(0.2, 0.9, num_groups), rows_per_group)
    effect = np.repeat(rng.choice([-0.2, 0.2], num_groups), rows_per_group) if rows_per_group > 1 else 0.0
    chance = np.clip(ability + gain + effect, 0, 1)
    return tuple(_means(rng.random(len(p)) < p) for p in (ability, chance))


def draw_loss(rng: np.random.Generator, num_groups: int, gain: float, rows_per_group: int = 1) -> tuple:
    """nll of skewed rows of 5 to 200 tokens; a group's rows share a level and what tuning does to it."""
    num_rows = num_groups * rows_per_group
    tokens = rng.integers(5, 200, num_rows).astype(float)
    level = np.repeat(rng.lognormal(0.5, 0.4, num_groups), rows_per_group)
    effect = np.repeat(rng.normal(gain, 0.2, num_groups), rows_per_group)
    base = level * rng.lognormal(0, 0.3, num_rows)
    tuned = base * np.exp(effect) * rng.lognormal(0, 0.1, num_rows)
    return np.stack([base * tokens, tokens], 1), np.stack([tuned * tokens, tokens], 1)


def draw_entities(rng: np.random.Generator, num_groups: int, gain: float) -> tuple:
    """(2 found, predicted + gold) of rows with 0 to 5 entities."""
    gold = rng.integers(0, 6, num_groups)
    skill = rng.uniform(0.2, 0.7, num_groups)
    found = [rng.binomial(gold, chance) for chance in (skill, skill + gain)]
    return tuple(np.stack([2.0 * one, one + rng.binomial(2, 0.3, num_groups) + gold], 1) for one in found)


def cases_of_groups(rows_per_group: int = 8) -> Iterable[tuple[str, Case]]:
    """Simulated rows in groups, as the turns of conversations are: drawn and summed by group; old: by row."""
    for name, draw, gain, is_bounded in (("accuracy", draw_accuracy, 0.02, True), ("loss", draw_loss, -0.1, False)):
        sides = draw(np.random.default_rng(1), POPULATION // rows_per_group, gain, rows_per_group)

        def find(sample: tuple, rng: np.random.Generator, is_bounded: bool = is_bounded) -> Span95:
            groups = np.repeat(np.arange(len(sample[0]) // rows_per_group), rows_per_group).tolist()
            units, weights = pair_sides(*(sum_by_group(side, groups) for side in sample))
            return (
                bounded_interval(units, weights)
                if is_bounded
                else studentised_interval(units, weights, rng, NUM_RESAMPLES)
            )

        yield (
            f"{name} of groups of {rows_per_group}, difference",
            Case(
                lambda rng, n, draw=draw, gain=gain: draw(rng, n, gain, rows_per_group),
                float(ratio(sides[1].sum(0)) - ratio(sides[0].sum(0))),
                lambda sample, rng: percentile_interval(*pair_sides(*sample), rng),
                find,
            ),
        )


def measure_coverage(case: Case, num_units: int, num_trials: int, seed: int) -> tuple[float, float]:
    """Share of the old and of the new intervals that contain the truth; nan if there was no old one."""
    rng, held = np.random.default_rng(seed), [0.0, 0.0] if case.old else [np.nan, 0.0]
    for _ in range(num_trials):
        sample = case.draw(rng, num_units)
        for place, method in enumerate((case.old, case.new)):
            found = method(sample, rng) if method else None
            held[place] += found is not None and found[0] - 1e-9 <= case.truth <= found[1] + 1e-9
    return held[0] / num_trials, held[1] / num_trials


def measure_false_findings(num_trials: int, seed: int, num_groups: int, rows_per_group: int) -> float:
    """Share of families of three figures in which equally good models are called different."""
    rng, called = np.random.default_rng(seed), 0
    groups = np.repeat(np.arange(num_groups), rows_per_group).tolist()
    for trial in range(num_trials):
        sides = (
            draw_accuracy(rng, num_groups, 0.0, rows_per_group),
            draw_loss(rng, num_groups, 0.0, rows_per_group),
            draw_entities(rng, num_groups * rows_per_group, 0.0),
        )
        swapped = np.repeat(rng.random(num_groups) < 0.5, rows_per_group)[:, None]  # which is called tuned is a coin's
        accuracy, loss, f1 = ((np.where(swapped, b, a), np.where(swapped, a, b)) for a, b in sides)
        found = compare_metrics(
            [
                PairedMetric("accuracy", *accuracy, True, is_right_or_wrong=True, groups=groups),
                PairedMetric("loss", *loss, False, is_bounded=False, groups=groups),
                PairedMetric("f1", *f1, True, groups=groups),
            ],
            seed=trial,
            num_resamples=NUM_RESAMPLES,
        )
        called += any(figure["finding"] in ("better", "worse") for figure in found.values())
    return called / num_trials


def main() -> None:
    """Print every figure, a line each, then all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--evaluation", type=Path, help="folder with predictions.jsonl and metrics.json; of two models")
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    cases = [*(cases_of_rows(arguments.evaluation) if arguments.evaluation else ()), *cases_of_groups()]
    print(f"{'figure':44} {'true':>8}  " + "  ".join(f"{f'{size} rows: old new':>18}" for size in SIZES), flush=True)
    coverage = {}
    for name, case in cases:
        found = {size: measure_coverage(case, size, arguments.trials, arguments.seed) for size in SIZES}
        coverage[name] = {"truth": round(case.truth, 5), **found}
        shown = "  ".join(f"{f'{old:.1%} {new:.1%}':>18}" for old, new in found.values())
        print(f"{name:44} {case.truth:8.4f}  {shown}", flush=True)
    false_findings = {
        f"{num_groups} groups of {size}": measure_false_findings(arguments.trials, arguments.seed, num_groups, size)
        for num_groups, size in ((200, 1), (40, 8))
    }
    print(f"A/A, called different: {false_findings}", flush=True)
    facts = {"trials": arguments.trials, "duration_s": round(time.monotonic() - started, 1)}
    print(json.dumps({**facts, "coverage": coverage, "false_findings": false_findings}, ensure_ascii=False))


if __name__ == "__main__":
    main()
