"""Measure the preparation and loading of data: `python benchmarks/data.py`.

Two claims. `prepare_data` keeps up with Pillow alone decoding, resizing and encoding the same files by as many
processes as it has threads, though it also orders, hashes, checks and writes. The loader hands out latents about as
fast as NumPy copies the same rows out of a memory map. Both are ratios, medians over interleaved runs; the start of the
processes counts. Figures go to `results/data.json` and `.md`.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from machine import write_results
from unitgain.data.dataset import Dataset
from unitgain.data.encoder import LatentEncoder
from unitgain.data.fit import Fit
from unitgain.data.loader import Loader
from unitgain.data.order import indices
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.shards import Column, ShardWriter, features, latent_sums
from unitgain.serial import to_dict

MOMENTS = (8, 64, 64)  # mean and deviation of a latent of 4x64x64
SIZE = (500, 375)  # of the files, as photographs of ImageNet have it


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of smooth random pictures, about as large as photographs of their size."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(SIZE, Image.BICUBIC)
        noisy = np.asarray(coarse).astype(int) + generator.integers(-12, 13, (SIZE[1], SIZE[0], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:06d}.jpg", quality=90)


def pillow_alone(task: tuple[str, int]) -> int:
    """Decode, crop and resize as ADM does, encode; nothing else."""
    path, size = task
    with Image.open(path) as file:
        image = file.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    buffer = io.BytesIO()
    image.crop((left, top, left + size, top + size)).save(buffer, format="PNG")
    return len(buffer.getvalue())


def timed(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each, taken in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, found in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return seconds


def measure_prepare(folder: Path, count: int, size: int, workers: int, repeats: int) -> dict[str, float | int]:
    """The first claim."""
    write_photographs(folder / "photographs", count)
    tasks = [(str(path), size) for path in sorted((folder / "photographs").iterdir())]

    def plain() -> None:
        with multiprocessing.Pool(workers) as pool:
            assert len(pool.map(pillow_alone, tasks, chunksize=32)) == count

    def ours() -> None:
        shutil.rmtree(folder / "data", ignore_errors=True)
        prepare_data(str(folder / "photographs"), folder / "data", Fit(resolution=size), workers=workers)

    alone, prepared = timed(plain, ours, repeats)
    ratios = [one / other for one, other in zip(alone, prepared, strict=True)]
    return {
        "files": count,
        "resolution": size,
        "processes": workers,
        "pillow_images_per_second": count / statistics.median(alone),
        "prepare_images_per_second": count / statistics.median(prepared),
        "ratio": statistics.median(ratios),
        "ratio_worst": min(ratios),
        "ratio_best": max(ratios),
    }


def measure_loader(folder: Path, count: int, batch: int, batches: int, repeats: int) -> dict[str, float | int]:
    """The second claim."""
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
    prepared, loader = results["prepare"], results["loader"]
    return f"""# Data

## Preparing

{prepared["files"]:,} JPEG files of {SIZE[0]}x{SIZE[1]} to PNG of {prepared["resolution"]}x{prepared["resolution"]}, \
{prepared["processes"]} processes or threads, starting them included.

| | images/s |
|---|---|
| Pillow alone: decode, resize, encode | {prepared["pillow_images_per_second"]:.0f} |
| `unitgain data prepare` | {prepared["prepare_images_per_second"]:.0f} |
| ratio, median ({prepared["ratio_worst"]:.2f} to {prepared["ratio_best"]:.2f}) | {prepared["ratio"]:.2f} |

## Loading

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=6000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for 0.3 GB of files and twice 0.5 GB of latents")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        results: dict = {
            "loader": measure_loader(Path(name), args.rows, 64, args.batches, 2 * args.repeats + 1),
            "prepare": measure_prepare(Path(name), args.files, args.resolution, args.workers, args.repeats),
        }
    results["note"] = f"Load average at the end: {os.getloadavg()[1]:.1f}."
    print(json.dumps(results, indent=1))
    write_results("data", results, markdown(results))


if __name__ == "__main__":
    main()
