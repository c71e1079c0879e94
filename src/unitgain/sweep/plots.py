"""Pictures of sweeps: curves over the EMA length (EDM2, Figs. 5a, 5b, 6 and 14) and maps of two axes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unitgain.extras import require
from unitgain.figures import ACCENT, check_picture, colors, new_figure, save
from unitgain.sweep.cells import CellResult, best, best_by
from unitgain.sweep.table import write_csv
from unitgain.text import plot_label


def write_results(results: Sequence[CellResult], out: Path, stem: str) -> list[Path]:
    """The table of a sweep, and the pictures that it has enough cells for; returns the files.

    Args:
        results: of one sweep, or of several at other training times.
        out: folder to write to.
        stem: of the files' names.
    """
    table, curves, heat = out / f"{stem}.csv", out / f"{stem}-curves.svg", out / f"{stem}-map.svg"
    write_csv(table, results)
    if len({result.nimg for result in results}) > 1:
        times = out / f"{stem}-times.svg"
        plot_times(results, times)
        plot_curves(results, curves)
        return [table, curves, times]
    if len({result.cell.length for result in results}) == 1:
        return [table]
    plot_curves(results, curves)
    if len({result.cell.guidance for result in results}) == 1 or any(result.cell.pattern for result in results):
        return [table, curves]
    plot_map(results, heat)
    return [table, curves, heat]


def plot_curves(results: Sequence[CellResult], path: Path) -> None:
    """Each metric against the EMA length in a panel of its own, the best point of each curve marked.

    A curve per weight of guidance, as in Figs. 6 and 14, of a sweep over tensors one per pattern, as in Fig. 5b, of
    sweeps at several training times one per time, at the best weight, as in Fig. 12. Where the guide's length is swept
    too, the best of them counts. The range of repeated evaluations is shaded, as in Fig. 5a; bars are one standard
    error to each side, where that is known.

    Args:
        results: of one sweep.
        path: picture to write; its suffix says which kind: .svg, .png or .pdf.

    Raises:
        ValueError: if the suffix is none of these, or there are no results.
    """
    by_pattern = any(result.cell.pattern for result in results)

    several = len({result.nimg for result in results}) > 1

    def name(result: CellResult) -> str:
        if several:
            return f"{result.cell.pattern or ''} {result.nimg:,.0f} images".strip()
        guidance = f"w = {result.cell.guidance:g}"
        return f"{result.cell.pattern}, {guidance}" if by_pattern else guidance

    _curves(results, name, path)


def plot_runs(runs: Mapping[str, Sequence[CellResult]], path: Path) -> None:
    """As `plot_curves`, a curve per run at its best weight of guidance (Fig. 5a)."""
    owner = {id(result): run for run, results in runs.items() for result in results}
    curves: list[CellResult] = []
    for results in runs.values():
        for metric in dict.fromkeys(result.metric for result in results):
            own = [result for result in results if result.metric == metric]
            weight = best(own).cell.guidance
            curves += [result for result in own if result.cell.guidance == weight]
    _curves(curves, lambda result: f"{owner[id(result)]}, w = {result.cell.guidance:g}", path)


def plot_times(results: Sequence[CellResult], path: Path) -> None:
    """Each metric at its best, and the EMA length of that, over training time (Fig. 5c); bars as in `plot_curves`."""
    figure, panels = _panels(results, path, 5.2, rows=2)
    for metric, (above, below) in panels.items():
        own = [result for result in results if result.metric == metric]
        points = best_by(own, lambda result: result.nimg)
        times = sorted(points)
        values = [points[time].value for time in times]
        bars = [points[time].error or 0.0 for time in times]
        above.errorbar(times, values, bars if any(bars) else None, fmt="o-", markersize=3, capsize=2, elinewidth=1)
        below.plot(times, [points[time].cell.length for time in times], "o-", markersize=3, color=ACCENT)
        above.set_ylabel(f"{plot_label(metric)} ({_better(own)})")
        below.set_ylabel("best EMA length sigma_rel")
        below.set_xlabel("images seen")
        below.set_ylim(bottom=0)
    save(figure, path)


def plot_map(results: Sequence[CellResult], path: Path) -> None:
    """Each metric over EMA length and weight of guidance, a panel for each, with the value in each cell.

    The best cell has a bold frame; those whose values are within its standard error, where that is known, a thin one.
    Where the guide's length is swept too, the axes are the two lengths, at the best weight of guidance.
    """
    columns = len({result.cell.length for result in results})
    figure, panels = _panels(results, path, max(4.2, 1.6 + 0.42 * columns))
    for metric, axes in panels.items():
        own = [result for result in results if result.metric == metric]
        weight = best(own).cell.guidance
        guided = [result for result in own if result.cell.guidance == weight]
        tied = all(result.cell.guide_length in (None, result.cell.length) for result in own)
        if not tied and len({result.cell.guide_length for result in guided}) > 1:
            _map(figure, axes, guided, lambda one: one.cell.guide_length, f"guide's EMA length, at w = {weight:g}")
        else:
            _map(figure, axes, own, lambda result: result.cell.guidance, "guidance w")
        axes.set_title(f"{plot_label(metric)}, {_better(own)}", fontsize=10)
    if any(result.error for result in results):
        figure.supxlabel("thin frames: no worse than the best within its standard error", fontsize=7)
    save(figure, path)


def _curves(results: Sequence[CellResult], name: Callable[[CellResult], str], path: Path) -> None:
    figure, panels = _panels(results, path, 5.2)
    for metric, axes in panels.items():
        own = [result for result in results if result.metric == metric]
        for curve, color in colors(list(dict.fromkeys(map(name, own)))).items():
            points = best_by([r for r in own if name(r) == curve], lambda result: result.cell.length)
            _curve(axes, curve, points, color)
        axes.set_xlabel("EMA length sigma_rel")
        axes.set_ylabel(f"{plot_label(metric)} ({_better(own)})")
        known = any(result.error for result in own)
        axes.legend(frameon=False, fontsize=7, title="bars: one standard error" if known else None, title_fontsize=7)
    save(figure, path)


def _curve(axes: Any, name: str, points: Mapping[float, CellResult], color: Any) -> None:
    lengths = sorted(points)
    values = [points[length].value for length in lengths]
    errors = [points[length].error or 0.0 for length in lengths]
    bars = errors if any(errors) else None
    axes.errorbar(
        lengths, values, bars, fmt="o-", markersize=3, capsize=2, elinewidth=1, color=color, label=plot_label(name)
    )
    if any(len(point.values) > 1 for point in points.values()):
        axes.fill_between(lengths, values, [points[length].worst for length in lengths], color=color, alpha=0.2)
    peak = best(list(points.values()))
    axes.plot(peak.cell.length, peak.value, "o", markersize=9, fillstyle="none", color=color)


def _map(figure: Any, axes: Any, results: Sequence[CellResult], row: Callable[[CellResult], Any], label: str) -> None:
    cells = best_by(results, lambda result: (row(result), result.cell.length))
    rows = sorted({each for each, _ in cells if each is not None})
    lengths = sorted({length for _, length in cells})
    values = [[cells[r, c].value if (r, c) in cells else float("nan") for c in lengths] for r in rows]
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis_r" if not results[0].higher else "viridis")
    axes.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths], rotation=60, fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{each:g}" for each in rows], fontsize=8)
    axes.set_xlabel("EMA length sigma_rel")
    axes.set_ylabel(plot_label(label))
    peak = best(list(cells.values()))
    for (r, c), result in cells.items():
        if r is None:
            continue
        place = (lengths.index(c), rows.index(r))
        red, green, blue, _ = image.cmap(image.norm(result.value))
        ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.4 else "black"
        axes.text(*place, _short(result.value), ha="center", va="center", fontsize=7, color=ink)
        if result is peak or abs(result.value - peak.value) <= (peak.error or -1.0):
            _frame(axes, place, 2.5 if result is peak else 1.0)
    figure.colorbar(image, ax=axes)


def _frame(axes: Any, place: tuple[int, int], width: float) -> None:
    """A line around a cell of a map."""
    patches = require("matplotlib.patches", extra="plot")
    corner = (place[0] - 0.45, place[1] - 0.45)
    axes.add_patch(patches.Rectangle(corner, 0.9, 0.9, fill=False, edgecolor=ACCENT, linewidth=width))


def _better(results: Sequence[CellResult]) -> str:
    return "higher is better" if results[0].higher else "lower is better"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _panels(results: Sequence[CellResult], path: Path, width: float, rows: int = 1) -> tuple[Any, dict[str, Any]]:
    """A figure, and its axes by metric, one or as many as there are rows."""
    check_picture(path)
    if not results:
        raise ValueError("there are no results to plot")
    metrics = list(dict.fromkeys(result.metric for result in results))
    figure = new_figure(width * len(metrics), 3.6 if rows == 1 else 2.6 * rows)
    columns = figure.subplots(rows, len(metrics), squeeze=False, sharex="col").T
    return figure, dict(zip(metrics, columns if rows > 1 else columns[:, 0], strict=True))
