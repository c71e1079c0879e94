"""Which seeds there are."""

from collections.abc import Sequence

SEEDS = 2**32  # as many as official generators tell apart, which take a seed modulo this


def check_seeds(seeds: Sequence[int], what: str = "seed") -> None:
    """Raise `ValueError` unless each seed is a whole number from 0 to 2^32 - 1: beyond, two seeds would be one."""
    if len(seeds) and not (min(seeds) >= 0 and max(seeds) < SEEDS):
        wrong = min(seeds) if min(seeds) < 0 else max(seeds)
        raise ValueError(f"{what} {wrong} is out of range: seeds are whole numbers from 0 to {SEEDS - 1}")
