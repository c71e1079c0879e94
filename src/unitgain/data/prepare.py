"""Pictures from any source to the prepared form: decoded, fitted, encoded and sharded by all cores.

What a shard holds is a function of the source and the settings alone: shard number s stands for the pictures from
s times its size on. The number of threads and any interruption change nothing of its bytes.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unitgain.classes import check_names
from unitgain.data.fit import Fit, ImageError, encode_image, fit_image
from unitgain.data.manifest import UNFINISHED, Manifest, Shard, Skipped
from unitgain.data.settings import OnError
from unitgain.data.shards import Column, ShardWriter, check_destination, features, latent_sums
from unitgain.data.sources import Item, Source, SourceOptions, open_source
from unitgain.data.workers import count_threads, in_order
from unitgain.extras import require
from unitgain.serial import to_dict
from unitgain.size import show_size, sides_of, size_of
from unitgain.text import printable
from unitgain.trust import Limits, read_npy

Progress = Callable[[int, int | None], None]
NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Shape:
    """What a row holds."""

    kind: Literal["image", "latent"] = "image"
    channels: int = 0
    size: tuple[int, ...] = (0, 0)

    def __str__(self) -> str:
        return f"{self.kind} of {self.channels} channels, {show_size(self.size)}"


@dataclass(frozen=True)
class Row:
    """What became of a picture.

    Attributes:
        key: its name in the source.
        label: number of its class.
        data: the encoded image; None if the picture could not be used.
        error: why not.
        shape: what the data are.
        sums: of its pixels per channel.
        squares: sums of their squares.
        enlarged: whether it had to be enlarged.
    """

    key: str
    label: int | None
    data: bytes | None = None
    error: str = ""
    shape: Shape = Shape()
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    enlarged: bool = False


class BrokenPictureError(ValueError):
    """A picture cannot be used, and that was to stop everything."""


def prepare_data(
    what: str | Source,
    folder: Path,
    fit: Fit,
    *,
    options: SourceOptions | None = None,
    on_error: OnError = "fail",
    workers: int | None = None,
    shard: int | None = None,
    on_progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Make a prepared folder, or go on with one that was interrupted.

    Args:
        what: the source, as `open_source` takes it; or a `Source` of your own.
        folder: the result.
        fit: how pictures become images.
        options: what may have to be said about a source that is named.
        on_error: "fail": a picture that cannot be used stops everything; "skip": it is left out and listed.
        workers: threads; by default one per core.
        shard: pictures per shard; by default up to 1024, fewer when they are large.
        on_progress: called with the pictures done and all of them (None if unknown).
        say: told what the user should know about the source.

    Raises:
        BrokenPictureError: if a picture cannot be used; what is finished stays, and the next call goes on from there.
        FileExistsError: if the folder holds something else.
        FileNotFoundError: if there is no such source.
        ImportError: if a package is missing.
        ValueError: if the source or the settings make no sense, or are not those of the interrupted job.
    """
    workers = count_threads(workers)
    if shard is not None and shard < 1:
        raise ValueError(f"shard {shard}: must be at least 1")
    require("pyarrow", extra="data")
    check_destination(folder)
    if isinstance(what, Source) and options is not None:
        raise ValueError(f"options say how a source that is named is read; {what.name} is one already: leave them out")
    source = what if isinstance(what, Source) else open_source(what, folder / UNFINISHED, options)
    check_names(source.classes or ())
    for note in source.notes:
        say(note)
    size = shard or max(16, min(1024, 2**28 // (3 * math.prod(sides_of(fit.resolution or 512)))))
    settings = {
        "source": source.name if isinstance(what, Source) else what,
        "source_fingerprint": source.fingerprint,
        "limit": None if options is None else options.limit,
        "shard": size,
        "fit": to_dict(fit),
    }
    writer = ShardWriter(folder, settings)
    if writer.finished is not None:
        return writer.finished
    job = _Job(writer, source, on_error, on_progress or (lambda *_: None))
    try:
        job.run(fit, size, workers)
        return job.finish()
    except BaseException:
        writer.abandon()
        raise


class _Job:
    """Has threads make rows, and collects these into shards."""

    def __init__(self, writer: ShardWriter, source: Source, on_error: OnError, progress: Progress) -> None:
        self.writer, self.source, self.on_error, self.progress = writer, source, on_error, progress
        self.shape = next((shape_of(shard) for shard in writer.shards.values() if shard.rows), None)

    def run(self, fit: Fit, size: int, workers: int) -> None:
        """Make the shards that are missing, of `size` pictures each."""
        there = dict(self.writer.shards)
        first = next(shard for shard in itertools.count() if shard not in there)
        if first and there[first - 1].items < size:
            return  # that was the last one
        items = enumerate(self.source.read(first * size), first * size)
        missing = ((number // size, item) for number, item in items if number // size not in there)

        def make(task: tuple[int, Item]) -> tuple[int, Row]:
            return task[0], fit_item(task[1], fit, self.source.limits)

        count = itertools.count(sum(shard.items for shard in there.values()) + 1)
        # Writing waits for the disk: the next shard is made meanwhile. What was begun is finished, whatever happens.
        with ThreadPoolExecutor(1) as pool, closing(in_order(make, missing, workers)) as results:
            writing = Future[None]()
            writing.set_result(None)
            for shard, group in itertools.groupby(results, lambda result: result[0]):
                rows = list[Row]()
                for _, row in group:
                    rows.append(self._checked(row))
                    self.progress(next(count), self.source.length)
                writing.result()
                writing = pool.submit(self.write, shard, rows)
            writing.result()

    def _checked(self, row: Row) -> Row:
        if row.data is not None and self.shape not in (None, row.shape):
            row = dataclasses.replace(
                row, data=None, error=f"is {row.shape} where others are {self.shape}: give a resolution"
            )
        if row.data is None and self.on_error == "fail":
            raise BrokenPictureError(
                f"{self.source.name}: {row.key} {row.error}; repair or remove it, or go on without such pictures with "
                "--on-error skip"
            )
        if row.data is not None:
            self.shape = row.shape
        return row

    def write(self, shard: int, rows: Sequence[Row]) -> None:
        """Write rows as a shard."""
        good = [row for row in rows if row.data is not None]
        kind = self.shape.kind if self.shape else "image"
        columns: dict[str, Column] = {kind: [row.data for row in good if row.data is not None]}
        if self.source.classes is not None:
            columns["label"] = [row.label for row in good if row.label is not None]
        columns["key"] = [row.key for row in good]
        self.writer.write(
            shard,
            columns,
            kind=kind,
            items=len(rows),
            resolution=size_of(good[0].shape.size) if good else None,
            values=sum(math.prod(row.shape.size) for row in good),
            sums=_sum([row.sums for row in good]),
            squares=_sum([row.squares for row in good]),
            enlarged=sum(row.enlarged for row in good),
            skipped=tuple(Skipped(key=row.key, error=row.error) for row in rows if row.data is None),
        )

    def finish(self) -> Manifest:
        """Write what makes the shards a data set."""
        shape, classes = self.shape or Shape("image", 3), self.source.classes
        entry: dict[str, Any] = {"kind": shape.kind, "resolution": size_of(shape.size), "channels": shape.channels}
        if shape.kind == "latent":  # of an official archive: made with the official VAE
            from unitgain.data.encoder import LatentEncoder  # brings torch, which pixels do without

            entry["encoder"] = to_dict(LatentEncoder.official())
        return self.writer.finish(features(shape.kind, classes), classes=classes, **entry)


def shape_of(shard: Shard) -> Shape:
    """Of the images in a shard."""
    assert shard.resolution is not None, "it has rows"
    return Shape(shard.kind, len(shard.sums) * (2 if shard.kind == "latent" else 1), sides_of(shard.resolution))


def fit_item(item: Item, fit: Fit, limits: Limits) -> Row:
    """A picture as a row; what is wrong with it is in the row."""
    try:
        data = item.load()
        if data[:6] == NPY and (moments := _moments(data, fit)) is not None:
            return _latent_row(item, moments)
        image, enlarged = fit_image(data, fit, limits)
        return _image_row(item, image, enlarged, fit)
    except ImageError as error:
        return Row(item.key, item.label, error=str(error))
    except Exception as error:  # such as a MemoryError: one picture may not end the job of all
        return Row(item.key, item.label, error=f"cannot be used: {type(error).__name__} {printable(error)}".rstrip())


def _image_row(item: Item, image: Image.Image, enlarged: bool, fit: Fit) -> Row:
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
    return Row(
        item.key,
        item.label,
        encode_image(image, fit.format),
        shape=Shape("image", len(counts), (image.height, image.width)),
        sums=tuple((counts @ np.arange(256)).tolist()),
        squares=tuple((counts @ np.arange(256) ** 2).tolist()),
        enlarged=enlarged,
    )


def _moments(data: bytes, fit: Fit) -> NDArray[np.float32] | None:
    """Means and standard deviations of latents, if that is what the NPY file holds."""
    try:
        array = read_npy(data)
    except ValueError as error:
        raise ImageError(f"is no readable NPY file: {error}") from error
    if array.dtype.kind != "f":
        return None
    if array.ndim != 3 or array.shape[0] % 2:
        raise ImageError(f"holds {array.dtype} {array.shape}; latents are [2 C, h, w], means and standard deviations")
    if not np.isfinite(array).all():
        raise ImageError("holds values that are not finite")
    height, width = array.shape[1:]
    if fit.resolution not in (None, size_of((height, width)), size_of((8 * height, 8 * width))):
        raise ImageError(f"holds latents of {height}x{width}, which cannot be resized")
    return array.astype(np.float32)


def _latent_row(item: Item, moments: NDArray[np.float32]) -> Row:
    sums, squares = latent_sums(moments[None])
    shape = Shape("latent", moments.shape[0], moments.shape[1:])
    return Row(item.key, item.label, moments.tobytes(), shape=shape, sums=sums, squares=squares)


def _sum(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(np.array(rows, dtype=np.float64).sum(axis=0).tolist()) if rows else ()
