"""Synthetic snapshots, their reconstruction, and reading the same files and converting them, its measure."""

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.posthoc import SnapshotStore, stream
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


class Plain(nn.Module):
    """Parameters and nothing else."""

    def __init__(self, parameters: float) -> None:
        super().__init__()
        for name, shape in shapes(parameters).items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.randn(shape)))


@torch.no_grad()
def write_snapshots(folder: Path, count: int, parameters: float) -> None:
    """`count` snapshots of a network in training, half of them of each length, as `unitgain train` writes them."""
    module = Plain(parameters)
    store = SnapshotStore(folder, module, every=1000)
    for number in range(1, count // 2 + 1):
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(())
        store.update(t=1000 * number, dt=1000)


def read_and_convert(averages: Sequence[Snapshot]) -> None:
    """The baseline: every tensor read whole and converted to float32, as anyone would write it, a file per thread.

    Nothing is checked, combined or written.
    """
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
    work = [
        Job(n, tuple(a.entries[n] for a in averages), torch.zeros(0, len(averages)), torch.float32)
        for n in averages[0].entries
    ]
    stream.run(work, lambda *_: None, verify=False)


def combine(folder: Path, lengths: Sequence[float]) -> Callable[[], None]:
    """Read, check and combine all snapshots of a folder into averages of these lengths, which are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # nobody will use these averages
        planned = plan(folder, lengths)
    assert len(planned.sources) == len(list_snapshots(folder))
    names = sorted(planned.like.entries)
    work = list(jobs(planned.sources, names, planned.columns, planned.like, planned.copied, "float16"))
    return lambda: stream.run(work, lambda *_: None)
