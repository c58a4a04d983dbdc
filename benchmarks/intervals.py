"""How often the intervals of a comparison hold the true difference, and how often equal models are called different.

Each trial draws the rows anew, from a population whose true difference is known: by construction where it is 0 or a
shift, else from 400,000 rows. Wanted: 93 to 97 % of the intervals hold it, and at most 5 % of the comparisons of a
model with another that is as good on average (A/A) call one better or worse on any figure. Prints one JSON line last.
    python -m benchmarks.intervals                    # 2,000 trials each, 6 minutes on one core
    python -m benchmarks.intervals --trials 200
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sft.metrics.comparison import PairedMetric, Sums, compare_metrics, fewer_errors, micro_f1, ratio
from sft.metrics.resampling import bootstrap_interval

NUM_RESAMPLES = 1_000
POPULATION = 400_000
Draw = Callable[[np.random.Generator, int], tuple[Sums, Sums]]  # (rng, number of units) -> (N, K) of base and tuned


@dataclass(frozen=True)
class Scenario:
    """Rows of one kind. rows_per_group > 1: rows of a group are alike, and so are both models' answers to them."""

    draw: Draw
    combine: Callable[[Sums], Sums]
    num_groups: int
    rows_per_group: int = 1


def draw_accuracy(rng: np.random.Generator, num_groups: int, *, gain: float, rows_per_group: int = 1) -> tuple:
    """Right or wrong. Groups are easy or hard for both models, and some are all gained or all lost by tuning."""
    ability = np.repeat(rng.uniform(0.2, 0.9, num_groups), rows_per_group)
    effect = np.repeat(rng.choice([-0.2, 0.2], num_groups), rows_per_group) if rows_per_group > 1 else 0.0
    chance = np.clip(ability + gain + effect, 0, 1)
    ones = np.ones(len(ability))
    return tuple(np.stack([(rng.random(len(p)) < p) * 1.0, ones], 1) for p in (ability, chance))


def draw_loss(rng: np.random.Generator, num_groups: int, *, gain: float, rows_per_group: int = 1) -> tuple:
    """nll of skewed rows of 5 to 200 tokens; a group's rows share a level and what tuning does to it."""
    num_rows = num_groups * rows_per_group
    tokens = rng.integers(5, 200, num_rows).astype(float)
    level = np.repeat(rng.lognormal(0.5, 0.4, num_groups), rows_per_group)
    effect = np.repeat(rng.normal(gain, 0.2, num_groups), rows_per_group)
    base = level * rng.lognormal(0, 0.3, num_rows)
    tuned = base * np.exp(effect) * rng.lognormal(0, 0.1, num_rows)
    return np.stack([base * tokens, tokens], 1), np.stack([tuned * tokens, tokens], 1)


def draw_entities(rng: np.random.Generator, num_groups: int, *, gain: float) -> tuple:
    """(found, predicted, gold) of rows with 0 to 5 entities."""
    gold = rng.integers(0, 6, num_groups)
    skill = rng.uniform(0.2, 0.7, num_groups)
    sides = []
    for chance in (skill, skill + gain):
        found = rng.binomial(gold, chance)
        sides.append(np.stack([found, found + rng.binomial(2, 0.3, num_groups), gold], 1).astype(float))
    return tuple(sides)


SCENARIOS = {
    "accuracy, 200 rows": Scenario(lambda rng, n: draw_accuracy(rng, n, gain=0.05), ratio, 200),
    "accuracy, 50 rows": Scenario(lambda rng, n: draw_accuracy(rng, n, gain=0.05), ratio, 50),
    "loss, 200 rows": Scenario(lambda rng, n: draw_loss(rng, n, gain=-0.1), ratio, 200),
    "F1, 200 rows": Scenario(lambda rng, n: draw_entities(rng, n, gain=0.1), micro_f1, 200),
    "accuracy, 40 groups of 8": Scenario(
        lambda rng, n: draw_accuracy(rng, n, gain=0.02, rows_per_group=8), ratio, 40, 8
    ),
    "loss, 40 groups of 8": Scenario(lambda rng, n: draw_loss(rng, n, gain=-0.1, rows_per_group=8), ratio, 40, 8),
    "accuracy, 20 groups of 8": Scenario(
        lambda rng, n: draw_accuracy(rng, n, gain=0.02, rows_per_group=8), ratio, 20, 8
    ),
}


