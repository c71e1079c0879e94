"""Plots of a run: curves over training, loss by noise level, magnitudes by part. As SVG text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unitgain.analysis.plots import part_styles
from unitgain.figures import ACCENT, INK, SOFT, colors, new_axes, svg
from unitgain.report.history import Row, exp_u, pooled
from unitgain.text import evenly, plot_label

TIMES = 5  # curves of noise levels
POOLED = 5  # percent of the ticks that each of them stands for
BESIDE: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


def over_training(
    nimg: Sequence[int], values: Sequence[float], label: str, *, zero: bool = False, robust: bool = False
) -> str:
    """One quantity against images seen.

    Args:
        nimg: images seen.
        values: as many.
        label: of the axis.
        zero: begin the axis at 0.
        robust: end the axis where the later values do, and let the first ones leave it.
    """
    figure, axes = new_axes("images seen", label)
    axes.plot(nimg, values, color=INK, marker="o" if len(values) < 3 else None)
    _in_thousands(axes)
    if zero:
        axes.set_ylim(0, 1.08 * max(values) or 1.0)
    if robust and len(values) >= 5:
        later = values[len(values) // 5 :]
        low, high = min(later), max(later)
        room = 0.1 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
    return svg(figure)


def noise_levels(ticks: Sequence[Row]) -> str:
    """Denoising error by noise level at some times, with exp(u(sigma)) at the last (the first EDM paper, Fig. 5a).

    Each time stands for the ticks of a twentieth of the training before it, because few images fall into the outer
    bins.
    """
    ticks = [row for row in ticks if "noise_levels" in row]
    figure, axes = new_axes("sigma", "denoising error, weighted")
    places = evenly(range(len(ticks)), TIMES)
    palette = colors(places[::-1])
    for place in places:
        levels = pooled(ticks[max(place + 1 - POOLED * len(ticks) // 100, 0) : place + 1] or ticks[place : place + 1])
        assert levels is not None
        last = place == places[-1]
        error = [math.nan if value is None else value for value in levels["error"]]
        axes.plot(
            _sigma(levels),
            error,
            color=INK if last else palette[place],
            lw=2 if last else 1.2,
            label=short(ticks[place]["nimg"]),
        )
    levels = ticks[-1]["noise_levels"]
    if levels["u"] is not None:
        u = [math.nan if value is None else exp_u(value) for value in levels["u"]]
        axes.plot(_sigma(levels), u, "--", color=ACCENT, label="exp u(sigma)")
    axes.axhline(1, color="#999999", linewidth=0.7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.6)
    axes.legend(title="images seen", title_fontsize=8, **BESIDE)
    return svg(figure)


def images_by_level(ticks: Sequence[Row]) -> str:
    """How much each noise level weighs: images in each bin over the whole of these ticks."""
    levels = pooled(ticks)
    assert levels is not None
    figure, axes = new_axes("sigma", "share of images")
    names = [f"{sigma:.2g}" for sigma in _sigma(levels)]
    axes.bar(range(len(names)), [count / max(sum(levels["images"]), 1) for count in levels["images"]], color=SOFT)
    axes.set_xticks(range(len(names)), [plot_label(name) for name in names], fontsize=7, rotation=45)
    return svg(figure)


def by_part(ticks: Sequence[Row], quantity: str, label: str) -> str:
    """A magnitude of every part over training, on a logarithmic axis; "ratio" is that of update to weight."""
    rows = [row for row in ticks if "parts" in row]
    lines = {part: [_value(row["parts"].get(part, {}), quantity) for row in rows] for part in rows[-1]["parts"]}
    return _lines([row["nimg"] for row in rows], lines, label, logarithmic=True)


def by_bucket(rows: Sequence[Row], quantity: str, label: str) -> str:
    """A magnitude of activations or weights by resolution over training (EDM2, Fig. 15)."""
    buckets = rows[-1]["magnitudes"]
    lines = {name: [row["magnitudes"].get(name, {}).get(quantity, math.nan) for row in rows] for name in buckets}
    return _lines([row["nimg"] for row in rows], lines, label, logarithmic=False)


def _lines(nimg: Sequence[int], lines: Mapping[str, Sequence[float]], label: str, logarithmic: bool) -> str:
    figure, axes = new_axes("images seen", label)
    for part, style in part_styles(lines).items():
        axes.plot(
            nimg, lines[part], label=plot_label(part), linewidth=1.3, marker="o" if len(nimg) < 3 else None, **style
        )
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _in_thousands(axes)
    axes.legend(**BESIDE)
    return svg(figure)


def short(nimg: int) -> str:
    """A number of images in a few characters: 640, 12.8k, 1.5M, 2.1G."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if nimg >= size:
            return f"{nimg / size:.4g}{unit}"
    return str(nimg)


def _sigma(levels: Mapping[str, Any]) -> list[float]:
    return [math.exp(place) for place in levels["ln_sigma"]]


def _in_thousands(axes: Any) -> None:
    axes.xaxis.set_major_formatter(lambda value, _: short(round(value)))


def _value(part: Mapping[str, float | None], quantity: str) -> float:
    value = part.get("update" if quantity == "ratio" else quantity)
    weight = part.get("weight") if quantity == "ratio" else 1.0
    return value / weight if value and weight else math.nan  # 0 has no place on a logarithmic axis
