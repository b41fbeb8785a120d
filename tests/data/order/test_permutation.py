"""The index shuffle is a bijection, spreads well, and depends on its key."""

import numpy as np
import pytest
import scipy.stats

from siglip_tf.data.order.permutation import mix, permute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097])
def test_every_index_is_hit_once(size):
    image = permute(np.arange(size), size, 7)
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


def test_sizes_and_keys_may_differ_by_element():
    sizes = np.array([3] * 3 + [10] * 10 + [64] * 64)
    keys = np.array([1] * 3 + [2] * 10 + [3] * 64)
    index = np.concatenate([np.arange(3), np.arange(10), np.arange(64)])
    image = permute(index, sizes, keys)
    for size, key in ((3, 1), (10, 2), (64, 3)):
        np.testing.assert_array_equal(image[sizes == size], permute(np.arange(size), size, key))


def test_huge_domains_stay_inside_and_distinct():
    size = 3 * 2**38 + 1
    image = permute(np.arange(size - 20_000, size), size, 1)
    assert len(set(image.tolist())) == 20_000
    assert 0 <= image.min() < image.max() < size
    # Neighbours land anywhere: uniform over the domain.
    assert scipy.stats.kstest(image / size, "uniform").pvalue > 1e-3


def test_the_shuffle_looks_random():
    """Where one index goes over many keys is uniform, and so is the distance of two neighbours' images."""
    size, keys = 50, 20_000
    index = np.zeros(keys, int)
    first = permute(index, size, np.arange(keys))
    second = permute(index + 1, size, np.arange(keys))
    assert scipy.stats.chisquare(np.bincount(first, minlength=size)).pvalue > 1e-4
    assert scipy.stats.chisquare(np.bincount((second - first) % size, minlength=size)[1:]).pvalue > 1e-4


def test_mix_spreads_bits_and_depends_on_all_parts():
    values = mix(np.arange(100_000), 3)
    for bits in (values % np.uint64(64), values >> np.uint64(58)):
        assert scipy.stats.chisquare(np.bincount(bits.astype(int), minlength=64)).pvalue > 1e-4
    assert len({int(mix(*parts)[0]) for parts in ((1, 2), (2, 1), (1, 3), (1,), (1 + 2**32, 2))}) == 5
