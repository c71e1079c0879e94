"""Charts of characters, for terminals: a curve in braille dots, bars in eighths."""

import itertools
from collections.abc import Sequence

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille character, by column and row
EIGHTHS = " ▏▎▍▌▋▊▉█"


def curve(values: Sequence[float], width: int, height: int, plain: bool = False) -> tuple[list[str], float, float]:
    """A curve as lines of characters, and the values at its top and bottom.

    What lies far above the rest, as a loss does in the beginning, is cut off at the top.

    Args:
        values: finite, at even distances, at least one.
        width: characters.
        height: lines.
        plain: of stars rather than braille, one to a character.
    """
    across, down = (1, 1) if plain else (2, 4)
    points = _resampled(values, width * across)
    low, high = _limits(points)
    rows = [round((high - min(max(value, low), high)) / (high - low) * (height * down - 1)) for value in points]
    cells = [[0] * width for _ in range(height)]
    for x, row in enumerate(rows):
        before = rows[x - 1] if x else row
        for y in range(min(row, before + (before < row)), max(row, before - (before > row)) + 1):
            cells[y // down][x // across] |= DOTS[x % across][y % down]
    draw = (lambda cell: "*" if cell else " ") if plain else (lambda cell: chr(0x2800 + cell))
    return ["".join(map(draw, line)) for line in cells], high, low


def bar(share: float, width: int, plain: bool = False) -> str:
    """A bar of up to `width` characters, `share` of it filled."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if plain:
        return "#" * round(eighths / 8)
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def _limits(points: Sequence[float]) -> tuple[float, float]:
    ranked = sorted(points)
    low, high, most = ranked[0], ranked[int(0.85 * (len(ranked) - 1))], ranked[-1]
    high = min(most, high + 0.5 * (high - low)) if high > low else most
    room = max(0.5, 1e-9 * abs(low))
    return (low, high) if high > low else (low - room, low + room)


def _resampled(values: Sequence[float], count: int) -> list[float]:
    """Means of what falls together where there are many, straight lines between where there are few."""
    if len(values) >= count:
        edges = [i * len(values) // count for i in range(count + 1)]
        return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    places = [i * (len(values) - 1) / max(count - 1, 1) for i in range(count)]
    pairs = [(values[int(p)], values[min(int(p) + 1, len(values) - 1)], p % 1) for p in places]
    return [a + (b - a) * part for a, b, part in pairs]
