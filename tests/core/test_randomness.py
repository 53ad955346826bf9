"""The counter-based generator: published vectors, purity and uniformity."""

import numpy as np
import pytest
from scipy import stats

from attndistill.core.randomness import derived_seed, permutation, philox, uniforms

ALL = np.arange(5000, dtype=np.int64)

# Random123's kat_vectors for philox 4x32 10: counter, key, output.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_published_vectors(counter: str, key: str, output: str) -> None:
    first, second = words(key)
    assert philox((first, second), np.array(words(counter), np.uint64)).tolist() == words(output)


def test_a_draw_depends_on_its_index_and_not_on_its_company() -> None:
    together = uniforms(7, "view", 3, ALL, 23)
    shuffled = np.random.default_rng(0).permutation(ALL)
    np.testing.assert_array_equal(uniforms(7, "view", 3, shuffled, 23), together[shuffled])
    np.testing.assert_array_equal(uniforms(7, "view", 3, ALL[41:42], 23), together[41:42])
    np.testing.assert_array_equal(uniforms(7, "view", 3, ALL, 5), together[:, :5])


@pytest.mark.parametrize("other", [(8, "view", 3), (7, "order", 3), (7, "view", 4)])
def test_seed_stream_and_epoch_each_give_unrelated_draws(other: tuple[int, str, int]) -> None:
    mine, theirs = uniforms(7, "view", 3, ALL, 1)[:, 0], uniforms(*other, ALL, 1)[:, 0]
    assert abs(np.corrcoef(mine, theirs)[0, 1]) < 0.06
    assert not np.isin(mine, theirs).any()


def test_draws_are_uniform_and_unrelated_across_draws_and_indices() -> None:
    draws = uniforms(0, "view", 0, ALL, 8)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in draws.T)
    off_diagonal = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(off_diagonal).max() < 0.06
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.06


def test_indices_beyond_32_bits_have_draws_of_their_own() -> None:
    low, high = uniforms(0, "view", 0, np.array([5, 5 + 2**32], np.int64), 4)
    assert not np.isin(low, high).any()


def test_a_permutation_is_one_and_changes_with_the_epoch() -> None:
    first, second = permutation(0, "order", 0, 1000), permutation(0, "order", 1, 1000)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    assert (first == second).mean() < 0.02
    np.testing.assert_array_equal(first, permutation(0, "order", 0, 1000))


def test_every_item_comes_first_equally_often() -> None:
    firsts = np.bincount([permutation(seed, "order", 0, 5)[0] for seed in range(1000)], minlength=5)
    assert stats.chisquare(firsts).pvalue > 1e-3


def test_derived_seeds_are_pinned_and_fit_63_bits() -> None:
    assert derived_seed(0, "weights") != derived_seed(0, "order") != derived_seed(1, "order")
    assert all(0 <= derived_seed(seed, "weights") < 2**63 for seed in range(200))
    assert derived_seed(0, "weights") == 4194789700723333633  # a change here changes every published figure
