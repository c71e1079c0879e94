"""Pictures by matplotlib: figures, their colors, and how they are written."""

import io
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unitgain.extras import require
from unitgain.files import atomic
from unitgain.text import plot_label

SUFFIXES = (".svg", ".png", ".pdf")
INK, ACCENT, SOFT = "#1f4e79", "#c0392b", "#7da0c4"
LIGHTEST = 0.6  # of the palette: lighter colors would be hard to see on white, and inverted, in the dark
T = TypeVar("T", bound=Hashable)


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, of so many inches.

    Raises:
        ImportError: without matplotlib.
    """
    return require("matplotlib.figure", extra="plot").Figure(figsize=(width, height), layout="constrained")


def new_axes(xlabel: str, ylabel: str, size: tuple[float, float] = (4.6, 3.0)) -> tuple[Any, Any]:
    """A figure, and its axes."""
    figure = new_figure(*size)
    axes = figure.add_subplot(xlabel=plot_label(xlabel), ylabel=plot_label(ylabel))
    return figure, axes


def colors(things: Sequence[T]) -> dict[T, Any]:
    """A color for each of some things in order, from dark to light."""
    palette = require("matplotlib", extra="plot").colormaps["viridis"]
    return {thing: palette(LIGHTEST * i / max(len(things) - 1, 1)) for i, thing in enumerate(things)}


def check_picture(path: Path) -> None:
    """Raise `ValueError` unless a picture can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a picture's name ends in one of {', '.join(SUFFIXES)}")


def save(figure: Any, path: Path) -> None:
    """Write a figure, atomically; the name says the format, and the same figure gives the same bytes.

    Raises:
        ValueError: if it is none that can be written.
    """
    check_picture(path)
    with atomic(path) as temporary:
        _write(figure, temporary, path.suffix[1:].lower())


def svg(figure: Any) -> str:
    """A figure as SVG text, for a page."""
    buffer = io.StringIO()
    _write(figure, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _write(figure: Any, file: Any, kind: str) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with require("matplotlib", extra="plot").rc_context({"svg.hashsalt": "unitgain"}):
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
