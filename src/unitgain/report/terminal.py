"""A run at a glance, in a terminal."""

import math
import shlex

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unitgain.report.chart import bar, curve
from unitgain.report.history import History, exp_u, pooled
from unitgain.text import one_line, span

FACTS = 34  # characters of the column of facts
CHART = 5  # lines of the curve
POOLED = 4  # ticks of noise levels that are shown together: the outer ones are rare
OLD = 4.0  # times the usual distance of ticks, after which a line is late
STYLES = {"training": "bold green", "starting": "bold yellow", "finished": "bold blue", "stopped": "bold red"}


def frame(history: History, width: int, plain: bool = False) -> RenderableType:
    """All that is shown of a run; fits 80 x 24 characters.

    Args:
        history: of the run.
        width: of the terminal, in characters.
        plain: in ASCII alone.
    """
    parts: list[RenderableType] = [_headline(history)]
    if history.duration:
        parts.append(_progress(history, width))
    if not history.ticks:
        parts.append(Text(_nothing(history), style="dim"))
        return Group(*parts)
    left = max(width - FACTS - 2, 30)
    columns = Table.grid(padding=(0, 2, 0, 0))
    columns.add_row(Group(_loss(history, left, plain), _levels(history, left, plain)), _facts(history))
    return Group(*parts, Text(""), columns)


def _headline(history: History) -> Text:
    line = Text(one_line(history.folder), style="bold")
    line.append(f"  {history.status}", style=STYLES[history.status])
    if history.config is not None:
        line.append(one_line(f"  recipe {history.config.recipe.name}, data {history.config.data}"))
    if history.holder is not None:
        line.append(one_line(f"  {history.holder.partition(' since ')[0]}"), style="dim")
    line.truncate(200)
    return line


def _nothing(history: History) -> str:
    if history.holder is not None:
        every = "" if history.config is None else f"; one line comes every {history.config.ticks_every:,} images"
        return f"no statistics yet{every}"
    why = "" if history.reason is None else f" It was stopped by: {one_line(history.reason)}."
    return f"no statistics, and nobody trains.{why} {_resume(history)}"


def _resume(history: History) -> str:
    return f"Go on with: unitgain train --out {shlex.quote(one_line(history.folder))} --resume"


def _progress(history: History, width: int) -> RenderableType:
    text = f"{history.nimg:,}/{history.duration:,} images"
    if history.left is not None:
        text += f"  {span(history.left)} left"
    elif history.status == "stopped":
        text += f"  {_resume(history)}"
        if history.reason is not None:
            text += f"\nStopped by: {one_line(history.reason)}"
    size = max(width - len(text.partition("\n")[0]) - 2, 10)
    if size == 10:
        return Text(text)
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(ProgressBar(total=history.duration, completed=history.nimg, width=size), Text(text))
    return line


def _loss(history: History, width: int, plain: bool) -> RenderableType:
    _, values = history.series("loss")
    if not values:
        return Text("loss: not finite", style="bold red")
    lines, high, low = curve(values, width - 9, CHART, plain)
    chart = Table.grid(padding=(0, 1, 0, 0))
    chart.add_column(justify="right", width=8)
    chart.add_row("loss", "")
    for i, line in enumerate(lines):
        chart.add_row(f"{high:.3g}" if i == 0 else f"{low:.3g}" if i == CHART - 1 else "", Text(line, style="cyan"))
    return chart


def _levels(history: History, width: int, plain: bool) -> RenderableType:
    levels = pooled(history.ticks[-POOLED:])
    if levels is None:
        return Text("")
    learned = levels["u"] is not None
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", width=8)
    table.add_column(width=width - 9 - 7 - 7 * learned)
    table.add_column(justify="right", width=6)
    table.add_row("sigma", "error by noise level", "error", *(["exp u"] * learned))
    for i, place in enumerate(levels["ln_sigma"]):
        error, u = levels["error"][i], levels["u"][i] if learned else None
        filled = Text(bar(error or 0.0, width - 9 - 7 - 7 * learned, plain), style="cyan")
        table.add_row(f"{math.exp(place):.3g}", filled, _number(error), *([_number(exp_u(u))] * learned))
    return table


def _facts(history: History) -> RenderableType:
    last = history.ticks[-1]
    steps = sum(row.get("nonfinite_steps", 0) for row in history.ticks)
    late = history.status == "training" and (history.age or 0) > OLD * last["seconds"] + 10
    rows = [
        ("loss", "not finite" if last["loss"] is None else f"{last['loss']:.4f}"),
        ("learning rate", f"{last['lr']:.3g}"),
        ("images/s", f"{last['images_per_second']:,.4g}"),
        ("GFLOP/s", _share(last.get("flops_per_second"), "{:.4g}", 1e-9)),
        ("of peak", _share(last.get("peak_share"))),
        ("waits for data", _share(last.get("data_wait_share"))),
        ("memory", _share(last.get("memory_bytes"), "{:.2f} GiB", 2.0**-30)),
        ("non-finite", f"{steps} steps" if steps else "none"),
        ("snapshot", _images(history)),
        ("checkpoint", "none" if history.checkpoint is None else f"{history.checkpoint:,} images"),
        ("last line", f"{span(history.age or 0.0)} ago"),
    ]
    for row in history.metrics[-1:]:
        rows += [
            (one_line(name[:15]), f"{value:.4g}")
            for name, value in row["metrics"].items()
            if isinstance(value, int | float)
        ]
    table = Table.grid(padding=(0, 1, 0, 0))
    for name, value in rows:
        alarming = (name == "non-finite" and steps) or value == "not finite" or (name == "last line" and late)
        table.add_row(Text(name, style="dim"), Text(value, style="bold red" if alarming else ""))
    return table


def _images(history: History) -> str:
    stem = history.snapshots[-1].stem.partition("-")[0] if history.snapshots else ""
    return f"{int(stem):,} images" if stem.isdecimal() else "none"


def _share(value: float | None, form: str = "{:.0f} %", factor: float = 100.0) -> str:
    return "?" if value is None else form.format(value * factor)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0e}"
