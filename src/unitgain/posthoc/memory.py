"""Averages of any length in memory: what `reconstruct` writes, without a file."""

from collections.abc import Callable

import torch
from torch import Tensor

from unitgain.checkpoint.writer import check_dtype
from unitgain.posthoc import stream
from unitgain.posthoc.jobs import jobs, result_dtype
from unitgain.posthoc.planning import Plan


def combine(
    planned: Plan,
    dtype: str | None = "float16",
    *,
    threads: int = 0,
    verify: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Tensor]]:
    """Read each snapshot once, and combine: the tensors of the files that `reconstruct` writes, bit for bit.

    Args:
        planned: from `plan`.
        dtype: as in `reconstruct`.
        threads: likewise.
        verify: likewise.
        on_progress: likewise; what it raises ends the work.

    Returns:
        Tensors by name for each of the plan's targets, on the CPU.

    Raises:
        SnapshotError: if a snapshot is damaged.
        ValueError: if a result has values that are not finite in `dtype`.
    """
    if dtype is not None:
        check_dtype(dtype)
    like, count = planned.like, len(planned.targets)
    results: list[dict[str, Tensor]] = [{} for _ in range(count)]
    flat: dict[str, Tensor] = {}  # [results, elements]; complex averages as pairs
    for name, entry in like.entries.items():
        values = torch.empty(count, *entry.shape, dtype=result_dtype(like, name, dtype))
        for result, own in zip(results, values, strict=True):
            result[name] = own
        paired = torch.view_as_real(values) if values.is_complex() and like.averaged(name) else values
        flat[name] = paired.view(count, -1)

    def sink(name: str, start: int, values: Tensor) -> None:
        flat[name][:, start : start + values.shape[1]] = values

    work = list(jobs(planned.sources, sorted(like.entries), planned.columns, like, planned.copied, dtype))
    stream.run(work, sink, threads=threads, verify=verify, on_progress=on_progress)
    return results
