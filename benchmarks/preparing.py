"""Measure the command `unitgain data prepare` beside others: `python benchmarks/preparing.py`.

The claim: whole commands, from start to end and in turns, it takes less time than plain scripts of one process do.
`--peer NAME "tool --source={source} --dest={dest}.zip --size={resolution}"` adds any other command. Figures go to
`results/preparing.json` and `.md`.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arguments import parse
from machine import write_results

OURS = "{python} -m unitgain data prepare {source} {dest} --resolution {resolution}"
SCRIPT = f"{{python}} {Path(__file__).with_name('pillow_archive.py')} {{source}} {{dest}}.zip {{resolution}}"
STAND_INS = {
    "Pillow alone, one process": SCRIPT,
    "the same, PNG without compression": f"{SCRIPT} 0",
    "the same, after `import torch`": f"{SCRIPT} 0 torch",
}

SIZE = (500, 375)  # of the files, as photographs of ImageNet have it
PEER = "one more command, with {python}, {source}, {dest}, {resolution}"


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of smooth random pictures, about as large as photographs of their size."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(SIZE, Image.BICUBIC)
        noisy = np.asarray(coarse).astype(int) + generator.integers(-12, 13, (SIZE[1], SIZE[0], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:06d}.jpg", quality=90)


def measure_commands(
    folder: Path, counts: Sequence[int], size: int, repeats: int, peers: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Measure each number of files: the same pictures again and again, each a file of its own."""
    write_photographs(folder / "photographs of commands", min(counts))
    found: dict[str, dict[str, Any]] = {}
    for count in counts:
        source = folder / "source"
        source.mkdir()
        for index in range(count):
            os.link(folder / "photographs of commands" / f"{index % min(counts):06d}.jpg", source / f"{index:06d}.jpg")
        load = os.getloadavg()[0]
        commands = {"unitgain data prepare": OURS, **peers}
        seconds = {name: list[float]() for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                seconds[name].append(whole_command(command, source, folder / "out", size))
        found[str(count)] = {name: compared(seconds["unitgain data prepare"], taken) for name, taken in seconds.items()}
        found[str(count)]["load average"] = {"before": load, "after": os.getloadavg()[0]}
        shutil.rmtree(source)
    return found


def whole_command(command: str, source: Path, dest: Path, size: int) -> float:
    """Seconds from start to end; what it wrote is deleted."""
    values = {"source": source, "dest": dest, "resolution": size, "python": sys.executable}
    start = time.perf_counter()
    subprocess.run([word.format(**values) for word in shlex.split(command)], check=True, capture_output=True)
    taken = time.perf_counter() - start
    shutil.rmtree(dest, ignore_errors=True)
    dest.with_suffix(".zip").unlink(missing_ok=True)
    return taken


def compared(ours: Sequence[float], taken: Sequence[float]) -> dict[str, float]:
    """Median, and how many times ours it is, run by run."""
    ratios = [other / own for own, other in zip(ours, taken, strict=True)]
    return {"seconds": statistics.median(taken), "ratio": statistics.median(ratios)} | {
        "least": min(ratios),
        "most": max(ratios),
    }


def markdown(found: Mapping[str, Mapping[str, Any]], size: int, repeats: int) -> str:
    """The figures of whole commands."""
    rows = []
    for count, commands in found.items():
        for name, row in commands.items():
            if name != "load average":
                ratio = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
                rows.append(f"| {int(count):,} | {name} | {row['seconds']:.1f} | {ratio} |")
    loads = [f"{load:.1f}" for commands in found.values() for load in commands["load average"].values()]
    lines = "\n".join(rows)
    return f"""# Preparing data

JPEG files of {SIZE[0]}x{SIZE[1]} to PNG of {size}x{size}, whole commands, {repeats} runs of each in turns. The ratio is
the time of the command over that of `unitgain data prepare` beside it, median (least to most). Load averages before and
after: {", ".join(loads)}. `unitgain data prepare` takes all cores, the scripts one.

| files | command | s | ratio |
|---|---|---|---|
{lines}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[600, 10_000])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"), help=PEER)
    parser.add_argument("--work", type=Path, help="for 0.1 GB of files")
    args = parse(parser, arguments)
    if args.small:
        args.files, args.resolution, args.repeats = [2, 3], 8, 2
    peers = STAND_INS | dict(args.peer)
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        results = measure_commands(Path(name), args.files, args.resolution, args.repeats, peers)
    print(json.dumps(results, indent=1))
    write_results("preparing", results, markdown(results, args.resolution, args.repeats), folder=args.folder)


if __name__ == "__main__":
    main()
