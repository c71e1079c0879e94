"""One pass over images or arrays: what it leaves of them in the features of each detector."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.metrics.detectors import Classifier, Detector, DetectorInfo
from unitgain.metrics.moments import Moments
from unitgain.parallel import World
from unitgain.sample.tiles import fill_tiles
from unitgain.size import MOST_SIDES

TILE = 64  # images at a time, where they are no larger than 512x512
PIXELS = 2**24  # at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """A set of images in the features of one detector.

    Args:
        detector: which one.
        n: number of images.
        mean: `[D]`, float64, on the CPU.
        cov: `[D, D]`, divided by N - 1.
        rows: features of every image in order, float32 `[N, D]`; None if they were not asked for.
        probabilities: of the detector's classes for every image, `[N, classes]`, likewise.
    """

    detector: DetectorInfo
    n: int
    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]
    rows: Float[Tensor, "n d"] | None = None
    probabilities: Float[Tensor, "n classes"] | None = None


@torch.inference_mode()
def summarize(
    batches: Iterable[Tensor],
    detectors: Sequence[Detector],
    *,
    rows: Collection[str] = (),
    probabilities: Collection[str] = (),
    world: World | None = None,
    on_images: Callable[[int], None] | None = None,
) -> dict[str, Summary]:
    """Read all images once.

    Args:
        batches: uint8 images `[N, C, H, W]`, batches of any size, or arrays as `as_seen` takes them. Of several
            processes, number r of R passes the images r, r + R, r + 2R, ... in this order, as `world.share` deals them
            out; the result is the same for any R.
        detectors: with different names.
        rows: names of detectors whose features of every image are kept, not only their moments.
        probabilities: names of detectors whose probabilities of classes are.
        world: processes that work together.
        on_images: called with the number of images that this process has read, after each evaluation.

    Returns:
        A summary by name of the detector, on every process.

    Raises:
        ValueError: if there are fewer than two images, a detector cannot take them, or the processes did not share them
            as said above.
    """
    world = world or World()
    passes = {one.info.name: Pass(one, one.info.name in rows, one.info.name in probabilities) for one in detectors}
    if not passes or len(passes) != len(detectors):
        raise ValueError("name at least one detector, and each once")
    done = 0
    for images, used in tiles(batches):
        for one in passes.values():
            one.update(images, used)
        done += used
        if on_images is not None:
            on_images(done)
    counts = world.gather(done)
    if any(count != len(range(rank, sum(counts), world.size)) for rank, count in enumerate(counts)):
        raise ValueError(f"the processes read {counts} images; deal them out in turn, as World.share does")
    return {name: one.reduce(world) for name, one in passes.items()}


def as_seen(images: Tensor) -> Tensor:
    """Images or arrays `[N, C, *size]` as detectors get them: 8-bit numbers as they are, all others as float32.

    Raises:
        ValueError: if these are no real numbers, or have not one to three sides.
    """
    if not 3 <= images.ndim <= 2 + MOST_SIDES or images.dtype == torch.bool or images.is_complex():
        raise ValueError(
            f"images must be uint8 [N, C, H, W], arrays real numbers [N, C, *size] of one to three sides, not "
            f"{images.dtype} {tuple(images.shape)}"
        )
    return images if images.dtype == torch.uint8 else images.float()


def tile_of(size: Sequence[int]) -> int:
    """How many images of these sides are evaluated at a time, however many there are."""
    return min(TILE, max(PIXELS // (math.prod(size) or 1), 1))


def tiles(batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Regroup batches to `tile_of` images, the last ones filled up with repetitions, and how many are no filling.

    Libraries sum in another order at another batch size, so that the features of an image would depend on how many are
    read at once. Images of another shape begin a tile of their own.
    """
    waiting: list[Tensor] = []
    for batch in map(as_seen, batches):
        if waiting and (batch.shape[1:], batch.dtype) != (waiting[0].shape[1:], waiting[0].dtype):
            yield _filled(waiting)
            waiting = []
        waiting.append(batch)
        tile, count = tile_of(batch.shape[2:]), sum(map(len, waiting))
        if count >= tile:
            joined, waiting = _joined(waiting), []
            full = count - count % tile
            for start in range(0, full, tile):
                yield joined[start : start + tile], tile
            if full < count:
                waiting = [joined[full:]]
            del batch, joined  # before the next one, which may be large
    if waiting:
        yield _filled(waiting)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _filled(parts: Sequence[Tensor]) -> tuple[Tensor, int]:
    joined = _joined(parts)
    count = len(joined)
    return joined[fill_tiles(count, tile_of(joined.shape[2:]), joined.device)], count


class Pass:
    """One pass over images by one detector.

    Args:
        detector: which.
        rows: keep the features of every image.
        probabilities: keep the probabilities of its classes.
    """

    def __init__(self, detector: Detector, rows: bool, probabilities: bool) -> None:
        self.detector, self.moments = detector, Moments()
        self.rows: list[Tensor] | None = [] if rows else None
        self.probabilities: list[Tensor] | None = [] if probabilities else None

    def update(self, images: Tensor, used: int) -> None:
        """Take in images, of which the first `used` count."""
        features = self.detector(images)[:used]
        self.moments.update(features)
        if self.rows is not None:
            self.rows.append(features.to("cpu", torch.float32))
        if self.probabilities is not None:
            self.probabilities.append(cast(Classifier, self.detector).probabilities(images)[:used].cpu())

    def reduce(self, world: World) -> Summary:
        """What all processes have seen."""
        n, mean, cov = self.moments.reduce(world)
        return Summary(
            detector=self.detector.info,
            n=n,
            mean=mean,
            cov=cov,
            rows=_in_order(self.rows, n, world),
            probabilities=_in_order(self.probabilities, n, world),
        )


def _in_order(parts: Sequence[Tensor] | None, n: int, world: World) -> Tensor | None:
    """Rows of all images, from those of each process's share; None if none were kept."""
    if parts is None:
        return None
    shares = world.gather(torch.cat(list(parts)) if parts else None)
    some = next(share for share in shares if share is not None)
    rows = some.new_empty(n, some.shape[1])
    for rank, share in enumerate(shares):
        if share is not None:
            rows[rank :: world.size] = share
    return rows
