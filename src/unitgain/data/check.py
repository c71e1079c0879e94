"""Look at all of prepared data: is it whole, what is in it, and does it suit the recipes' noise levels?"""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unitgain.data.encoder import DATA_STD, Encoder, PixelEncoder, overall
from unitgain.data.manifest import DataError, Manifest, read_manifest
from unitgain.data.prepared import PreparedDataset, measured_encoder
from unitgain.data.shards import array_sums, damage, latent_sums, moments
from unitgain.data.workers import count_threads, in_order

ROWS_PER_TASK = 256
FLAT = 1e-6  # a standard deviation that is rounding
SEEN = {
    "image": "pixels mapped to [-1, 1]",
    "latent": "latents",
    "array": "values minus the mean of their channel, over twice its standard deviation,",
}
CLOSE = 0.1  # relative difference of the standard deviation that does not matter


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How the data suit noise levels that presume a standard deviation of 0.5.

    Attributes:
        mean: of what the network sees, over all channels.
        std: likewise.
        fits: whether `std` is within a tenth of 0.5 and `mean` is small beside it.
        sigma_data: the value that would suit the data as they are.
        P_mean_shift: what to add to the recipe's P_mean then, ln(std / 0.5); P_std stays.
    """

    mean: float
    std: float
    fits: bool
    sigma_data: float
    P_mean_shift: float


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What `check` found.

    Attributes:
        name: the folder.
        kind: "image", "latent" or "array".
        rows: number of images.
        shape: channels, height and width of an image as the network sees it; of arrays channels and sides.
        bytes: size of the files.
        classes: names, or None.
        counts: images of each class.
        damaged: files that are missing or changed, and how.
        errors: rows that cannot be used, as (row, name, what is wrong).
        duplicates: groups of rows that are equal to the last bit, as (row, name, label).
        skipped: pictures that were left out when the data were made.
        enlarged: images that were smaller than the resolution.
        mean: per channel; of pixels in 0...255, of arrays as they came, of drawn latents before they are standardized.
        std: per channel.
        conditions: what else there is, with the shape of a value, and how many rows have it.
        scale: what follows for training.
    """

    name: str
    kind: str
    rows: int
    shape: tuple[int, ...]
    bytes: int
    classes: tuple[str, ...] | None
    counts: tuple[int, ...]
    damaged: tuple[str, ...]
    errors: tuple[tuple[int, str, str], ...]
    duplicates: tuple[tuple[tuple[int, str, int | None], ...], ...]
    skipped: int
    enlarged: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    conditions: tuple[tuple[str, int], ...]
    scale: Scale

    @property
    def healthy(self) -> bool:
        """Whether every row can be read and every file is as it was written."""
        return not self.damaged and not self.errors


@dataclass
class Part:
    """What was found in some rows."""

    rows: int
    digests: list[bytes]
    errors: list[tuple[int, str, str]]
    values: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]


