"""One pass over images: what it leaves of them in the features of each detector."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.metrics.detectors import Classifier, Detector, DetectorInfo
from unitgain.metrics.inception_score import InceptionScore
from unitgain.metrics.moments import Moments
from unitgain.parallel import World
from unitgain.sample.tiles import whole_tiles

TILE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """A set of images in the features of one detector.

    Args:
        detector: which one.
        n: number of images.
        mean: `[D]`, float64, on the CPU.
        cov: `[D, D]`, divided by N - 1.
        rows: features of every image in order, float32 `[N, D]`; None if they were not asked for.
        inception_score: mean and standard deviation over the splits; None if it was not asked for.
    """

    detector: DetectorInfo
    n: int
    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]
    rows: Float[Tensor, "n d"] | None = None
    inception_score: tuple[float, float] | None = None


@dataclass(frozen=True)
class Wanted:
    """What to keep of a detector's features besides their moments."""

    rows: bool = False
    probabilities: bool = False


@torch.inference_mode()
def summarize(
    batches: Iterable[Tensor],
    detectors: Sequence[Detector],
    wanted: Mapping[str, Wanted] | None = None,
    *,
    world: World | None = None,
    splits: int = 10,
    on_images: Callable[[int], None] | None = None,
) -> dict[str, Summary]:
    """Read all images once.

    Args:
        batches: uint8 images `[N, C, H, W]`, batches of any size. Of several processes, number r of R passes the images
            r, r + R, r + 2R, ... in this order, as `world.share` deals them out; the result is the same for any R.
        detectors: with different names.
        wanted: by name of the detector; moments alone by default.
        world: processes that work together.
        splits: of the Inception score.
        on_images: called with the number of images that this process has read, after each evaluation.

    Returns:
        A summary by name of the detector, on every process.

    Raises:
        ValueError: if there are fewer than two images, a detector cannot take them, or the processes did not share them
            as said above.
    """
    world = world or World()
    kept = [_Kept(detector, (wanted or {}).get(detector.info.name, Wanted()), splits) for detector in detectors]
    if not kept or len({k.name for k in kept}) != len(kept):
        raise ValueError("name at least one detector, and each once")
    done = 0
    for images, used in tiles(batches):
        numbers = torch.arange(done, done + used) * world.size + world.rank
        for k in kept:
            k.update(images, used, numbers)
        done += used
        if on_images is not None:
            on_images(done)
    counts = world.gather(done)
    if any(count != len(range(rank, sum(counts), world.size)) for rank, count in enumerate(counts)):
        raise ValueError(f"the processes read {counts} images; deal them out in turn, as World.share does")
    return {k.name: k.reduce(world) for k in kept}


def tiles(batches: Iterable[Tensor], tile: int = TILE) -> Iterator[tuple[Tensor, int]]:
    """Regroup batches to exactly `tile` images, the last ones filled up with repetitions, and how many are no filling.

    Libraries sum in another order at another batch size, so that the features of an image would depend on how many are
    read at once. Images of another shape begin a tile of their own.
    """
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        if batch.ndim != 4 or batch.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 [N, C, H, W], not {batch.dtype} {tuple(batch.shape)}")
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            yield _filled(waiting, tile), count
            waiting, count = [], 0
        waiting.append(batch)
        count += len(batch)
        if count >= tile:
            joined = torch.cat(waiting)
            full = count - count % tile
            for start in range(0, full, tile):
                yield joined[start : start + tile], tile
            waiting, count = [joined[full:]], count - full
            if not count:
                waiting = []
    if count:
        yield _filled(waiting, tile), count


def _filled(parts: Sequence[Tensor], tile: int) -> Tensor:
    joined = torch.cat(list(parts))
    return joined[whole_tiles(len(joined), tile, joined.device)]


class _Kept:
    """What a pass keeps of one detector."""

    def __init__(self, detector: Detector, wanted: Wanted, splits: int) -> None:
        self.detector, self.name, self.moments = detector, detector.info.name, Moments()
        self.rows: list[Tensor] | None = [] if wanted.rows else None
        self.score = InceptionScore(splits) if wanted.probabilities else None

    def update(self, images: Tensor, used: int, numbers: Tensor) -> None:
        features = self.detector(images)[:used]
        self.moments.update(features)
        if self.rows is not None:
            self.rows.append(features.to("cpu", torch.float32))
        if self.score is not None:
            self.score.update(numbers, cast(Classifier, self.detector).probabilities(images)[:used])

    def reduce(self, world: World) -> Summary:
        n, mean, cov = self.moments.reduce(world)
        rows = None
        if self.rows is not None:
            own = torch.cat(self.rows) if self.rows else torch.zeros(0, len(mean))
            rows = torch.empty(n, len(mean))
            for rank, part in enumerate(world.gather(own)):
                rows[rank :: world.size] = part
        score = None if self.score is None else self.score.reduce(world)
        return Summary(detector=self.detector.info, n=n, mean=mean, cov=cov, rows=rows, inception_score=score)
