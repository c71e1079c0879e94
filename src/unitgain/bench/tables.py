"""Reports as tables: cells of text, for the terminal and for pages."""

from collections.abc import Sequence

from rich.table import Table

from unitgain.bench.measure import Report, Row
from unitgain.bench.trace import Slow

Cells = tuple[list[str], list[list[str]]]
"""Headings, and rows of as many texts."""

FACTS = {
    "error": ("error of D", ".1e"),
    "prepare_seconds": ("prepare s", ".2f"),
    "compile_seconds": ("compile s", ".1f"),
    "over_evaluations": ("x evaluations", ".3f"),
    "microbatch": ("microbatch", "d"),
}


def cells(report: Report) -> Cells:
    """The measurements, one row for each thing; columns that would be empty are left out."""
    columns: dict[str, list[str]] = {"": [row.name for row in report.rows]}
    if report.unit == "bytes":
        columns["GB/s"] = [f"{row.rate / 1e9:.2f}" for row in report.rows]
    else:
        columns[f"{report.unit}/s"] = [f"{row.rate:.4g}" for row in report.rows]
    columns["ms"] = [f"{row.seconds * 1e3:.4g}" for row in report.rows]
    columns["quartiles"] = [f"{row.seconds_low * 1e3:.4g} to {row.seconds_high * 1e3:.4g}" for row in report.rows]
    columns["x first"] = [f"{row.ratio:.2f}" for row in report.rows]
    columns["weights MB"] = [_megabytes(row.held) for row in report.rows]
    columns["peak MB"] = [_megabytes(row.memory) for row in report.rows]
    columns["G mul-add/s"] = [_achieved(row) for row in report.rows]
    columns["of peak"] = [f"{row.roofline.share:.0%}" if row.roofline else "" for row in report.rows]
    for key, (title, form) in FACTS.items():
        columns[title] = [format(row.facts[key], form) if key in row.facts else "" for row in report.rows]
    return _filled(columns)


def roofline_cells(report: Report) -> Cells:
    """What each computes and moves, the least that takes on this machine, and what it took."""
    rows = [row for row in report.rows if row.roofline is not None]
    roofs = [row.roofline for row in rows if row.roofline is not None]
    columns = {
        "": [row.name for row in rows],
        "G mul-adds": [f"{roof.multiply_adds / 1e9:.4g}" for roof in roofs],
        "GB fused": [f"{roof.bytes / 1e9:.3g}" for roof in roofs],
        "GB unfused": [f"{roof.bytes_unfused / 1e9:.3g}" for roof in roofs],
        "products ms": [f"{roof.multiply_adds / roof.peak * 1e3:.4g}" for roof in roofs],
        "bytes ms": [f"{roof.bytes / roof.bandwidth * 1e3:.4g}" for roof in roofs],
        "floor ms": [f"{roof.floor * 1e3:.4g}" for roof in roofs],
        "by layer ms": [f"{roof.floor_by_layer * 1e3:.4g}" for roof in roofs],
        "took ms": [f"{roof.seconds * 1e3:.4g}" for roof in roofs],
        "floor/took": [f"{roof.floor / roof.seconds:.0%}" for roof in roofs],
    }
    return _filled(columns)


def slow_cells(slow: Sequence[Slow]) -> Cells:
    """The slowest operations of a trace."""
    columns = {
        "": [entry.work for entry in slow],
        "operation": [entry.operation for entry in slow],
        "calls": [str(entry.calls) for entry in slow],
        "ms": [f"{entry.seconds * 1e3:.4g}" for entry in slow],
        "share": [f"{entry.share:.1%}" for entry in slow],
    }
    return _filled(columns)


def notes(report: Report) -> list[str]:
    """What the figures were taken against, in sentences."""
    lines = []
    if report.peaks:
        rates = ", ".join(f"{name} {peak / 1e9:.4g} G" for name, peak in report.peaks.items())
        lines.append(f"Square matrix products on this machine, multiply-adds per second: {rates}.")
        lines.append("mul-adds are those of convolutions and matrix products; one multiply-add counts as one.")
    if report.bandwidth is not None:
        lines.append(f"Copies within memory: {report.bandwidth / 1e9:.3g} GB/s, read and written.")
    threads, load = report.machine["threads"], report.load
    lines.append(f"{threads} thread{'s' * (threads != 1)}; load average {load:.1f}.")
    return lines


def rich_table(table: Cells, title: str = "") -> Table:
    """For the terminal."""
    head, rows = table
    made = Table(box=None, title=title or None, title_justify="left")
    for index, name in enumerate(head):
        justify = "right" if index and name != "operation" else "left"
        made.add_column(name, justify=justify, no_wrap=index > 0, overflow="ellipsis" if index else "fold")
    for row in rows:
        made.add_row(*row)
    return made


def markdown(table: Cells) -> str:
    """For a page."""
    head, rows = table
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _filled(columns: dict[str, list[str]]) -> Cells:
    kept = {name: values for name, values in columns.items() if any(values) or not name}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f}"


def _achieved(row: Row) -> str:
    return f"{row.roofline.achieved / 1e9:.4g}" if row.roofline else ""
