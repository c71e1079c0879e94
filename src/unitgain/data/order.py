"""The order of the data: a stateless permutation of each epoch.

The index of the k-th image of a run is computed at once for any k, with no list in memory: a Feistel network permutes
the smallest even-bit power of two that holds the data set, and values past its end are permuted again until they fall
inside (cycle walking). Any process at any time knows which image comes where, so runs resume exactly.
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
FLIPS, LABELS, CONDITIONS = 0x666C6970, 0x6C61626C, 0x636F6E64  # what random numbers of images are for


def indices(start: int, count: int, size: int, seed: int) -> NDArray[np.int64]:
    """Indices of the images number `start` ... `start + count - 1` of a run.

    Args:
        start: images seen before, at least 0.
        count: how many, at least 0.
        size: images in the data set, at least 1.
        seed: of the run; each (seed, epoch) has an order of its own.

    Returns:
        int64 `[count]`; every run of `size` numbers that begins at a multiple of `size` is a permutation.

    Raises:
        ValueError: if `size` < 1, or `start` or `count` < 0.
    """
    if size < 1 or start < 0 or count < 0:
        raise ValueError(f"order of data needs size >= 1, start >= 0 and count >= 0, not {size=}, {start=}, {count=}")
    number = np.arange(start, start + count, dtype=np.uint64)
    epoch, position = number // np.uint64(size), number % np.uint64(size)
    keys = mix(mix(np.uint64(seed % 2**64) + np.uint64(0x9E3779B97F4A7C15) * (epoch + np.uint64(1))))
    half_bits = max((max(size - 1, 1).bit_length() + 1) // 2, 1)
    value = _feistel(position, keys, half_bits)
    while (outside := value >= size).any():
        value[outside] = _feistel(value[outside], keys[outside], half_bits)
    return value.astype(np.int64)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers, one to one (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def derive(*parts: int) -> int:
    """A 63-bit seed from integers: the same parts give the same seed, other parts an unrelated one."""
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = mix(state + np.uint64(part % 2**64) + np.uint64(0x9E3779B97F4A7C15))
    return int(state[0]) >> 1


def _feistel(value: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    mask, shift = np.uint64(2**half_bits - 1), np.uint64(half_bits)
    left, right = value >> shift, value & mask
    for round_number in range(ROUNDS):
        with np.errstate(over="ignore"):
            scrambled = mix(keys + right * np.uint64(0xD1342543DE82EF95) + np.uint64(round_number))
        left, right = right, left ^ (scrambled & mask)
    return (left << shift) | right


def uniform(start: int, count: int, seed: int, purpose: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each of the images number `start` ... `start + count - 1` of a run.

    A function of the seed, the purpose (`FLIPS`, `LABELS`) and the number of the image in the run alone, so each epoch
    draws again.
    """
    number = np.arange(start, start + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        keys = mix(number + np.uint64(derive(seed, purpose)))
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def flips(start: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Whether the images number `start` ... `start + count - 1` of a run are mirrored: a fair coin for each."""
    return uniform(start, count, seed, FLIPS) >= 0.5
