"""Several runs side by side: their metrics over images seen and over hours of training (EDM2, Fig. 11a)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unitgain.figures import colors, new_figure
from unitgain.report.curves import short
from unitgain.report.history import History
from unitgain.text import plot_label
from unitgain.trust import is_number


def evaluations(history: History) -> list[dict[str, Any]]:
    """The evaluations of a run in order: "nimg", "hours" of training until then, and "metrics" by name.

    Hours are those of the training steps and what lies between them, without evaluations; None before the first line of
    statistics.
    """
    ticks = [row for row in history.ticks if "seconds" in row]
    nimg = np.array([0, *(row["nimg"] for row in ticks)], dtype=np.float64)
    hours = np.cumsum([0.0, *(row["seconds"] for row in ticks)]) / 3600
    return [
        {
            "nimg": row["nimg"],
            "hours": float(np.interp(row["nimg"], nimg, hours)) if ticks else None,
            "metrics": {name: value for name, value in row["metrics"].items() if is_number(value)},
        }
        for row in history.metrics
    ]


def convergence_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Metrics over training: a row per metric, against images seen and against hours, a line per run.

    Args:
        runs: by name, what `evaluations` says of them.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: without matplotlib.
        ValueError: if no run was evaluated.
    """
    metrics = list(dict.fromkeys(name for rows in runs.values() for row in rows for name in row["metrics"]))
    if not metrics:
        raise ValueError("no run was evaluated while it trained: train with --metrics and --metrics-every")
    figure = new_figure(10, 3.3 * len(metrics))
    panels = figure.subplots(len(metrics), 2, squeeze=False, sharey="row")
    for row, metric in zip(panels, metrics, strict=True):
        for axes, key, label in zip(row, ("nimg", "hours"), ("images seen", "hours of training"), strict=True):
            for name, color in colors(list(runs)).items():
                points = [(one[key], one["metrics"][metric]) for one in runs[name] if metric in one["metrics"]]
                points = [point for point in points if point[0] is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=plot_label(name))
            axes.set_xlabel(label)
            axes.grid(alpha=0.25)
        row[0].set_ylabel(plot_label(metric))
        row[0].xaxis.set_major_formatter(lambda value, _: short(round(value)))
    panels[0, 1].legend(frameon=False, fontsize=8)
    return figure
