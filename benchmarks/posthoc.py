"""Measure post-hoc EMA: `python benchmarks/posthoc.py`. Figures go to `results/posthoc.json` and `results/posthoc.md`.

Two claims. Reconstruction of 16 lengths from 64 snapshots of a 125M-parameter network reads every byte once and runs
at a good part of the rate at which the same files are read and converted to float32 and nothing else. Tracking two
averages costs little more than the two `torch._foreach_lerp_` calls alone. Both are ratios within one process, medians
over interleaved runs.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from machine import write_results
from unitgain.ema import PowerEMA, PowerProfile
from unitgain.posthoc import SnapshotStore, stream
from unitgain.posthoc.files import Average, list_averages
from unitgain.posthoc.reconstruct import plan, reconstruct
from unitgain.posthoc.store import name_of
from unitgain.posthoc.targets import describe
from unitgain.posthoc.writer import write_average

LENGTHS = [round(0.03 + 0.0133 * i, 4) for i in range(16)]


def shapes(parameters: float) -> dict[str, tuple[int, ...]]:
    """Tensors like those of a U-Net with attention, `parameters` in all, the largest of 5M."""
    block = {"conv.a": (768, 768, 3, 3), "conv.b": (768, 384, 3, 3), "attn.qkv": (2304, 768), "attn.out": (768, 768)}
    block |= {"emb": (768, 768), "gain": ()}
    size = sum(int(torch.Size(shape).numel()) for shape in block.values())
    count, rest = divmod(int(parameters), size)
    tensors = {f"block{i:02d}.{name}": shape for i in range(count) for name, shape in block.items()}
    return tensors | ({"rest": (rest,)} if rest else {})


def write_snapshots(folder: Path, count: int, parameters: float) -> None:
    """`count` files of random float16 weights, half of them of each length."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2**24, generator=generator).half()
    for index in range(count):
        t, sigma_rel = (index // 2 + 1) * 1000, (0.05, 0.10)[index % 2]
        profile = PowerProfile.of(t, sigma_rel)
        tensors = {name: noise[: int(torch.Size(s).numel())].reshape(s) for name, s in shapes(parameters).items()}
        metadata = {"t": json.dumps(t), "profile": json.dumps(describe(profile)), "buffers": "[]"}
        write_average(folder / name_of(t, profile), tensors, metadata)


def read_and_convert(averages: list[Average]) -> None:
    """Read every tensor whole and convert it to float32: what anyone would write, a file per thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lock, queue = threading.Lock(), list(averages)

    def work() -> None:
        torch.set_num_threads(1)
        while True:
            with lock:
                if not queue:
                    return
                average = queue.pop()
            with open(average.path, "rb", buffering=0) as file:
                for entry in average.entries.values():
                    buffer = torch.empty(entry.count, dtype=entry.dtype)
                    file.seek(entry.offset)
                    file.readinto(buffer.numpy().data.cast("B"))
                    buffer.float()

    workers = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(threads)


def read_and_convert_in_chunks(averages: list[Average]) -> None:
    """The same through the reader, buffers and threads of the reconstruction, without its combination."""
    work = [
        stream.Job(n, tuple(a.entries[n] for a in averages), torch.zeros(0, len(averages))) for n in averages[0].entries
    ]
    stream.run(work, lambda *_: None, verify=False)


def combine(folder: Path) -> Callable[[], None]:
    """Read, check and combine into 16 results, which are dropped: no disk is written."""
    planned = plan(folder, LENGTHS)
    assert len(planned.sources) == len(list_averages(folder))
    work = list(stream.jobs(planned.sources, sorted(planned.copy_from.entries), planned.columns, planned.copy_from))
    return lambda: stream.run(work, lambda *_: None)


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


class PeakMemory:
    """Highest anonymous memory of this process in a block, in bytes above what it had at the start; Linux."""

    def __enter__(self) -> "PeakMemory":
        self.start = self.peak = _anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, _anonymous())

    @property
    def gained(self) -> int:
        """Bytes above the start."""
        return self.peak - self.start

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, _anonymous())


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_reconstruction(folder: Path, snapshots: int, parameters: float, repeats: int) -> dict[str, float | int]:
    """The first claim."""
    print(f"writing {snapshots} snapshots", flush=True)
    write_snapshots(folder / "run", snapshots, parameters)
    averages = list_averages(folder / "run")
    total = sum(average.nbytes for average in averages)
    combined = combine(folder / "run")

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
