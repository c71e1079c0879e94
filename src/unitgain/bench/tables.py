"""Comparisons as tables of text."""

from unitgain.bench.measure import Comparison

FACTS = {
    "error": ("error of D", ".1e"),
    "prepare_seconds": ("prepare s", ".2f"),
    "compile_seconds": ("compile s", ".1f"),
    "microbatch": ("microbatch", "d"),
    "evaluations": ("evaluations", "d"),
}


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of texts for each thing; columns that would be empty are left out."""
    rows = comparison.rows
    columns = {
        "": [row.name for row in rows],
        "images/s": [f"{row.rate:.4g}" for row in rows],
        "ms": [f"{row.seconds * 1e3:.4g}" for row in rows],
        "quartiles": [f"{row.seconds_low * 1e3:.4g} to {row.seconds_high * 1e3:.4g}" for row in rows],
        "x first": [f"{row.ratio:.2f}" for row in rows],
        "weights MB": ["" if row.held is None else f"{row.held / 1e6:,.0f}" for row in rows],
        "peak MB": [f"{((row.held or 0) + row.gained) / 1e6:,.0f}" for row in rows],
        "GMAC/s": ["" if row.macs is None else f"{row.macs / row.seconds / 1e9:.4g}" for row in rows],
        "of peak": ["" if row.share is None else f"{row.share:.0%}" for row in rows],
    }
    for key, (title, form) in FACTS.items():
        columns[title] = [format(row.facts[key], form) if key in row.facts else "" for row in rows]
    columns = {name: values for name, values in columns.items() if any(values) or not name}
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def notes(comparison: Comparison) -> list[str]:
    """What the figures were taken against, in sentences."""
    lines = []
    if comparison.peaks:
        rates = ", ".join(f"{name} {peak / 1e9:.4g} G" for name, peak in comparison.peaks.items())
        lines.append(f"Square matrix products on this machine, multiply-accumulates (MACs) per second: {rates}.")
        lines.append("GMAC are those of convolutions and matrix products.")
    threads = comparison.machine["threads"]
    lines.append(f"{threads} thread{'s' * (threads != 1)}; load average {comparison.load:.1f}.")
    return lines