def measure_coverage(scenario: Scenario, num_trials: int, seed: int) -> dict[str, float]:
    """Share of intervals that hold the truth; by_row: the same without the groups, as most tools have it."""
    rng = np.random.default_rng(seed)
    base, tuned = scenario.draw(rng, POPULATION // scenario.rows_per_group)
    truth = float(scenario.combine(tuned.sum(0)) - scenario.combine(base.sum(0)))
    groups = np.repeat(np.arange(scenario.num_groups), scenario.rows_per_group).tolist()
    held = held_by_row = 0
    for _ in range(num_trials):
        sides = scenario.draw(rng, scenario.num_groups)
        low, high = bootstrap_interval(*sides, scenario.combine, rng, NUM_RESAMPLES, groups=groups)
        held += low <= truth <= high
        if scenario.rows_per_group > 1:
            low, high = bootstrap_interval(*sides, scenario.combine, rng, NUM_RESAMPLES)
            held_by_row += low <= truth <= high
    found = {"truth": round(truth, 5), "coverage": held / num_trials}
    return found | ({"coverage_by_row": held_by_row / num_trials} if scenario.rows_per_group > 1 else {})


def measure_false_findings(num_trials: int, seed: int, rows_per_group: int) -> float:
    """Share of families of three figures in which equally good models are called different."""
    rng = np.random.default_rng(seed)
    num_groups = 200 // rows_per_group
    groups = np.repeat(np.arange(num_groups), rows_per_group).tolist()
    called = 0
    for trial in range(num_trials):
        accuracy = draw_accuracy(rng, num_groups, gain=0.0, rows_per_group=rows_per_group)
        loss = draw_loss(rng, num_groups, gain=0.0, rows_per_group=rows_per_group)
        swap = rng.random(num_groups) < 0.5  # which model is called tuned is a coin's toss for each group
        pairs = [_swap(sides, np.repeat(swap, rows_per_group)) for sides in (accuracy, loss)]
        pairs.append(_swap(draw_entities(rng, num_groups * rows_per_group, gain=0.0), np.repeat(swap, rows_per_group)))
        found = compare_metrics(
            [
                PairedMetric("accuracy", *pairs[0], ratio, True, is_right_or_wrong=True, groups=groups),
                PairedMetric("loss", *pairs[1], ratio, False, groups=groups),
                PairedMetric("f1", *pairs[2], micro_f1, True, row_score=fewer_errors, groups=groups),
            ],
            seed=trial,
            num_resamples=NUM_RESAMPLES,
        )
        called += any(figure["finding"] != "unclear" for figure in found.values())
    return called / num_trials


def _swap(sides: tuple, swapped: np.ndarray) -> tuple:
    base, tuned = sides
    return np.where(swapped[:, None], tuned, base), np.where(swapped[:, None], base, tuned)


def main() -> None:
    """Every scenario in turn, a line each, then all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    coverage = {}
    for name, scenario in SCENARIOS.items():
        coverage[name] = measure_coverage(scenario, arguments.trials, arguments.seed)
        print(f"{name}: {coverage[name]}", flush=True)
    false_findings = {}
    for name, rows_per_group in (("200 rows", 1), ("25 groups of 8", 8)):
        false_findings[name] = measure_false_findings(arguments.trials, arguments.seed, rows_per_group)
        print(f"A/A, {name}: {false_findings[name]}", flush=True)
    print(
        json.dumps(
            {
                "trials": arguments.trials,
                "resamples": NUM_RESAMPLES,
                "coverage": coverage,
                "false_findings": false_findings,
                "duration_s": round(time.monotonic() - started, 1),
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
