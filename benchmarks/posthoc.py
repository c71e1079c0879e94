"""Measure post-hoc EMA: `python benchmarks/posthoc.py`. Figures go to `results/posthoc.json` and `results/posthoc.md`.

Two claims. Reconstruction of 16 lengths from 64 snapshots of a 125M-parameter network, checksums verified, runs at
0.8 of the rate or more at which the same files are read and converted to float32 and nothing else. Tracking two
averages costs little more than the two `torch._foreach_lerp_` calls alone. Both are ratios within one process, medians
over interleaved runs.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from arguments import parse
from averages import Plain, combine, read_and_convert, read_and_convert_in_chunks, write_snapshots
from machine import write_results
from unitgain.bench.memory import PeakMemory
from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.ema import PowerEMA
from unitgain.posthoc import SnapshotStore
from unitgain.posthoc.reconstruct import reconstruct


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, over interleaved runs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_reconstruction(
    folder: Path, snapshots: int, parameters: float, lengths: int, repeats: int
) -> dict[str, float | int]:
    """The first claim."""
    wanted = [round(0.03 + 0.2 * i / lengths, 4) for i in range(lengths)]
    print(f"writing {snapshots} snapshots", flush=True)
    write_snapshots(folder / "run", snapshots, parameters)
    averages = list_snapshots(folder / "run")
    combined = combine(folder / "run", wanted)

    def to_files() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        reconstruct(folder / "run", wanted, folder / "out")

    with PeakMemory() as memory:  # of the first run, whose buffers are not there yet
        to_files()
    outputs = [path.stat().st_size for path in (folder / "out").glob("*.safetensors")]

    def write() -> None:
        shutil.rmtree(folder / "written", ignore_errors=True)
        (folder / "written").mkdir()
        for number, size in enumerate(outputs):
            with open(folder / "written" / str(number), "wb") as file:
                for start in range(0, size, 2**24):
                    file.write(bytes(min(2**24, size - start)))
                file.flush()
                os.fsync(file.fileno())

    runs = {
        "read_convert": lambda: read_and_convert(averages),
        "read_convert_chunked": lambda: read_and_convert_in_chunks(averages),
        "combine": combined,
        "reconstruct": to_files,
        "write": write,
    }
    seconds = timed(runs, repeats)
    return {
        "input_bytes": sum(average.nbytes for average in averages),
        "output_bytes": sum(outputs),
        "snapshots": len(averages),
        "parameters": sum(entry.count for entry in averages[0].entries.values()),
        "lengths": lengths,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "combine_ratio": seconds["read_convert"] / seconds["combine"],
        "combine_ratio_to_chunked": seconds["read_convert_chunked"] / seconds["combine"],
        "reconstruct_ratio": seconds["read_convert"] / seconds["reconstruct"],
        "reconstruct_ratio_with_write": (seconds["read_convert"] + seconds["write"]) / seconds["reconstruct"],
        "peak_bytes_gained": memory.gained,
    }


def measure_tracking(folder: Path, parameters: float, repeats: int) -> dict[str, float | int]:
    """The second claim."""
    module = Plain(parameters)
    emas = [PowerEMA(module, sigma_rel) for sigma_rel in (0.05, 0.10)]
    store = SnapshotStore(folder / "never", emas, every=1e12)
    weights: list[Tensor] = [parameter.detach() for parameter in module.parameters()]
    copies = [[weight.clone() for weight in weights] for _ in range(2)]

    def alone() -> None:
        for copy in copies:
            torch._foreach_lerp_(copy, weights, 0.001)

    def tracked() -> None:
        store.update(t=store.t + 1, dt=1)

    tracked(), alone()
    seconds = timed({"lerp_alone": alone, "tracking": tracked}, repeats)
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "tensors": len(weights),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "ratio": seconds["tracking"] / seconds["lerp_alone"],
    }


def report(results: dict[str, dict[str, float | int]], load: float) -> str:
    """The figures as a page."""
    lines = [
        "# Post-hoc EMA",
        "",
        "The files were written just before, by `SnapshotStore` as `unitgain train` writes them, and are in the page "
        f"cache as far as memory allows. Load average at the end: {load:.1f}, of which this program takes what it can. "
        "The baseline, `read_convert`, reads every tensor whole and converts it to float32, a file per thread: nothing "
        "is checked, combined or written. `read_convert_chunked` does so in small pieces of mapped files, in C where "
        "there is C: the bound of what follows. `combine` also checks all checksums and makes averages, which are "
        "dropped; `reconstruct` is the whole call, results written and flushed to the disk; `write` writes and flushes "
        "as many bytes and does nothing else. A ratio is the time of the baseline over that of the other.",
    ]
    for name, found in results.items():
        lines += ["", f"## {name.capitalize()}", "", "| quantity | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in found.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=64)
    parser.add_argument("--parameters", type=float, default=125e6)
    parser.add_argument("--lengths", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the synthetic snapshots go; 16 GB and 4 GB of results")
    args = parse(parser, arguments)
    if args.small:
        args.snapshots, args.parameters, args.lengths, args.repeats = 4, 1e5, 2, 1
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        tracking = measure_tracking(folder, args.parameters, 5 * args.repeats)
        reconstruction = measure_reconstruction(folder, args.snapshots, args.parameters, args.lengths, args.repeats)
    results = {"reconstruction": reconstruction, "tracking": tracking}
    load = os.getloadavg()[1]
    write_results("posthoc", {"load": load, **results}, report(results, load), folder=args.folder)


if __name__ == "__main__":
    main()
