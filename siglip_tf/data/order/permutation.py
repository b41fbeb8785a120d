"""A seeded shuffle of [0, n) that is computed only for the requested indices, so no array of size n is in memory.

A Feistel network permutes [0, 2^(2h)), the smallest such range that holds n numbers. A result outside [0, n) goes
through the network again until it falls inside, which keeps the map one-to-one (cycle walking).

Source: Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions" (1988);
Black and Rogaway, "Ciphers with arbitrary finite domains" (2002); SplitMix64 (Steele, Lea, Flood, 2014) for the hash.
"""

import numpy as np
from numpy.typing import ArrayLike

_ROUNDS = 6
# The largest domain that `permute` takes.
MAX_SIZE = 1 << 62


def _avalanche(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def mix(*parts: ArrayLike) -> np.ndarray:
    """Hashes integers to uniformly distributed 64-bit numbers.

    Args:
        parts: integers in [0, 2^63), scalars or arrays of shapes that broadcast against each other.

    Returns:
        uint64 of the broadcast shape, at least one-dimensional.
    """
    state = np.array([0x243F6A8885A308D3], np.uint64)
    for part in parts:
        state = _avalanche((state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return state


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> np.ndarray:
    """Maps each index by the permutation of [0, size) that `key` determines.

    Args:
        index: integers (m,), each in [0, size).
        size: integer, scalar or (m,), at most 2^62.
        key: integer, scalar or (m,).

    Returns:
        int64 (m,). For a fixed size and key, different indices give different results in [0, size).
    """
    index = np.atleast_1d(index).astype(np.uint64)
    size = np.broadcast_to(np.asarray(size).astype(np.uint64), index.shape)
    powers = np.array([1 << 2 * h for h in range(1, 31)], np.uint64)
    half = (1 + np.searchsorted(powers, size, side="left")).astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.broadcast_to(mix(key, r), index.shape) for r in range(_ROUNDS)]
    image = index.copy()
    walking = np.arange(len(index))
    while len(walking):
        h, m = half[walking], mask[walking]
        left, right = image[walking] >> h, image[walking] & m
        for round_key in keys:
            left, right = right, left ^ (_avalanche(right ^ round_key[walking]) & m)
        image[walking] = left << h | right
        walking = walking[image[walking] >= size[walking]]
    return image.astype(np.int64)
