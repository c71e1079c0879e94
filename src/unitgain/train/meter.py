"""Metrics of a run on the way: what they need is checked before it begins, images are measured as they are drawn."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unitgain.evaluate.generated import Generated
from unitgain.evaluate.judge import Judge
from unitgain.metrics.reference import Reference
from unitgain.metrics.weights import DINOV2, Weights
from unitgain.parallel import World
from unitgain.train.config import Evaluation
from unitgain.trust import DEFAULT_LIMITS, Limits


class Abandoned(Exception):
    """All processes have agreed to stop, in the middle of an evaluation."""


class Meter:
    """The metrics of a run.

    Args:
        settings: of its evaluation.
        picture: an image of the kind that the network draws, `[1, C, H, W]`.
        world: the processes of the run.
        limits: of data that are the reference.

    Raises:
        ValueError: if a metric cannot be measured on such images, or not against the reference.
        FileNotFoundError: if a file is missing.
        ReferenceFileError: if the reference is damaged.
        DownloadError: if the weights of a detector are not there and cannot be fetched.
    """

    def __init__(self, settings: Evaluation, picture: Tensor, world: World, limits: Limits = DEFAULT_LIMITS) -> None:
        self.settings, self.world, self.limits = settings, world, limits
        judge = self._open(settings.reference)
        judge.check(picture)
        self.references = judge.references

    def measure(
        self, images: Generated, listen: Callable[[], object], on_images: Callable[[float, int], object]
    ) -> dict[str, float | None]:
        """Values by name of the metric, on all processes, which call this together; None for what is not finite.

        Args:
            images: as many as the settings say.
            listen: as in `turns`.
            on_images: called with the number of images done, and that of all.

        Raises:
            Abandoned: if `listen` says so.
        """
        judge = self.world.together("opening the networks of metrics", lambda: self._open(self.references))
        judge = dataclasses.replace(judge, world=self.world)
        chosen = turns(self.world, len(images), self.settings.batch, listen)
        batches = (batch for numbers in chosen for batch in images.batches(numbers))
        records = judge(batches, images.source, self.world.progress(on_images, len(images)))
        values = [record.value if math.isfinite(record.value) else None for record in records]
        return {metric.label: value for metric, value in zip(judge.metrics, values, strict=True)}

    def _open(self, reference: str | Mapping[str, Reference] | None) -> Judge:
        """What measures; its detectors are not kept, to leave the memory to the training."""
        s = self.settings
        weights = Weights(inception=Path(s.inception) if s.inception else None, dinov2=s.dinov2 or DINOV2)
        return Judge.open(
            s.metrics, reference, weights=weights, limits=self.limits, world=World(device=self.world.device)
        )


def turns(world: World, total: int, batch: int, listen: Callable[[], object]) -> Iterator[Sequence[int]]:
    """This process's numbers below `total`, `batch` at a time; all processes take as many turns, some an empty one.

    Raises:
        Abandoned: on all processes before the same turn, if `listen` says so there.
    """
    mine = world.share(range(total))
    for start in range(0, math.ceil(total / world.size), batch):
        if listen():
            raise Abandoned
        yield mine[start : start + batch]
