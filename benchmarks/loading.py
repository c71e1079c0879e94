"""Measure the loading of data: `python benchmarks/loading.py`.

How fast the loader hands out latents, beside NumPy copying the same rows out of a memory map. Figures are ratios,
medians over interleaved runs, and go to `results/loading.json` and `.md`. `preparing.py` measures preparing.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from arguments import parse
from machine import write_results
from unitgain.data.dataset import Dataset
from unitgain.data.encoder import LatentEncoder
from unitgain.data.loader import Loader
from unitgain.data.order import indices
from unitgain.data.prepared import PreparedDataset
from unitgain.data.shards import Column, ShardWriter, features, latent_sums
from unitgain.serial import to_dict

MOMENTS = (8, 64, 64)  # mean and deviation of a latent of 4x64x64


def timed(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each, taken in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, found in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return seconds


def measure_loader(folder: Path, count: int, batch: int, batches: int, repeats: int) -> dict[str, float | int]:
    """Rows per second of both."""
    plain = copying(write_latents(folder, count), batch, batches)
    dataset = PreparedDataset(folder / "latents")
    found: dict[str, float | int] = {"rows": count, "batch": batch, "batches": batches}
    plain(), loading(dataset, batch, batches, 0)()  # into the page cache
    for name, workers in (("threads", 1), ("no_threads", 0)):
        alone, loaded = timed(plain, loading(dataset, batch, batches, workers), repeats)
        ratios = [one / other for one, other in zip(alone, loaded, strict=True)]
        found["memmap_rows_per_second"] = batch * batches / statistics.median(alone)
        found[f"loader_{name}_rows_per_second"] = batch * batches / statistics.median(loaded)
        found[f"ratio_{name}"] = statistics.median(ratios)
        found[f"ratio_{name}_worst"] = min(ratios)
    return found


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
            said = {"items": len(rows), "values": len(rows) * MOMENTS[1] * MOMENTS[2], "resolution": MOMENTS[1]}
            writer.write(index, columns, kind="latent", sums=sums, squares=squares, **said)
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


def markdown(results: dict[str, dict]) -> str:
    """The figures as a page."""
    loader = results["loader"]
    return f"""# Loading data

Random rows of {loader["rows"]:,} latents of 8x64x64 float32, batches of {loader["batch"]}, all in the page cache.

| | rows/s | ratio, median (worst) |
|---|---|---|
| NumPy memory map | {loader["memmap_rows_per_second"]:.0f} | 1 |
| loader, threads | {loader["loader_threads_rows_per_second"]:.0f} | {loader["ratio_threads"]:.2f} \
({loader["ratio_threads_worst"]:.2f}) |
| loader, no threads | {loader["loader_no_threads_rows_per_second"]:.0f} | {loader["ratio_no_threads"]:.2f} \
({loader["ratio_no_threads_worst"]:.2f}) |

{results["note"]}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="for twice 0.5 GB of latents")
    args = parse(parser, arguments)
    if args.small:
        args.rows, args.batches, args.repeats = 64, 2, 0
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        results: dict = {
            "loader": measure_loader(Path(name), args.rows, 64, args.batches, 2 * args.repeats + 1),
        }
    results["note"] = f"Load average at the end: {os.getloadavg()[1]:.1f}."
    print(json.dumps(results, indent=1))
    write_results("loading", results, markdown(results), folder=args.folder)


if __name__ == "__main__":
    main()
