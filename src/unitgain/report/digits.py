"""The report of `unitgain demo`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.images import grid
from unitgain.figures import ACCENT, INK, SOFT, new_axes, svg
from unitgain.report.curves import over_training
from unitgain.report.page import page, paragraph, picture, plot, side_by_side, table
from unitgain.text import plot_label


def digits_page(
    result: Mapping[str, Any],
    ticks: Sequence[Mapping[str, Any]],
    samples: UInt8[Tensor, "n c h w"],
    real: UInt8[Tensor, "n c h w"],
    columns: int,
) -> str:
    """The report as HTML.

    Args:
        result: contents of `report.json`.
        ticks: lines of `stats.jsonl`.
        samples: images drawn at the best length, in rows of `columns` where the column is the class.
        real: real images in the same order.
        columns: of both grids.
    """
    best = result["best_sigma_rel"]
    lead = (
        f"An EDM2 network (config G) of {result['parameters']:,} parameters, trained on {result['images_seen']:,} "
        f"images of 8x8 handwritten digits in {result['seconds_by_part']['training']:.0f} s. The length of its weight "
        f"average was picked afterwards: {best:g} of the training time."
    )
    losses = over_training([t["nimg"] for t in ticks], [t["loss"] or math.nan for t in ticks], "loss (Eq. 21)")
    grids = side_by_side(
        picture(grid(samples, columns), f"Drawn at EMA length {best:g}, seeds in order, a column per class"),
        picture(grid(real, columns), "Real digits, a column per class"),
    )
    sections = [
        ("Drawn and real", grids),
        ("Choosing the EMA length after training", _lengths(result)),
        ("Training", plot(losses, "Mean per tick")),
        ("Does it draw what it was asked for?", _classes(result)),
        ("What was run", _settings(result)),
    ]
    return page("unitgain demo: handwritten digits", lead, sections)


def _lengths(result: Mapping[str, Any]) -> str:
    sweep = result["sweep"]
    lengths, distances = [row["sigma_rel"] for row in sweep], [row["fd"] for row in sweep]
    curve = plot(
        _distance_curve(lengths, distances, result["fd_raw"], "Frechet distance (pixels)"),
        f"Each point is {result['settings']['images']} images against all real ones, with the same seeds. "
        f"Raw weights: {result['fd_raw']:.3f}; best average: {result['fd_best']:.3f}.",
    )
    rows = [(row["sigma_rel"], row["fd"], row["accuracy"], row["profile_error"]) for row in sweep]
    return side_by_side(curve, table(("sigma_rel", "distance", "accuracy", "error of the profile"), rows))


def _classes(result: Mapping[str, Any]) -> str:
    classes = result["classes"]
    bars = plot(
        _class_bars([row["name"] for row in classes], [row["accuracy"] or 0.0 for row in classes]),
        f"A support vector machine trained on the real digits names "
        f"{100 * result['class_accuracy']:.1f} % of the samples as the class asked for.",
    )
    return bars + paragraph(
        f"Cross-validated, it names {100 * result['classifier_accuracy']:.1f} % of the real digits right."
    )


def _settings(result: Mapping[str, Any]) -> str:
    return side_by_side(
        table(("part", "seconds"), [(k, round(v, 1)) for k, v in result["seconds_by_part"].items()]),
        table(("setting", "value"), [(k, str(v)) for k, v in result["settings"].items()]),
        table(("machine", ""), [(k, str(v)) for k, v in result["machine"].items()]),
    )


def _distance_curve(lengths: Sequence[float], distances: Sequence[float], raw: float, metric: str) -> str:
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


def _class_bars(names: Sequence[str], accuracy: Sequence[float]) -> str:
    """Accuracy per class."""
    figure, axes = new_axes("class asked for", "named as asked")
    axes.bar([plot_label(name) for name in names], accuracy, color=SOFT)
    for i, value in enumerate(accuracy):
        axes.text(i, value, f"{100 * value:.0f}%", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.1)
    return svg(figure)