def check(
    folder: Path, *, workers: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Compare the files with their hashes, then read and decode every row.

    Raises:
        FileNotFoundError: if there is no prepared data.
        DataError: if so much is damaged that nothing can be read.
        ValueError: if there are no workers.
    """
    workers = count_threads(workers)
    manifest = read_manifest(folder)
    damaged = tuple(filter(None, (damage(folder, shard) for shard in manifest.shards)))
    try:
        dataset = PreparedDataset(folder)
    except DataError as error:
        raise DataError("; ".join(damaged) or str(error)) from error
    tasks = [(start, min(start + ROWS_PER_TASK, len(dataset))) for start in range(0, len(dataset), ROWS_PER_TASK)]
    parts: list[Part] = []
    for part in in_order(functools.partial(_look, dataset), tasks, workers):
        parts.append(part)
        if on_progress is not None:
            on_progress(sum(part.rows for part in parts), len(dataset))
    errors = [error for part in parts for error in part.errors]
    counts: tuple[int, ...] = ()
    if dataset.labels is not None:
        counts = tuple(np.bincount(dataset.labels.numpy(), minlength=dataset.label_dim).tolist())
    mean, std = map(np.array, moments(parts))
    return DataReport(
        name=dataset.name,
        kind=manifest.kind,
        rows=len(dataset),
        shape=dataset.shape,
        bytes=sum(shard.bytes for shard in manifest.shards),
        classes=dataset.classes,
        counts=counts,
        damaged=damaged,
        errors=tuple(sorted(errors)),
        duplicates=_duplicates(dataset, [digest for part in parts for digest in part.digests]),
        skipped=manifest.skipped,
        enlarged=manifest.enlarged,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        conditions=tuple((str(column), dataset.count(column)) for column in manifest.conditions),
        scale=scale(dataset.encoder, mean, std),
    )


def scale(encoder: Encoder, mean: NDArray[np.float64], std: NDArray[np.float64]) -> Scale:
    """What the statistics of the stored values mean for the network that sees them through the encoder."""
    center, spread = np.asarray(encoder.mean), np.asarray(encoder.std)
    means, stds = (mean - center) * DATA_STD / spread, std * DATA_STD / spread
    middle, deviation = overall(means, stds)
    fits = abs(deviation / DATA_STD - 1) <= CLOSE and abs(middle) <= CLOSE
    shift = math.log(deviation / DATA_STD) if deviation > FLAT else 0.0
    return Scale(mean=middle, std=deviation, fits=fits, sigma_data=deviation, P_mean_shift=shift)


def advice(report: DataReport, manifest: Manifest) -> list[str]:
    """What the scale of the data means for training, in sentences."""
    scale = report.scale
    first = (
        f"The network sees {SEEN[report.kind]} with mean {scale.mean:+.3f} and standard deviation {scale.std:.3f}; the "
        f"recipes' sigma_data = {DATA_STD}, P_mean and P_std presume 0 and {DATA_STD}."
    )
    if scale.fits:
        return [first, "That fits: nothing to change."]
    if scale.std < FLAT:
        return [first, "All values are equal: there is nothing to learn."]
    sentences = [first, f"The standard deviation is {scale.std / DATA_STD:.2f} times what is presumed."]
    if report.kind == "image":
        encoder: PixelEncoder = measured_encoder(manifest)
        sentences.append(
            f"Either train with --normalize measured (pixels minus {encoder.mean:.1f}, over {2 * encoder.std:.1f}: "
            f"mean 0, standard deviation {DATA_STD}) and change nothing else,"
        )
    elif report.kind == "array":
        sentences.append("Some channels are the same everywhere. Either leave these out,")
    elif report.kind == "latent":
        sentences.append("Either encode again with --normalization measured and change nothing else,")
    sentences.append(
        f"or keep the values, train with --sigma-data {scale.sigma_data:.3f}, and add {scale.P_mean_shift:+.2f} to the "
        "recipe's P_mean (--P-mean): noise levels scale with the data. P_std is a ratio and stays."
    )
    return sentences


def _look(dataset: PreparedDataset, task: tuple[int, int]) -> Part:
    channels = dataset.stored_shape[0]
    half = channels // 2 if dataset.latents else channels
    part = Part(task[1] - task[0], [], [], 0, np.zeros(half), np.zeros(half))
    for row in range(*task):
        try:
            stored = dataset.rows(np.array([row]))[0].numpy()
        except DataError as error:
            part.errors.append((row, dataset.key(row), str(error.__cause__ or error)))
            part.digests.append(b"")
            continue
        part.digests.append(hashlib.sha256(stored.tobytes()).digest())
        if not np.isfinite(stored).all():
            part.errors.append((row, dataset.key(row), "holds values that are not finite"))
            continue
        sums, squares = map(np.array, (latent_sums if dataset.latents else array_sums)(stored))
        part.sums += sums
        part.squares += squares
        part.values += math.prod(stored.shape[2:])
    return part


def _duplicates(dataset: PreparedDataset, digests: list[bytes]) -> tuple[tuple[tuple[int, str, int | None], ...], ...]:
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            groups.setdefault(digest, []).append(row)
    labels = dataset.labels
    return tuple(
        tuple((row, dataset.key(row), None if labels is None else int(labels[row])) for row in rows)
        for rows in groups.values()
        if len(rows) > 1
    )
