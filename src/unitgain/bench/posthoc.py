"""Reconstruction of averages from synthetic snapshots, against reading the same files and converting them."""

import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unitgain.bench.measure import Report, Work, measure
from unitgain.bench.turns import Pace, Progress
from unitgain.ema import PowerProfile
from unitgain.posthoc import stream
from unitgain.posthoc.files import Average, list_averages
from unitgain.posthoc.jobs import Job, jobs
from unitgain.posthoc.reconstruct import plan
from unitgain.posthoc.solve import FitWarning
from unitgain.posthoc.store import name_of
from unitgain.posthoc.targets import describe
from unitgain.posthoc.writer import write_average


def posthoc(
    *,
    snapshots: int = 16,
    parameters: float = 20e6,
    lengths: int = 16,
    folder: Path | None = None,
    pace: Pace | None = None,
    trace: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Measure how fast snapshots become averages, which are dropped: no disk is written while the clock runs.

    Args:
        snapshots: files, of float16 weights.
        parameters: in each.
        lengths: averages made in one pass.
        folder: where the files go, which are deleted afterwards; 2 bytes per parameter and file.
        pace: how long.
        trace: file for a trace.
        on_progress: is told what is going on.

    Returns:
        Rows in bytes of the snapshots: `read+convert` reads every file whole and converts it to float32, a file per
        thread; `read+convert in chunks` does the same with the reader and the buffers of the reconstruction; `combine`
        is the reconstruction, checksums included.

    Raises:
        ValueError: if a number is out of range.
    """
    if snapshots < 2 or lengths < 1 or parameters < 1:
        raise ValueError(
            f"averages need 2 snapshots, 1 length and 1 parameter at least, not {snapshots}, {lengths} and {parameters}"
        )
    with tempfile.TemporaryDirectory(dir=folder) as name:
        if on_progress is not None:
            on_progress(f"writing {snapshots} snapshots", 0, None)
        write_snapshots(Path(name), snapshots, parameters)
        averages = list_averages(Path(name))
        size = sum(average.nbytes for average in averages)
        runs: dict[str, Callable[[], object]] = {
            "read+convert": lambda: read_and_convert(averages),
            "read+convert in chunks": lambda: read_and_convert_in_chunks(averages),
            "combine": combine(Path(name), spread_lengths(lengths)),
        }
        settings = {"snapshots": snapshots, "parameters": int(parameters), "lengths": lengths}
        works = [Work(name=name, run=run, items=size) for name, run in runs.items()]
        return measure(
            works, what="posthoc", unit="bytes", pace=pace, settings=settings, trace=trace, on_progress=on_progress
        )


def spread_lengths(count: int) -> list[float]:
    """Relative lengths sigma_rel from 0.03 to 0.23, so many."""
    return [round(0.03 + 0.2 * index / max(count - 1, 1), 4) for index in range(count)]


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
    sizes = {name: int(torch.Size(shape).numel()) for name, shape in shapes(parameters).items()}
    noise = torch.randn(max(sizes.values()), generator=generator).half()
    for index in range(count):
        t, sigma_rel = (index // 2 + 1) * 1000, (0.05, 0.10)[index % 2]
        profile = PowerProfile.of(t, sigma_rel)
        tensors = {name: noise[: sizes[name]].reshape(shape) for name, shape in shapes(parameters).items()}
        metadata = {"t": json.dumps(t), "profile": json.dumps(describe(profile)), "buffers": "[]"}
        write_average(folder / name_of(t, profile), tensors, metadata)


def read_and_convert(averages: Sequence[Average]) -> None:
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


def read_and_convert_in_chunks(averages: Sequence[Average]) -> None:
    """The same through the reader, buffers and threads of the reconstruction, without its combination."""
    work = [Job(n, tuple(a.entries[n] for a in averages), torch.zeros(0, len(averages))) for n in averages[0].entries]
    stream.run(work, lambda *_: None, verify=False)


def combine(folder: Path, lengths: Sequence[float]) -> Callable[[], None]:
    """Read, check and combine all snapshots of a folder into averages of these lengths, which are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # nobody will use these averages
        planned = plan(folder, lengths)
    assert len(planned.sources) == len(list_averages(folder))
    work = list(jobs(planned.sources, sorted(planned.copy_from.entries), planned.columns, planned.copy_from))
    return lambda: stream.run(work, lambda *_: None)
