"""Synthetic snapshots, their reconstruction, and reading the same files and converting them, its measure."""

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unitgain.checkpoint.facts import facts_of
from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.checkpoint.writer import write_average
from unitgain.ema import PowerProfile, describe, file_name
from unitgain.posthoc import stream
from unitgain.posthoc.jobs import Job, jobs
from unitgain.posthoc.reconstruct import plan
from unitgain.posthoc.solve import FitWarning


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
        profile = describe(PowerProfile.of(t, sigma_rel))
        tensors = {name: noise[: sizes[name]].reshape(shape) for name, shape in shapes(parameters).items()}
        write_average(folder / file_name(t, profile), facts_of(t, profile, ()), tensors)


def read_and_convert(averages: Sequence[Snapshot]) -> None:
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


def read_and_convert_in_chunks(averages: Sequence[Snapshot]) -> None:
    """The same through the reader, buffers and threads of the reconstruction, without its combination."""
    work = [Job(n, tuple(a.entries[n] for a in averages), torch.zeros(0, len(averages))) for n in averages[0].entries]
    stream.run(work, lambda *_: None, verify=False)


def combine(folder: Path, lengths: Sequence[float]) -> Callable[[], None]:
    """Read, check and combine all snapshots of a folder into averages of these lengths, which are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # nobody will use these averages
        planned = plan(folder, lengths)
    assert len(planned.sources) == len(list_snapshots(folder))
    work = list(jobs(planned.sources, sorted(planned.copy_from.entries), planned.columns, planned.copy_from))
    return lambda: stream.run(work, lambda *_: None)
