"""The lines of `stats.jsonl` as they are read: somebody else may have written them."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unitgain.analysis.buckets import resolution_of
from unitgain.trust import LARGEST, is_number, read_rows

TICK = frozenset({"lr", "images_per_second", "seconds"})  # what a line with a loss has in any case
Check = Callable[[Any], bool]


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `stats.jsonl`; none where there is no file.

    Without a line that a crash cut short, or one in which something is of another type than it is written here.

    Raises:
        OSError: if it is no ordinary file.
        LimitError: if it is far too long.
    """
    try:
        return [row for row in read_rows(run / "stats.jsonl") if is_sound(row)]
    except FileNotFoundError:
        return []


def read_ticks(run: Path) -> list[dict[str, Any]]:
    """Those lines of `read_stats` that have a loss, one per tick."""
    return [row for row in read_stats(run) if "loss" in row]


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether each value of a line that is shown, compared, added or drawn is of the type for that."""
    nimg = row.get("nimg")
    if type(nimg) is not int or not 0 <= nimg < 2**53 or ("loss" in row and not row.keys() >= TICK):
        return False
    return all(check(row[name]) for name, check in CHECKS.items() if name in row)


def _maybe(value: object) -> bool:
    return value is None or is_number(value)


def _text_or_number(value: object) -> bool:
    return isinstance(value, str) or _maybe(value)


def _named(inner: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(inner, value.values()))


def _buckets(value: object) -> bool:
    return _named(_named(is_number))(value) and all(resolution_of(name) is not None for name in value)  # type: ignore[attr-defined]


def _levels(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() >= {"ln_sigma", "images", "error", "loss", "u"}:
        return False
    if not isinstance(value["ln_sigma"], list) or not value["ln_sigma"]:
        return False
    columns = [value["ln_sigma"], value["images"], value["error"], value["loss"]]
    columns += [] if value["u"] is None else [value["u"]]
    if not all(isinstance(column, list) and len(column) == len(value["ln_sigma"]) for column in columns):
        return False
    sigmas, images, *others = columns
    return (
        all(is_number(place) and abs(place) < math.log(LARGEST) for place in sigmas)
        and all(is_number(count) and count >= 0 for count in images)
        and all(map(_maybe, (one for column in others for one in column)))
    )


CHECKS: dict[str, Check] = {
    **dict.fromkeys(("lr", "images_per_second", "seconds", "nonfinite_steps", "evaluation_seconds"), is_number),
    **dict.fromkeys(("loss", "flops_per_second", "peak_share", "data_wait_share", "memory_bytes"), _maybe),
    "stopped": lambda value: isinstance(value, str),
    "grid": lambda value: isinstance(value, dict),
    "noise_levels": _levels,
    "parts": _named(_named(_maybe)),
    "magnitudes": _buckets,
    "metrics": _named(_text_or_number),
    "nonfinite": _named(is_number),
}
