"""What the report of the demo says beside that of any run."""

from collections.abc import Mapping, Sequence
from typing import Any

from unitgain.figures import ACCENT, INK, new_axes, svg
from unitgain.report.page import paragraph, plot, side_by_side, table


def digits_sections(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and HTML of each part, from the contents of `report.json`."""
    lengths, distances = ([row[key] for row in report["sweep"]] for key in ("sigma_rel", "fd"))
    told = (
        f"Each point is {report['settings']['images']} images against all real ones, with the same seeds. "
        f"Raw weights: {report['fd_raw']:.3f}; best average: {report['fd_best']:.3f}."
    )
    curve = plot(_distance_curve(lengths, distances, report["fd_raw"]), told)
    classes = [(row["name"], "" if row["accuracy"] is None else f"{row['accuracy']:.0%}") for row in report["classes"]]
    named = paragraph(
        f"A support vector machine trained on the real digits names {report['class_accuracy']:.1%} of the images as "
        f"the class asked for. Cross-validated, it names {report['classifier_accuracy']:.1%} of the real digits right."
    )
    columns = ("EMA length", "distance")
    return [
        (
            "Choosing the EMA length after training",
            side_by_side(curve, table(columns, zip(lengths, distances, strict=True))),
        ),
        ("Does it draw what it was asked for?", named + table(("class asked for", "named as asked"), classes)),
    ]


def _distance_curve(lengths: Sequence[float], distances: Sequence[float], raw: float) -> str:
    """Distance against EMA length, with the raw weights as a line."""
    figure, axes = new_axes("EMA length sigma_rel", "Frechet distance (pixels)")
    axes.axhline(raw, color=ACCENT, linestyle="--", label="raw weights")
    axes.plot(lengths, distances, "o-", color=INK, label="post-hoc EMA")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return svg(figure)
