"""Near duplicates: rows whose shingles are mostly another row's, found by signatures and checked on the texts.

A row is never called a near duplicate by its signature alone: each pair that shares a band is compared shingle by
shingle, so a pair below the threshold is never dropped, and one above it is missed with less than one in a hundred.
"""

from collections.abc import Callable, Iterator

import numpy as np

from sft.console import progress
from sft.data.signatures import NUM_BANDS, NUM_HASHES, SignatureFile

MARGIN = 0.16  # four standard deviations of a Jaccard of .8 that is estimated by 96 hashes

SHOWN_FROM = 50_000  # rows; fewer take seconds

IsNear = Callable[[int, int], bool]


def find_near_duplicates(
    signatures: SignatureFile,
    alive: np.ndarray,  # (N,) bool: rows to look at
    threshold: float,
    is_near: IsNear,
    *,
    side: np.ndarray | None = None,  # (N,) int: only rows of different sides are compared, and the lower side stays
) -> np.ndarray:
    """For each row the earlier row it is a near duplicate of, or -1: (N,) int64.

    The row named stays itself, unless it is near an even earlier one that shares another band with it.
    """
    alive = alive.copy()
    twins = np.full(len(alive), -1, dtype=np.int64)
    refused: set[tuple[int, int]] = set()  # pairs that share several bands are compared once
    num_rows = int(np.count_nonzero(alive))
    shown = num_rows >= SHOWN_FROM
    for band in progress(range(NUM_BANDS), description=f"compare {num_rows:,} rows", unit="band", shown=shown):
        for members in _runs(signatures.band_keys(band), alive, side):
            _compare(members, signatures.read(members), threshold, is_near, side, twins, refused)
        alive &= twins < 0
    return twins


def _runs(keys: np.ndarray, alive: np.ndarray, side: np.ndarray | None) -> Iterator[np.ndarray]:
    """Rows that share a band's key, two or more, of two sides or more, in the order of side and number."""
    numbers = np.flatnonzero(alive)
    if side is not None:
        numbers = numbers[np.argsort(side[numbers], kind="stable")]
    numbers = numbers[np.argsort(keys[numbers], kind="stable")]
    if not len(numbers):
        return
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys[numbers]) != 0]))
    ends = np.append(starts[1:], len(numbers))
    wanted = ends - starts > 1
    if side is not None:
        sides = side[numbers]
        wanted &= np.minimum.reduceat(sides, starts) != np.maximum.reduceat(sides, starts)
    for start, end in zip(starts[wanted].tolist(), ends[wanted].tolist(), strict=True):
        yield numbers[start:end]


def _compare(
    members: np.ndarray,
    rows: np.ndarray,  # (M, NUM_HASHES) their signatures
    threshold: float,
    is_near: IsNear,
    side: np.ndarray | None,
    twins: np.ndarray,
    refused: set[tuple[int, int]],
) -> None:
    """Compare each row with those before it that stay; enter what is found in `twins`."""
    staying = [0]  # positions in members
    lower = np.zeros(0, dtype=np.int64)  # those of a lower side than the row's own
    for position in range(1, len(members)):
        if side is None:
            others = np.array(staying)
        elif side[members[position]] != side[members[position - 1]]:
            others = lower = np.array(staying)
        else:
            others = lower
        equal = np.count_nonzero(rows[others] == rows[position], axis=1)
        likely = equal >= (threshold - MARGIN) * NUM_HASHES
        for other in others[likely][np.argsort(-equal[likely], kind="stable")].tolist():
            pair = int(members[position]), int(members[other])
            if pair in refused:
                continue
            if is_near(*pair):
                twins[pair[0]] = pair[1]
                break
            refused.add(pair)
        else:
            staying.append(position)
