"""Measure post-hoc EMA: `python benchmarks/posthoc.py`. Figures go to `results/posthoc.json` and `results/posthoc.md`.

Two claims. Reconstruction of 16 lengths from 64 snapshots of a 125M-parameter network reads every byte once and runs
at a good part of the rate at which the same files are read and converted to float32 and nothing else. Tracking two
averages costs little more than the two `torch._foreach_lerp_` calls alone. Both are ratios within one process, medians
over interleaved runs.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from averages import combine, read_and_convert, read_and_convert_in_chunks, shapes, write_snapshots
from machine import write_results
from unitgain.bench.memory import PeakMemory
from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.ema import PowerEMA
from unitgain.posthoc import SnapshotStore
from unitgain.posthoc.reconstruct import reconstruct

LENGTHS = [round(0.03 + 0.0133 * i, 4) for i in range(16)]


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


def measure_reconstruction(folder: Path, snapshots: int, parameters: float, repeats: int) -> dict[str, float | int]:
    """The first claim."""
    print(f"writing {snapshots} snapshots", flush=True)
    write_snapshots(folder / "run", snapshots, parameters)
    averages = list_snapshots(folder / "run")
    total = sum(average.nbytes for average in averages)
    combined = combine(folder / "run", LENGTHS)

    read: list[int] = []

    def to_files() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        reconstruct(folder / "run", LENGTHS, folder / "out", on_progress=lambda done, _: read.append(done))

    with PeakMemory() as memory:  # of the first run, whose buffers are not there yet
        combined()
    seconds = timed(
        {
            "read_convert": lambda: read_and_convert(averages),
            "read_convert_chunked": lambda: read_and_convert_in_chunks(averages),
            "combine": combined,
        },
        repeats,
    )
    with PeakMemory() as memory_to_files:
        start = time.perf_counter()
        to_files()
        seconds_to_files = time.perf_counter() - start
    outputs = sum(path.stat().st_size for path in (folder / "out").glob("*.safetensors"))
    return {
        "input_bytes": total,
        "snapshots": len(averages),
        "parameters": sum(entry.count for entry in averages[0].entries.values()),
        "lengths": len(LENGTHS),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "reconstruct_to_files_seconds": seconds_to_files,
        "ratio_to_read_convert": seconds["read_convert"] / seconds["combine"],
        "ratio_to_read_convert_chunked": seconds["read_convert_chunked"] / seconds["combine"],
        "ratio_to_files": seconds["read_convert"] / seconds_to_files,
        "bytes_taken_over_input": read[-1] / total,
        "peak_bytes_gained": memory.gained,
        "peak_bytes_gained_to_files": memory_to_files.gained,
        "output_bytes": outputs,
    }


class Plain(nn.Module):
    """Parameters and nothing else."""

    def __init__(self, parameters: float) -> None:
        super().__init__()
        for name, shape in shapes(parameters).items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.randn(shape)))


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
        "The files were written just before and are in the page cache as far as memory allows. Load average at the "
        f"end: {load:.1f}, of which this program takes what it can. `read_convert` reads every file whole and "
        "converts it to float32, nothing else; `combine` makes 16 averages of the same files and drops them; a ratio "
        "is the time of the former over that of the latter.",
    ]
    for name, found in results.items():
        lines += ["", f"## {name.capitalize()}", "", "| quantity | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, default=64)
    parser.add_argument("--parameters", type=float, default=125e6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the synthetic snapshots go; 16 GB and 4 GB of results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        tracking = measure_tracking(folder, args.parameters, 5 * args.repeats)
        reconstruction = measure_reconstruction(folder, args.snapshots, args.parameters, args.repeats)
    results = {"reconstruction": reconstruction, "tracking": tracking}
    load = os.getloadavg()[1]
    write_results("posthoc", {"load": load, **results}, report(results, load))


if __name__ == "__main__":
    main()
