"""What writing a snapshot costs as a run grows long: `python benchmarks/snapshots.py`.

A network of 500 tensors, whose pair of averages is written 256 times into one folder, as `unitgain train` does it. The
store must not look through what is there already: the last writes are compared with the first. Figures go to
`results/snapshots.json` and `.md`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from machine import RESULTS, write_results
from unitgain.posthoc import SnapshotStore

COUNTED = 10  # writes at either end whose median is taken


def network(tensors: int) -> nn.Module:
    """Layers of a weight and a bias each."""
    return nn.ModuleList(nn.Linear(64, 64) for _ in range(tensors // 2))


def write_all(folder: Path, tensors: int, times: int) -> dict[str, list[float]]:
    """Seconds of each write: on the clock, of the processor, and of copying the averages, for which training waits."""
    store = SnapshotStore(folder, network(tensors), every=2 * times)  # written by hand, below
    found: dict[str, list[float]] = {"seconds": [], "processor": [], "copying": []}
    for step in range(1, times + 1):
        store.update(step, 1)
        start, before = time.perf_counter(), time.process_time()
        write = store.take()
        copied = time.perf_counter()
        write()
        found["seconds"].append(time.perf_counter() - start)
        found["processor"].append(time.process_time() - before)
        found["copying"].append(copied - start)
    return found


def ends(values: list[float]) -> tuple[float, float]:
    """Medians of the first values and of the last, in milliseconds."""
    return 1000 * median(values[:COUNTED]), 1000 * median(values[-COUNTED:])


def page(found: dict[str, Any]) -> str:
    """The figures as text."""
    names = {
        "seconds": "whole write, on the clock",
        "processor": "whole write, time of the processor",
        "copying": "copy of the averages, on the clock",
    }
    rows = [
        f"| {name} | {first:.1f} | {last:.1f} | {last / first:.2f} |"
        for key, name in names.items()
        for first, last in [ends(found[key])]
    ]
    return "\n".join(
        [
            "# Writing snapshots, the first and the last\n",
            f"A pair of averages of {found['tensors']} tensors, {found['bytes'] / 1e6:.1f} MB, written "
            f"{len(found['seconds'])} times into one folder, each flushed to the disk. Medians of the first and of the "
            f"last {COUNTED} writes, in ms. In `unitgain train` all but the copy of the averages is done beside the "
            "training.\n",
            "| | first | last | last / first |",
            "|---|---|---|---|",
            *rows,
            "\nLoad of the machine (processes that run or wait for a core or the disk, this one among them), mean of a "
            f"minute: {found['load_before']:.1f} before, {found['load_after']:.1f} after. What others do is in the "
            "time on the clock, and not in that of the processor.\n",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=500)
    parser.add_argument("--times", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="for the figures")
    parser.add_argument("--work", type=Path, help="for the snapshots, on the disk to measure; deleted afterwards")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        found: dict[str, Any] = write_all(Path(folder), options.tensors, options.times)
        sizes = sum(path.stat().st_size for path in Path(folder).iterdir())
    found |= {"tensors": options.tensors, "bytes": sizes // options.times}
    found |= {"load_before": load, "load_after": os.getloadavg()[0]}
    write_results("snapshots", found, page(found), folder=options.folder)
    print(page(found))


if __name__ == "__main__":
    main()
