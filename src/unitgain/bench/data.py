"""The loader, against NumPy copying the same rows out of a memory map."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from unitgain.bench.measure import Report, Work, measure
from unitgain.bench.turns import Pace, Progress
from unitgain.data.encoder import LatentEncoder
from unitgain.data.loader import Dataset, Loader
from unitgain.data.order import indices
from unitgain.data.prepared import PreparedDataset
from unitgain.data.shards import Column, ShardWriter, features, latent_sums
from unitgain.extras import require
from unitgain.serial import to_dict

MOMENTS = (8, 64, 64)  # mean and deviation of a latent of 4x64x64
ROWS = 2048


def data(
    folder: Path | None = None,
    *,
    batch: int = 64,
    batches: int = 16,
    rows: int = ROWS,
    workers: tuple[int, ...] = (0, 1),
    temporary: Path | None = None,
    pace: Pace | None = None,
    trace: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Measure how fast rows come out of the loader, each run from the start of an epoch on.

    Args:
        folder: prepared data; None for synthetic latents, which are also read out of a memory map by NumPy, the first
            row of the report.
        batch: rows per call.
        batches: calls of a run.
        rows: of the synthetic latents, 128 KiB each, twice.
        workers: threads of the loader, each a row of the report.
        temporary: where the synthetic latents go; they are deleted afterwards.
        pace: how long.
        trace: file for a trace.
        on_progress: is told what is going on.

    Returns:
        Rows in rows of data.

    Raises:
        ValueError: if a number is out of range.
    """
    if min(batch, batches, rows) < 1 or not workers or min(workers) < 0:
        raise ValueError(f"batch, batches and rows must be positive, workers not negative: {batch=} {rows=} {workers=}")
    require("datasets", extra="data")
    with ExitStack() as stack:
        works: list[Work] = []
        if folder is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=temporary)))
            if on_progress is not None:
                on_progress(f"writing {rows} latents", 0, None)
            mapped = write_latents(place, rows)
            works.append(Work(name="NumPy memory map", run=copying(mapped, batch, batches), items=batch * batches))
            folder = place / "latents"
        dataset = PreparedDataset(folder)
        for count in workers:
            name = f"loader, {count} thread{'s' * (count != 1)}"
            works.append(Work(name=name, run=loading(dataset, batch, batches, count), items=batch * batches))
        settings = {"batch": batch, "batches": batches, "rows": len(dataset), "shape": list(dataset.stored_shape)}
        return measure(
            works, what="data", unit="rows", pace=pace, settings=settings, trace=trace, on_progress=on_progress
        )


def write_latents(folder: Path, count: int) -> np.memmap:
    """The same random latents in the prepared form (`latents`) and as one raw file, which is returned as a map."""
    generator = np.random.default_rng(0)
    writer = ShardWriter(folder / "latents", {"kind": "benchmark"})
    with open(folder / "raw", "wb") as raw:
        for index, start in enumerate(range(0, count, 512)):
            rows = generator.standard_normal((min(512, count - start), *MOMENTS), dtype=np.float32)
            raw.write(rows.tobytes())
            sums, squares = latent_sums(rows)
            columns: dict[str, Column] = {"latent": [row.tobytes() for row in rows]}
            columns["key"] = [str(start + row) for row in range(len(rows))]
            values = len(rows) * MOMENTS[1] * MOMENTS[2]
            writer.write(index, columns, kind="latent", items=len(rows), values=values, sums=sums, squares=squares)
    encoder = to_dict(LatentEncoder.official())
    entry = {"kind": "latent", "resolution": MOMENTS[1], "channels": MOMENTS[0], "classes": None, "encoder": encoder}
    writer.finish(features("latent", None), **entry)
    mapped = np.memmap(folder / "raw", np.float32, "r", shape=(count, *MOMENTS))
    last = np.array([count - 1])
    assert np.array_equal(PreparedDataset(folder / "latents").rows(last)[0].numpy()[0], mapped[count - 1])
    return mapped


def copying(mapped: np.memmap, batch: int, batches: int) -> Callable[[], None]:
    """Copy random rows out of a memory map: what NumPy alone takes."""

    def run() -> None:
        for start in range(0, batch * batches, batch):
            assert mapped[indices(start, batch, len(mapped), 0)].shape == (batch, *mapped.shape[1:])

    return run


def loading(dataset: Dataset, batch: int, batches: int, workers: int) -> Callable[[], None]:
    """The same rows through the loader, its threads started and stopped."""

    def run() -> None:
        with Loader(dataset, 0, workers=workers) as loader:
            for start in range(0, batch * batches, batch):
                assert loader.fetch(start, batch)[0].shape == torch.Size((batch, *dataset.stored_shape))

    return run
