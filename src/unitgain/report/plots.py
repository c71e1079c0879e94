"""Plots of reports, as SVG text."""

import io
from collections.abc import Sequence
from typing import Any

from unitgain.extras import require
from unitgain.trust import plot_label

INK, ACCENT, SOFT = "#1f4e79", "#c0392b", "#9bb7d4"


def distance_curve(lengths: Sequence[float], distances: Sequence[float], raw: float, metric: str) -> str:
    """Distance against EMA length, the best one marked, with the raw weights as a line."""
    figure, axes = new_axes("EMA length sigma_rel", metric)
    axes.axhline(raw, color=ACCENT, linestyle="--", label="raw weights")
    axes.plot(lengths, distances, "o-", color=INK, label="post-hoc EMA")
    best = min(range(len(lengths)), key=lambda i: distances[i])
    axes.plot(lengths[best], distances[best], "o", color=INK, markersize=11, fillstyle="none")
    axes.annotate(
        f"{distances[best]:.3f} at {lengths[best]:g}",
        (lengths[best], distances[best]),
        xytext=(0, 14),
        textcoords="offset points",
        ha="center",
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return svg(figure)


def class_bars(names: Sequence[str], accuracy: Sequence[float]) -> str:
    """Accuracy per class."""
    figure, axes = new_axes("class asked for", "named as asked")
    axes.bar([plot_label(name) for name in names], accuracy, color=SOFT)
    for i, value in enumerate(accuracy):
        axes.text(i, value, f"{100 * value:.0f}%", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.1)
    return svg(figure)


def new_axes(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    """A figure of matplotlib, and its axes."""
    figure = require("matplotlib.figure", extra="plot").Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(plot_label(xlabel))
    axes.set_ylabel(plot_label(ylabel))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """A figure of matplotlib as SVG text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
