"""How soon a moved slider of the explorer shows images, and what that takes: python benchmarks/explorer.py --run RUN.

Draws lengths that were not drawn before, one after the other, as the page asks for them: snapshots are planned with and
read, the network is prepared, then comes the first preview, then the finished images. RUN is the run of `make demo` or
any other. Then a new length of a large network (EDM2-XS for images of 64x64, 32 snapshots of weights at random, 8 GB
below --work): its first image, against one reconstruction as `unitgain ema reconstruct` does it plus one drawing with
a network that is open. Run it on an idle machine: the figures are times.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from arguments import parse
from machine import write_results
from unitgain.checkpoint.snapshot import SnapshotHeader
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings, Preview
from unitgain.explore import Average, Picture, Reading, Session, View
from unitgain.explore.sources import Run
from unitgain.posthoc import SnapshotStore, reconstruct
from unitgain.recipes import recipe

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


def write_run(folder: Path, name: str, snapshots: int) -> None:
    """So many snapshots of a network whose weights wander, half of them of each length."""
    own = recipe(name)
    denoiser = Denoiser(own.network, own.sigma_data)
    header = SnapshotHeader(
        network=own.network,
        sigma_data=own.sigma_data,
        nimg=0,
        profile={"kind": "raw"},
        recipe=own.name,
        encoder={"kind": "pixels"},
        classes=None,
        data=None,
        label_dropout=None,
    )
    store = SnapshotStore(folder / "snapshots", denoiser, every=1000, header=header)
    for number in range(1, snapshots // 2 + 1):
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(torch.randn(()), alpha=0.1)
        store.update(t=1000 * number, dt=1000)


def measure_large(folder: Path, name: str, snapshots: int, steps: int, repeats: int) -> dict[str, Any]:
    """Medians in seconds: a reconstruction to a file, a drawing, and the first image of a length that is new."""
    write_run(folder, name, snapshots)
    settings, seconds = DrawSettings(steps=steps, dtype="auto"), {"reconstruction": [], "drawing": [], "new": []}
    with Session(folder, settings=settings) as session:
        for repeat in range(repeats + 1):  # the first one warms up
            length = round(0.06 + 0.01 * repeat, 3)
            began = time.perf_counter()
            reconstruct(folder, [length], folder / "ema" / str(repeat))
            reconstructed = time.perf_counter()
            new = moved(session, length, [0])["all"]
            before = time.perf_counter()
            moved(session, length, [1])
            drawn = time.perf_counter() - before
            if repeat:
                for one, value in (("reconstruction", reconstructed - began), ("drawing", drawn), ("new", new)):
                    seconds[one].append(value)
            print(f"{name}: reconstruction {reconstructed - began:.2f}, drawing {drawn:.2f}, new {new:.2f}", flush=True)
    medians = {one: statistics.median(values) for one, values in seconds.items()}
    return {"recipe": name, "snapshots": snapshots, "steps": steps, "repeats": repeats, "seconds": medians}


def page(found: dict[str, Any]) -> str:
    """The result as a page."""
    seconds, about, large = found["seconds"], found["about"], found["large"]
    own = large["seconds"]
    share = own["new"] / (own["reconstruction"] + own["drawing"])
    rows = "\n".join(f"| {text} | {1000 * seconds[name]:.0f} |" for name, text in PARTS.items())
    return f"""# The explorer: a moved slider

The run of `{about["recipe"]}`, snapshots at {about["times"]} times; {about["seeds"]} images, {about["steps"]} steps of
Heun's method. Medians over {about["lengths"]} lengths that were not drawn before.

| part | ms |
|---|---|
{rows}
| **until images are seen** (slowest: {1000 * found["slowest_seen"]:.0f}) | **{1000 * seconds["seen"]:.0f}** |
| **until they are finished** | **{1000 * seconds["all"]:.0f}** |

## A new length of a large network

`{large["recipe"]}`, {large["snapshots"]} snapshots, one image, {large["steps"]} steps. Medians over {large["repeats"]}
lengths.

| what | seconds |
|---|---|
| a reconstruction to a file, as `unitgain ema reconstruct` | {own["reconstruction"]:.2f} |
| a drawing with a network that is open | {own["drawing"]:.2f} |
| **the first image of a new length** ({share:.2f} of the two) | **{own["new"]:.2f}** |
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo/run"))
    parser.add_argument("--lengths", type=int, default=21, help="lengths to draw, the first of them to warm up")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--large", default="edm2-img64-xs", help="recipe of the large network")
    parser.add_argument("--snapshots", type=int, default=32, help="of the large network")
    parser.add_argument("--large-steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="for the large run; default: a temporary one")
    asked = parse(parser, arguments)
    if asked.small:
        asked.lengths, asked.seeds, asked.steps, asked.large = 3, 2, 2, "digits"
        asked.snapshots, asked.large_steps, asked.repeats = 8, 2, 1
    lengths = [round(0.05 + 0.15 * k / max(asked.lengths - 1, 1), 4) for k in range(asked.lengths)]
    found = measure(asked.run, lengths, asked.seeds, asked.steps)
    with tempfile.TemporaryDirectory(dir=asked.work) as place:
        large = measure_large(Path(place), asked.large, asked.snapshots, asked.large_steps, asked.repeats)
    found = {**found, "large": large}
    write_results("explorer", found, page(found), folder=asked.folder)
    print(page(found))


if __name__ == "__main__":
    main()
