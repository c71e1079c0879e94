"""Metrics of a run on the way: what they need is checked before it begins, images are measured as they are drawn."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unitgain.evaluate.generated import Generated
from unitgain.evaluate.references import open_references
from unitgain.metrics.detectors import Detector
from unitgain.metrics.measure import find_reference, measure, plan
from unitgain.metrics.names import ALIASES, DINOV2, parse_metrics
from unitgain.metrics.reference import Reference
from unitgain.metrics.weights import open_detector, scale_of
from unitgain.parallel import World
from unitgain.train.config import Evaluation
from unitgain.train.errors import together


class Abandoned(Exception):
    """All processes have agreed to stop, in the middle of an evaluation."""


class Meter:
    """The metrics of a run.

    Args:
        settings: of its evaluation.
        picture: an image of the kind that the network draws, `[1, C, H, W]`.
        world: the processes of the run.

    Raises:
        ValueError: if a metric cannot be measured on such images, or not against the reference.
        FileNotFoundError: if a file is missing.
        ReferenceFileError: if the reference is damaged.
        DownloadError: if the weights of a detector are not there and cannot be fetched.
    """

    def __init__(self, settings: Evaluation, picture: Tensor, world: World) -> None:
        self.settings, self.world = settings, world
        self.references: dict[str, Reference] = {}
        if settings.reference is not None:
            self.references = open_references(Path(settings.reference))
        elif any(metric.needs.reference for metric in parse_metrics(settings.metrics)):
            raise ValueError(
                f"{', '.join(settings.metrics)}: --metrics-reference says what to measure against, a file made with: "
                "unitgain metrics reference DATA --out FILE.npz"
            )
        for metric in parse_metrics(settings.metrics):  # before weights of detectors are fetched
            if metric.needs.reference and metric.detector in ("pixels", "inception", "dinov2"):
                find_reference(self.references, metric)
        self._check(picture)

    def measure(
        self, images: Generated, listen: Callable[[], object], on_images: Callable[[float], None]
    ) -> dict[str, float | None]:
        """Values by name of the metric, on all processes, which call this together; None for what is not finite.

        Args:
            images: as many as the settings say.
            listen: as in `turns`.
            on_images: called with the number of images done.

        Raises:
            Abandoned: if `listen` says so.
        """
        detectors, names = together(self.world, "opening the networks of metrics", self._open)
        chosen = turns(self.world, len(images), self.settings.batch, listen)
        records = measure(
            _drawn(images, chosen),
            detectors,
            names,
            self.references,
            world=self.world,
            source=images.source,
            on_images=lambda done: on_images(done * self.world.size),
        )
        return {metric_name(name): _finite(record.value) for name, record in zip(names, records, strict=True)}

    def _open(self) -> tuple[list[Detector], list[str]]:
        """The detectors, and the metrics by names that go with them; not kept, to leave the memory to the training."""
        s = self.settings
        wanted = parse_metrics(s.metrics)
        scale = scale_of(self.references["pixels"].summary.detector) if "pixels" in self.references else None
        opened = {
            name: open_detector(
                name,
                self.world.device,
                inception=Path(s.inception) if s.inception else None,
                dinov2=s.dinov2 or DINOV2,
                scale=scale,
            )
            for name in dict.fromkeys(metric.detector for metric in wanted)
        }
        return list(opened.values()), [f"{metric.kind}@{opened[metric.detector].info.name}" for metric in wanted]

    def _check(self, picture: Tensor) -> None:
        """Find out with one picture whether detectors and references fit."""
        detectors, names = self._open()
        with torch.inference_mode():
            dims = {detector.info.name: detector(picture).shape[1] for detector in detectors}
        for metric in plan(names, detectors, self.references):
            if not metric.needs.reference:
                continue
            known = len(find_reference(self.references, metric).summary.mean)
            if known != dims[metric.detector]:
                size = "x".join(map(str, picture.shape[1:]))
                raise ValueError(
                    f"{self.settings.reference} has {known} features of {metric.detector}, images of this network have "
                    f"{dims[metric.detector]}: make it of images of {size} (channels, height, width)"
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


def metric_name(name: str) -> str:
    """`fid` for `fd@inception` and so on; others as they are."""
    kind, _, detector = name.partition("@")
    return next((alias for alias, pair in ALIASES.items() if pair == (kind, detector)), name)


def _drawn(images: Generated, chosen: Iterator[Sequence[int]]) -> Iterator[Tensor]:
    for numbers in chosen:
        yield from images.batches(numbers)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
