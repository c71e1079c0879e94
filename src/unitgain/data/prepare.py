"""Pictures and arrays from any source to the prepared form: decoded, fitted, encoded and sharded by all cores.

What a shard holds is a function of the source and the settings alone: shard number s stands for the pictures from
s times its size on. The number of threads and any interruption change nothing of its bytes.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from unitgain.classes import check_names
from unitgain.data.fit import Fit
from unitgain.data.manifest import UNFINISHED, Manifest, Skipped
from unitgain.data.media import is_array
from unitgain.data.rows import Row, Shape, check_heeded, fit_item, shape_of, sum_rows
from unitgain.data.settings import OnError
from unitgain.data.shards import LIMIT, Column, ShardWriter, check_destination, features, moments
from unitgain.data.sources import Indexed, Item, Source, SourceOptions, open_source
from unitgain.data.sources.tell import place_of
from unitgain.data.workers import count_threads, in_order
from unitgain.extras import require
from unitgain.serial import digest, to_dict
from unitgain.size import sides_of, size_of

Progress = Callable[[int, int | None], None]
SHARD_BYTES, SHARD_ROWS = 2**28, 1024  # of a file, by default


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
    size = shard or _rows_per_shard(source, fit)
    writer = ShardWriter(folder, _settings(what, source, fit, size))
    if writer.finished is not None:
        return writer.finished
    if on_error == "fail":
        _refuse_skipped(writer, source)
    job = _Job(writer, source, fit, on_error, on_progress or (lambda *_: None))
    try:
        job.run(size, workers)
        return job.finish()
    except BaseException:
        writer.abandon()
        raise


def _settings(what: str | Source, source: Source, fit: Fit, size: int) -> dict[str, Any]:
    """What another call has to have in common with one that was interrupted, as JSON values."""
    options = source.options
    name, place = (what.name, what.name) if isinstance(what, Source) else (what, place_of(what))
    settings: dict[str, Any] = {
        "source": name,
        "source_fingerprint": digest([place, source.fingerprint]),
        "limit": options.limit,
        "shard": size,
        "fit": to_dict(fit),
        LIMIT: options.limits.max_item_bytes,
    }
    for name in ("image_column", "split"):  # what else chooses rows, and arrays in files, shows in the fingerprint
        if (value := getattr(options, name)) is not None:
            settings[name] = value
    if isinstance(source, Indexed):
        settings["source_rows"] = source.chosen
    if source.conditioned:
        named = None if options.conditions is None else list(options.conditions)
        settings |= {"conditions": named, "allow_missing": options.allow_missing}
    return settings


def _refuse_skipped(writer: ShardWriter, source: Source) -> None:
    """Raise `BrokenPictureError` if the call that was interrupted has left out a picture."""
    skipped = next((row for _, part in sorted(writer.shards.items()) for row in part.skipped), None)
    if skipped is not None:
        raise BrokenPictureError(
            f"{source.name}: {skipped.key} {skipped.error}, and was left out by the call that was interrupted; go on "
            f"with --on-error skip, or delete {writer.folder} and start again"
        )


class _Job:
    """Has threads make rows, and collects these into shards."""

    def __init__(self, writer: ShardWriter, source: Source, fit: Fit, on_error: OnError, progress: Progress) -> None:
        self.writer, self.source, self.fit, self.on_error, self.progress = writer, source, fit, on_error, progress
        shapes = [shape_of(shard) for shard in writer.shards.values() if shard.rows]
        self.shape = functools.reduce(Shape.joined, shapes) if shapes else None

    def run(self, size: int, workers: int) -> None:
        """Make the shards that are missing, of `size` pictures each."""
        there = dict(self.writer.shards)
        first = next(shard for shard in itertools.count() if shard not in there)
        if first and there[first - 1].items < size:
            return  # that was the last one
        items = enumerate(self.source.read(first * size), first * size)
        missing = ((number // size, item) for number, item in items if number // size not in there)

        options, column, fit = self.source.options, self.source.array_name, self.fit

        def make(task: tuple[int, Item]) -> tuple[int, Row]:
            return task[0], fit_item(task[1], fit, options.limits, column, options.allow_missing)

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
        if row.data is not None and self.shape is not None and (why := row.shape.differs(self.shape)):
            row = dataclasses.replace(row, data=None, error=why)
        if row.data is None and self.on_error == "fail":
            raise BrokenPictureError(
                f"{self.source.name}: {row.key} {row.error}; repair or remove it, or go on without such pictures with "
                "--on-error skip"
            )
        if row.data is not None and self.shape is None:
            self._check_heeded(row)
        if row.data is not None:
            self.shape = row.shape if self.shape is None else self.shape.joined(row.shape)
        return row

    def _check_heeded(self, row: Row) -> None:
        """Refuse what would be ignored of `fit`, by the first row; arrays beside pictures may heed it."""
        keys = self.source.keys if isinstance(self.source, Indexed) else ()
        mixed = row.layout_told and any(key.lower().endswith(".npy") for key in keys)
        check_heeded(
            row, dataclasses.replace(self.fit, layout=None) if mixed else self.fit, bool(self.source.conditioned)
        )

    def write(self, shard: int, rows: Sequence[Row]) -> None:
        """Write rows as a shard."""
        good = [row for row in rows if row.data is not None]
        kind = self.shape.kind if self.shape else "image"
        columns: dict[str, Column] = {kind: [row.data for row in good if row.data is not None]}
        if self.source.classes is not None:
            columns["label"] = [row.label for row in good if row.label is not None]
        columns["key"] = [row.key for row in good]
        columns |= {name: [row.conditions[name] for row in good] for name in (good[0].conditions if good else ())}
        self.writer.write(
            shard,
            columns,
            kind=kind,
            items=len(rows),
            resolution=size_of(good[0].shape.size) if good else None,
            values=sum(math.prod(row.shape.size) for row in good),
            sums=sum_rows([row.sums for row in good]),
            squares=sum_rows([row.squares for row in good]),
            enlarged=sum(row.enlarged for row in good),
            skipped=tuple(Skipped(key=row.key, error=row.error) for row in rows if row.data is None),
            array=self.shape.array if self.shape and good else None,
            conditions=functools.reduce(Shape.joined, [row.shape for row in good]).conditions if good else (),
        )

    def finish(self) -> Manifest:
        """Write what makes the shards a data set."""
        shape, classes = self.shape or Shape("image", 3), self.source.classes
        entry: dict[str, Any] = {"kind": shape.kind, "resolution": size_of(shape.size), "channels": shape.channels}
        if shape.kind == "latent":  # of an official archive: made with the official VAE
            from unitgain.data.encoder import LatentEncoder  # brings torch, which pixels do without

            entry["encoder"] = to_dict(LatentEncoder.official())
        elif shape.array is not None:
            from unitgain.data.encoder import ArrayEncoder

            shards = [self.writer.shards[index] for index in sorted(self.writer.shards)]
            mean, std = moments([shard for shard in shards if shard.rows])
            entry |= {"array": shape.array, "encoder": to_dict(ArrayEncoder.measured(mean, std, shape.array))}
        if (missing := set(self.source.conditioned) - {column.name for column in shape.conditions}) and self.shape:
            raise ValueError(f"the condition {min(missing)!r} has no value in any row: leave it out")
        names = [column.name for column in shape.conditions]
        described = features(shape.kind, classes, names)
        return self.writer.finish(described, classes=classes, conditions=shape.conditions, **entry)


def _rows_per_shard(source: Source, fit: Fit) -> int:
    """So many that a file takes about `SHARD_BYTES`: by the size of pictures, or by the first array."""
    stack = isinstance(source, Indexed) and source.kind == "stack"
    first = source.item(0) if isinstance(source, Indexed) and len(source) else None
    if first is not None and (stack or is_array(first.key) or first.key.lower().endswith(".npy")):
        row = fit_item(first, fit, source.options.limits, source.array_name)
        if row.data is not None and row.shape.kind == "array":
            return max(1, min(SHARD_ROWS, SHARD_BYTES // len(row.data)))
    return max(16, min(SHARD_ROWS, SHARD_BYTES // (3 * math.prod(sides_of(fit.resolution or 512)))))
