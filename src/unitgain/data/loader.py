"""Rows of a run in their order, read ahead by threads.

What comes is a function of the data, the seed and the number of the image in the run: not of the threads, of what was
asked for before, or of how many processes share the work.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.arch.conditions import Condition, Image
from unitgain.arch.values import Conditions
from unitgain.data.dataset import ArrayDataset, Dataset, Labels
from unitgain.data.order import flips, indices
from unitgain.data.workers import cores
from unitgain.native import recycled
from unitgain.room import free_memory

PART_OF_MEMORY = 0.5  # that a cache may take
Fetched = tuple[Tensor, Labels | Conditions]  # as stored, and their labels


class Loader:
    """Hands out the images of a run by their numbers, and reads on while they are used.

    Args:
        dataset: what to read.
        seed: of the order and the flips.
        flip: mirror each image or not, by a fair coin of its own; for pixels.
        workers: threads that read and decode; 0 to do it when asked. By default one per core, up to 8, for pixels:
            Pillow lets go of the interpreter while it decodes. None for latents, or one where memory is pinned.
        ahead: calls that are prepared in advance.
        cache: keep decoded rows in memory.
        pin: in page-locked memory, from which a GPU copies while it computes.
        conditions: that are read with the rows, by their names; images among them are mirrored with those of the rows.

    Raises:
        ValueError: if latents or signals are to be flipped, or a cache would take more than half of the free memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        *,
        flip: bool = False,
        workers: int | None = None,
        ahead: int | None = None,
        cache: bool = False,
        pin: bool = False,
        conditions: Sequence[Condition] = (),
    ) -> None:
        if flip and dataset.latents:
            raise ValueError(
                f"data {dataset.name}: the mirror image of a latent is not the latent of the mirror image; flip pixels"
            )
        if flip and len(dataset.shape) == 2:
            raise ValueError(f"data {dataset.name}: signals are not mirrored, which would play them backwards")
        self.dataset, self.seed, self.flip, self.pin = dataset, seed, flip, pin
        self.conditions = tuple(conditions)
        if workers is None:
            # A row that needs no decoding is copied in less time than a thread is asked for it, but for a GPU's sake.
            many = int(pin) if dataset.latents else min(cores(), 8)
            workers = 0 if isinstance(dataset, ArrayDataset) else many
        self.ahead = 2 * workers if ahead is None else ahead
        self._rows: Callable[[NDArray[np.int64], Tensor], tuple[Tensor, Labels]] = dataset.rows
        if cache:
            self._rows = Cache(dataset).rows
        self._pool = ThreadPoolExecutor(workers, "loader") if workers and self.ahead else None
        self._ready: dict[tuple[int, int], Future[Fetched]] = {}
        self._last: tuple[int, int] | None = None
        self.waited = 0.0  # seconds that callers of `fetch` have spent in it

    def fetch(self, start: int, count: int) -> Fetched:
        """The images number `start` to `start + count - 1` of the run, as stored, and their labels.

        With the labels come the values of `conditions`, if there are any.

        What will be asked for next is guessed from the last two calls; a wrong guess costs time and nothing else.
        """
        began = time.perf_counter()
        rows = self._fetch(start, count)
        self.waited += time.perf_counter() - began
        return rows

    def _fetch(self, start: int, count: int) -> Fetched:
        if self._pool is None:
            return self._read(start, count)
        ready, self._ready = self._ready, {}
        future = ready.pop((start, count), None) or self._pool.submit(self._read, start, count)
        step = start - self._last[0] if self._last is not None and self._last[1] == count else count
        step = step or count
        self._last = (start, count)
        for request in ((start + step * i, count) for i in range(1, self.ahead + 1)):
            if request[0] >= 0:
                self._ready[request] = ready.pop(request, None) or self._pool.submit(self._read, *request)
        for unwanted in ready.values():
            unwanted.cancel()
        return future.result()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ready.clear()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, start: int, count: int) -> Fetched:
        rows = indices(start, count, len(self.dataset), self.seed)
        out = self._empty((count, *self.dataset.stored_shape))
        stored, labels = self._rows(rows, out)
        mirrored = torch.from_numpy(flips(start, count, self.seed)) if self.flip else None
        if mirrored is not None:
            stored[mirrored] = stored[mirrored].flip(-1)
        return stored, labels if not self.conditions else self._told(rows, mirrored).with_label(labels)

    def _told(self, rows: NDArray[np.int64], mirrored: Tensor | None) -> Conditions:
        """Values of the conditions of these rows, checked."""
        names = [one.name for one in self.conditions]
        told = self.dataset.conditions_of(rows).only(names)
        if missing := [name for name in names if name not in told.values]:
            raise ValueError(f"data {self.dataset.name}: no values of {', '.join(missing)}, which they declare")
        if broken := told.not_finite():
            name, place = broken
            raise ValueError(
                f"data {self.dataset.name}: condition {name!r} of row {rows[place]} holds NaN or infinite values: "
                "repair it, or mark it as missing"
            )
        if mirrored is not None:
            told = told.mirrored(mirrored, [one.name for one in self.conditions if isinstance(one, Image)])
        return told.pinned() if self.pin else told

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        dtype = self.dataset.dtype
        if self.pin:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        return recycled(int(np.prod(shape)) * dtype.itemsize).view(dtype).view(shape)


class Cache:
    """The rows of a data set, kept as they are read.

    Raises:
        ValueError: if they would take more than half of the memory that is free.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        shape = (len(dataset), *dataset.stored_shape)
        size = int(np.prod(shape)) * dataset.dtype.itemsize
        room = free_memory("cpu")
        if size > PART_OF_MEMORY * room.bytes:
            raise ValueError(
                f"data {dataset.name}: a cache takes {size / 1e9:.1f} GB, more than half of the memory of "
                f"{room.bytes / 1e9:.1f} GB ({room.source}); train without it: the files are mapped, and the system "
                "keeps what fits"
            )
        self._kept = torch.empty(shape, dtype=dataset.dtype)
        self._there = np.zeros(len(dataset), dtype=bool)

    def rows(self, indices: NDArray[np.int64], out: Tensor) -> tuple[Tensor, Labels]:
        """As `Dataset.rows`. Threads may read the same row twice, which changes nothing."""
        missing = np.unique(indices[~self._there[indices]])
        if len(missing):
            self._kept[torch.from_numpy(missing)] = self.dataset.rows(missing)[0]
            self._there[missing] = True
        torch.index_select(self._kept, 0, torch.from_numpy(indices), out=out)
        return out, self.dataset.labels_of(indices)
