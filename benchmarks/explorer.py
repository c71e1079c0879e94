"""How soon a moved slider of the explorer shows images, and what that takes: python benchmarks/explorer.py --run RUN.

Draws lengths that were not drawn before, one after the other, as the page asks for them: snapshots are planned with and
read, the network is prepared, then comes the first preview, then the finished images. RUN is the run of `make demo` or
any other. Run it on an idle machine: the figures are times.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, write_results
from unitgain.draw import DrawSettings, Preview
from unitgain.explore import Average, Picture, Reading, Session, View
from unitgain.explore.sources import Run

PARTS = {
    "plan": "headers read, weights solved for",
    "read": "snapshots read and combined",
    "first": "network prepared, first evaluation: the first images are seen",
    "finished": "the other evaluations",
}


def moved(session: Session, length: float, seeds: Sequence[int]) -> dict[str, float]:
    """Seconds of each part, and in all until the first images are seen, and until they are finished."""
    marks = {"plan": 0.0, "read": 0.0, "first": 0.0, "finished": 0.0}
    began = time.perf_counter()
    for event in session.draw(View(average=Average(length=length), seeds=tuple(seeds), settings=session.settings)):
        now = time.perf_counter() - began
        if isinstance(event, Reading):
            marks["plan"] = marks["plan"] or now
            marks["read"] = now
        elif isinstance(event, Preview):
            marks["first"] = marks["first"] or now
        elif isinstance(event, Picture):
            marks["finished"] = now
    ends = list(marks.values())
    own = {name: end - before for (name, end), before in zip(marks.items(), [0.0, *ends[:-1]], strict=True)}
    return {**own, "seen": marks["first"], "all": marks["finished"]}


def measure(run: Path, lengths: Sequence[float], seeds: int, steps: int) -> dict[str, Any]:
    """Medians over the lengths, in seconds, and what was measured."""
    settings = DrawSettings(steps=steps, dtype="auto")
    with Session(run, settings=settings) as session:
        assert isinstance(session.source, Run)
        session.pictures(View(average=Average(length=lengths[0]), seeds=tuple(range(seeds)), settings=settings))
        rows = [moved(session, length, range(seeds)) for length in lengths[1:]]
        snapshots = len(session.source.times())
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    slowest = max(row["seen"] for row in rows)
    about = {"recipe": session.recipe, "times": snapshots, "seeds": seeds, "steps": steps, "lengths": len(rows)}
    return {"seconds": medians, "slowest_seen": slowest, "about": about}


def page(found: dict[str, Any]) -> str:
    """The result as a page."""
    seconds, about = found["seconds"], found["about"]
    rows = "\n".join(f"| {text} | {1000 * seconds[name]:.0f} |" for name, text in PARTS.items())
    return f"""# The explorer: a moved slider

The run of `{about["recipe"]}`, snapshots at {about["times"]} times; {about["seeds"]} images, {about["steps"]} steps of
Heun's method. Medians over {about["lengths"]} lengths that were not drawn before.

| part | ms |
|---|---|
{rows}
| **until images are seen** (slowest: {1000 * found["slowest_seen"]:.0f}) | **{1000 * seconds["seen"]:.0f}** |
| **until they are finished** | **{1000 * seconds["all"]:.0f}** |
"""


def main(args: Sequence[str] | None = None, folder: Path = RESULTS) -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo/run"))
    parser.add_argument("--lengths", type=int, default=21, help="lengths to draw, the first of them to warm up")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    asked = parser.parse_args(args)
    lengths = [round(0.05 + 0.15 * k / max(asked.lengths - 1, 1), 4) for k in range(asked.lengths)]
    found = measure(asked.run, lengths, asked.seeds, asked.steps)
    write_results("explorer", found, page(found), folder=folder)
    print(page(found))


if __name__ == "__main__":
    main()
