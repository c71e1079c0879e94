"""How results are written down, with the machine that they were measured on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unitgain.bench.measure import Comparison, machine
from unitgain.bench.tables import cells
from unitgain.files import write_text


def write_results(name: str, results: Mapping[str, Any], text: str, *, folder: Path, device: str = "cpu") -> None:
    """Write `<name>.json` and `<name>.md`, the machine in both."""
    where = machine(device)
    write_text(folder / f"{name}.json", json.dumps({"machine": where, **results}, indent=1) + "\n")
    line = ", ".join(f"{key} {value}" for key, value in where.items())
    write_text(folder / f"{name}.md", f"{text.rstrip()}\n\nMeasured by `benchmarks/{name}.py` on: {line}.\n")


def in_parts(
    name: str,
    parts: Mapping[str, Callable[[], Any]],
    page: Callable[[dict[str, Any]], str],
    *,
    settings: Mapping[str, Any],
    folder: Path,
    fresh: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure what is not yet there, and write after each part; what is there counts if settings and machine are those.

    Args:
        name: of the results.
        parts: what to measure, in order; each gives JSON values.
        page: makes the text of what there is.
        settings: of the measurement, as JSON values.
        fresh: measure everything again.
        device: where.
        folder: of the results.
    """
    path = folder / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() and not fresh else {}
    same = before.get("settings") == json.loads(json.dumps(settings)) and before.get("machine") == machine(device)
    found: dict[str, Any] = {"settings": dict(settings)}
    if same:
        found |= {part: before[part] for part in parts if part in before}
    for part, measure in parts.items():
        if part in found:
            print(f"{part}: measured before; --fresh measures again", flush=True)
            continue
        print(f"{part} ...", flush=True)
        found[part] = measure()
        write_results(name, found, page(found), device=device, folder=folder)
    write_results(name, found, page(found), device=device, folder=folder)
    return found


def markdown(comparison: Comparison) -> str:
    """Measurements as a table for a page."""
    head, rows = cells(comparison)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
