"""Near duplicates: what the signatures propose and the texts confirm is what comparing all pairs finds."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.likeness import NUM_BANDS, NUM_HASHES, SignatureFile, find_near_duplicates, sign_texts
from sft.text import hash_ngrams, jaccard, shingles_of
from tests.data.planted import make_near_pairs, make_text


def test_hashes_and_signatures_are_the_same_on_every_machine():
    assert hash_ngrams("很好很好", 2).tolist() == GOLDEN_HASHES
    assert sign_texts(["房间很干净，服务也好", "What is LoRA?"])[:, :4].tolist() == GOLDEN_SIGNATURES


GOLDEN_HASHES = [16037390703161185956, 8897349163913245260, 16037390703161185956]
GOLDEN_SIGNATURES = [[62920, 30289, 8529, 52573], [56473, 51189, 63030, 13598]]


def test_shingles_are_of_the_bare_text_in_twos_for_han_and_fives_for_letters():
    assert len(shingles_of("很 好！很好")) == 2
    assert len(shingles_of("What is LoRA?")) == len("whatislora") - 4
    assert shingles_of("ＷＨＡＴ is lora").tolist() == shingles_of("What is LoRA?").tolist()
    assert len(shingles_of("")) == len(shingles_of("a")) == 1


@given(st.text(max_size=40), st.text(max_size=40))
def test_jaccard_is_shared_over_all(first, second):
    a, b = shingles_of(first), shingles_of(second)

    assert jaccard(a, b) == len(set(a.tolist()) & set(b.tolist())) / len(set(a.tolist()) | set(b.tolist()))
    assert jaccard(a, a) == 1


def test_a_text_is_signed_alike_alone_and_in_company(tmp_path):
    texts = [make_text("zh", random.Random(number)) for number in range(5)]

    together = sign_texts(texts)

    assert together.shape == (5, NUM_HASHES)
    assert [sign_texts([text])[0].tolist() for text in texts] == together.tolist()
    with SignatureFile(tmp_path / "signatures") as file:
        file.append(together[:2])
        file.append(together[2:])
        assert len(file) == 5
        assert file.read(np.array([4, 0])).tolist() == together[[4, 0]].tolist()
        keys = [file.band_keys(band) for band in range(NUM_BANDS)]
    assert len(np.unique(np.concatenate(keys))) == 5 * NUM_BANDS  # random texts share no band


def find(texts: list[str], folder, side: list[int] | None = None, threshold: float = 0.8) -> list[int]:
    shingles = [shingles_of(text) for text in texts]
    with SignatureFile(folder / f"signatures-{random.random()}") as file:
        file.append(sign_texts(texts))
        return find_near_duplicates(
            file,
            np.ones(len(texts), dtype=bool),
            threshold,
            lambda later, earlier: jaccard(shingles[later], shingles[earlier]) >= threshold,
            side=None if side is None else np.array(side),
        ).tolist()


def test_the_first_of_near_rows_stays_and_is_named(tmp_path):
    pair = next(make_near_pairs("zh", 1, 0.85, 0.95, random.Random(1)))
    other = make_text("en", random.Random(2))

    assert find([pair.text, other, pair.edited, pair.text], tmp_path) == [-1, -1, 0, 0]


def test_only_rows_of_a_lower_side_count_where_sides_are_given(tmp_path):
    pair = next(make_near_pairs("zh", 1, 0.85, 0.95, random.Random(1)))
    texts = [pair.text, pair.edited, pair.text, pair.edited]

    assert find(texts, tmp_path, side=[1, 1, 1, 1]) == [-1, -1, -1, -1]
    assert find(texts, tmp_path, side=[2, 1, 1, 1]) in ([1, -1, -1, -1], [2, -1, -1, -1], [3, -1, -1, -1])
    assert find(texts, tmp_path, side=[0, 1, 0, 2])[1] in (0, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_pair_below_the_threshold_is_found_and_no_pair_above_stays(tmp_path_factory, seed):
    rng = random.Random(seed)
    texts = [text for pair in make_near_pairs("zh", 6, 0.7, 0.95, rng) for text in pair[:2]]
    rng.shuffle(texts)
    shingles = [shingles_of(text) for text in texts]

    twins = find(texts, tmp_path_factory.mktemp("near"))

    for number, twin in enumerate(twins):
        assert twin == -1 or (twin < number and jaccard(shingles[number], shingles[twin]) >= 0.8)
    staying = [number for number, twin in enumerate(twins) if twin == -1]
    missed = [(a, b) for a in staying for b in staying if a < b and jaccard(shingles[a], shingles[b]) >= 0.82]
    assert len(missed) <= 1
