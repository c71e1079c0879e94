"""What a reconstruction has to do with each tensor, and in what pieces threads take it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint.facts import average_dtype
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.checkpoint.tensors import Entry

CHUNK = 131072  # values per file and turn: fewer, and calls cost more than reading


@dataclass(frozen=True)
class Job:
    """What to do with one tensor.

    Attributes:
        name: of the tensor.
        entries: where it lies, one per source.
        weights: `[results, sources]` in the precision to work in; None to pass each source on as it is, for one result.
        dtype: of the results; real, as `entries` are, where there are weights.
    """

    name: str
    entries: tuple[Entry, ...]
    weights: Tensor | None
    dtype: torch.dtype

    @property
    def turns(self) -> list[tuple[int, int]]:
        """First element and number of elements of each piece that threads take; one piece if there is nothing."""
        count = self.entries[0].count
        return [(start, min(CHUNK, count - start)) for start in range(0, max(count, 1), CHUNK)]


def jobs(
    sources: Sequence[Snapshot],
    names: Sequence[str],
    columns: Callable[[str], NDArray[Any]],
    like: Snapshot,
    copied: Sequence[Snapshot],
    dtype: str | None = None,
) -> Iterator[Job]:
    """The work on each of the tensors `names`.

    Args:
        sources: the snapshots.
        names: tensors to do.
        columns: weights `[sources, results]` for a tensor.
        like: a snapshot that says which tensors are averages.
        copied: by result, the snapshot whose buffers are passed on.
        dtype: of averages; None for that of `like`.
    """
    for name in names:
        if like.averaged(name):
            entries = tuple(source.entries[name].real() for source in sources)
            precision = torch.float64 if any(entry.dtype == torch.float64 for entry in entries) else torch.float32
            made = result_dtype(like, name, dtype)
            made = made.to_real() if made.is_complex else made
            yield Job(name, entries, torch.tensor(columns(name).T.tolist(), dtype=precision), made)
        else:
            yield Job(name, tuple(source.entries[name] for source in copied), None, like.entries[name].dtype)


def result_dtype(like: Snapshot, name: str, dtype: str | None) -> torch.dtype:
    """Of a tensor of the results: as `average_dtype` says, if it is an average, else as in `like`."""
    own = like.entries[name].dtype
    return average_dtype(name, own, dtype) if dtype and like.averaged(name) else own
