"""What writing a snapshot costs as a run grows long: `python benchmarks/snapshots.py`.

A network of 500 tensors, whose pair of averages is written 256 times into one folder, as `unitgain train` does it. The
store must not look through what is there already: its last writes are compared with the first ones of another store in
an empty folder, in turns, so that what else the machine does falls on both. Figures go to `results/snapshots.json` and
`.md`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from arguments import parse
from machine import write_results
from unitgain.posthoc import SnapshotStore

COUNTED = 10  # first and last writes that are timed, in turns


def network(tensors: int) -> nn.Module:
    """Layers of a weight and a bias each."""
    return nn.ModuleList(nn.Linear(64, 64) for _ in range(tensors // 2))


def open_store(folder: Path, tensors: int) -> SnapshotStore:
    """A store that is written to by `write` alone."""
    return SnapshotStore(folder, network(tensors), every=1e9)


def write(store: SnapshotStore) -> dict[str, float]:
    """Milliseconds of a write: on the clock, of the processor, and of the copy that training waits for."""
    store.update(store.t + 1, 1)
    start, before = time.perf_counter(), time.process_time()
    write_copy = store.take()
    copied = time.perf_counter()
    write_copy()
    seconds = {
        "clock": time.perf_counter() - start,
        "processor": time.process_time() - before,
        "copy": copied - start,
    }
    return {kind: 1000 * value for kind, value in seconds.items()}


def first_and_last(folder: Path, tensors: int, times: int) -> dict[str, list[dict[str, float]]]:
    """The first writes of a store and the last of one of so many, in turns."""
    long = open_store(folder / "long", tensors)
    for number in range(1, times - COUNTED + 1):
        write(long)
        print(f"\r{number}/{times}", end="", flush=True)
    stores = {"first": open_store(folder / "short", tensors), "last": long}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    for turn in range(COUNTED):
        for name in list(stores) if turn % 2 else reversed(list(stores)):
            found[name].append(write(stores[name]))
    return found


def page(found: dict[str, Any]) -> str:
    """The figures as text."""
    names = {
        "clock": "whole write, on the clock",
        "processor": "whole write, time of the processor",
        "copy": "copy of the averages, on the clock",
    }
    rows = []
    for kind, name in names.items():
        first, last = (median(row[kind] for row in found[which]) for which in ("first", "last"))
        ratios = [b[kind] / a[kind] for a, b in zip(found["first"], found["last"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        rows.append(f"| {name} | {first:.1f} | {last:.1f} | {last / first:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(
        [
            "# Writing snapshots, the first and the last\n",
            f"A pair of averages of {found['tensors']} tensors, {found['bytes'] / 1e6:.1f} MB, is written "
            f"{found['times']} times into one folder, each time flushed to the disk. The last {len(found['last'])} "
            "writes are timed in turns with the first of another store in an empty folder: medians in ms, their ratio, "
            "and the quartiles of the ratio turn by turn. In `unitgain train` all but the copy is done beside the "
            "training.\n",
            "| | first | last | last / first | turn by turn |",
            "|---|---|---|---|---|",
            *rows,
            "\nLoad of the machine (processes that run or wait for a core or the disk, this one among them), mean of a "
            f"minute: {found['load_before']:.1f} before, {found['load_after']:.1f} after.\n",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=500)
    parser.add_argument("--times", type=int, default=256)
    parser.add_argument("--work", type=Path, help="for the snapshots, on the disk to measure; deleted afterwards")
    options = parse(parser, arguments)
    if options.small:
        options.tensors, options.times = 4, COUNTED + 2
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        found: dict[str, Any] = {"tensors": options.tensors, "times": options.times}
        found |= first_and_last(Path(folder), options.tensors, options.times)
        found["bytes"] = sum(path.stat().st_size for path in Path(folder, "long").iterdir()) // options.times
    found |= {"load_before": load, "load_after": os.getloadavg()[0]}
    write_results("snapshots", found, page(found), folder=options.folder)
    print(page(found))


if __name__ == "__main__":
    main()
