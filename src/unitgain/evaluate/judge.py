"""Metrics with their detectors and references, opened once: what `metrics`, `sweep`, `tune` and training measure by."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.evaluate.generated import Generated
from unitgain.evaluate.images import Images, as_ranges, open_images
from unitgain.evaluate.references import SUFFIXES, OnImages, open_references, references_of
from unitgain.metrics.detectors import Detector, Scale
from unitgain.metrics.measure import find_reference, measure, plan
from unitgain.metrics.metric import Metric, parse_metrics
from unitgain.metrics.record import Record, Source
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import Summary, as_seen
from unitgain.metrics.weights import Weights, check_arrays, name_of, open_detector, scale_of
from unitgain.parallel import World
from unitgain.serial import to_dict
from unitgain.trust import DEFAULT_LIMITS, Limits

UNNAMED = "unnamed"  # the detector of metrics that leave it to others


@dataclass(frozen=True)
class Measurement:
    """What one metric says, over repetitions.

    Args:
        records: one per repetition.
    """

    records: tuple[Record, ...]

    @property
    def best(self) -> float:
        """The lowest value, or the highest where higher is better."""
        values = [record.value for record in self.records]
        return max(values) if self.records[0].higher else min(values)

    @property
    def spread(self) -> float:
        """From the lowest to the highest value."""
        values = [record.value for record in self.records]
        return max(values) - min(values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: best, spread and the records; None for what is not finite, which JSON lacks."""
        first = self.records[0]
        return {
            "metric": first.metric,
            "detector": first.detector.name,
            "best": _finite(self.best),
            "spread": _finite(self.spread),
            "records": [{**to_dict(record), "value": _finite(record.value)} for record in self.records],
        }


@dataclass(frozen=True)
class Judge:
    """Measures images with the same metrics, detectors and references each time.

    Args:
        metrics: what to measure.
        detectors: by which.
        references: by name of the detector.
        world: processes that share the images of a measurement.
        errors: as in `measure`.

    Raises:
        ValueError: if a metric has no detector or reference.
    """

    metrics: tuple[Metric, ...]
    detectors: tuple[Detector, ...]
    references: Mapping[str, Reference] = field(default_factory=dict)
    world: World = field(default_factory=World)
    errors: bool = False

    def __post_init__(self) -> None:
        plan(self.metrics, self.detectors, self.references)

    @classmethod
    def open(
        cls,
        metrics: Sequence[str | Metric],
        reference: "str | Path | Images | Mapping[str, Reference] | None" = None,
        *,
        detector: str | None = None,
        weights: Weights | None = None,
        scale: Scale | None = None,
        limits: Limits = DEFAULT_LIMITS,
        world: World | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
        on_images: OnImages | None = None,
    ) -> "Judge":
        """Open what metrics need, and refuse what does not fit before weights are fetched.

        Args:
            metrics: as `parse_metrics` takes them.
            reference: what to measure against: a file of `unitgain metrics reference`, an official one, images or
                their name (`digits`, a folder, ...), references; None if no metric needs one.
            detector: of metrics that name none; None for `pixels` where the reference is the digits or has nothing
                else, or arrays are measured, and for `inception` otherwise.
            weights: of the detectors; what is not there is fetched.
            scale: of what is measured, per channel of arrays: that of `pixels`, where the reference says none.
            limits: of what one image, and an archive of them, may take.
            world: processes that share the work.
            on_bytes: called with (bytes there, bytes in all) in the first process, while weights are fetched.
            on_images: called with (images read, images in all) while a reference is made of images.

        Raises:
            FileNotFoundError: if there is no reference, or no weights.
            ReferenceFileError: if the reference is damaged.
            DownloadError: if weights cannot be fetched.
            ValueError: if a metric is unknown, has nothing to be measured against, a detector that sees pictures alone
                is to measure arrays, or a reference, a detector or weights are given that no metric needs.
        """
        world = world or World()
        asked = parse_metrics(metrics, UNNAMED)
        _check_detector(asked, detector)
        against = _open_reference(asked, reference, limits)
        arrays = (scale is not None and isinstance(scale[0], tuple)) or (isinstance(against, Images) and against.arrays)
        only = against.source.kind == "digits" if isinstance(against, Images) else against.keys() == {"pixels"}
        chosen = parse_metrics(metrics, detector or ("pixels" if arrays or only else "inception"))
        names = dict.fromkeys(metric.detector for metric in chosen)
        if arrays:
            check_arrays(names)
        (weights := weights or Weights()).check_used(names)
        if not isinstance(against, Images):
            _check_references(chosen, against)
        weights = weights.fetch(names, world, on_bytes)
        chosen = [dataclasses.replace(metric, detector=name_of(metric.detector)) for metric in chosen]
        if isinstance(against, Images):
            scale = against.scale or (scale if arrays else None)
        elif "pixels" in against:
            scale = scale_of(against["pixels"].summary.detector)
        detectors = [open_detector(name, world.device, weights, scale=scale) for name in names]
        if isinstance(against, Images):
            against = references_of(against, detectors, chosen, world=world, on_images=on_images)
        return cls(tuple(chosen), tuple(detectors), against, world)

    def __call__(
        self, batches: Iterable[Tensor], source: Source, on_images: Callable[[int], None] | None = None
    ) -> list[Record]:
        """A record per metric, in their order, of images or arrays; arguments as those of `measure`."""
        return measure(
            batches,
            self.detectors,
            self.metrics,
            self.references,
            world=self.world,
            source=source,
            errors=self.errors,
            on_images=on_images,
        )

    def measure(self, images: Images, repeat: int = 1, on_images: OnImages | None = None) -> list[Measurement]:
        """Measure images once or, as the papers do, several times with other seeds.

        Pictures that are there are split into as many equal parts, dealt in turn, so that each has of every class what
        lies class by class; those that `draw` wrote in ranges of their seeds. Generated images are drawn of the seeds
        and of as many following ones: seeds 0-49999, 50000-99999, ...

        Args:
            images: from `open_images`, or `Generated`.
            repeat: how many times.
            on_images: called in every process with (images done in all, images in all); those of other processes are
                taken to be as many as here.

        Returns:
            A measurement per metric, on every process.

        Raises:
            ValueError: if there are too few images, they do not fit, or the seeds are no range.
        """
        rounds = repetitions(images, repeat)
        total, done = sum(len(numbers) for _, numbers in rounds), 0
        runs: list[list[Record]] = []
        for part, numbers in rounds:
            progress = self.world.progress(on_images, total, before=done)
            source = dataclasses.replace(part.source, **_part(part, numbers))
            runs.append(self(part.batches(self.world.share(numbers)), source, progress))
            done += len(numbers)
        return [Measurement(tuple(records)) for records in zip(*runs, strict=True)]

    def check(self, image: Tensor) -> None:
        """Find out with one image or array, `[1, C, *size]`, whether detectors and references fit such.

        Raises:
            ValueError: if they do not.
        """
        with torch.inference_mode():
            dims = {detector.info.name: detector(as_seen(image)).shape[1] for detector in self.detectors}
        for metric in self.metrics:
            if metric.reference:
                find_reference(self.references, metric).check_features(dims[metric.detector])

    @functools.cached_property
    def identities(self) -> dict[str, dict[str, object]]:
        """What values depend on besides the images, as JSON, by label of the metric."""
        infos = {detector.info.name: to_dict(detector.info) for detector in self.detectors}
        return {
            metric.label: {
                "metric": f"{metric.kind}@{metric.detector}",
                "settings": metric.settings,
                "detector": infos[metric.detector],
                "reference": _digest(self.references[metric.detector].summary) if metric.reference else None,
                **({"code": metric.code} if metric.code else {}),
            }
            for metric in self.metrics
        }


def repetitions(images: Images, repeat: int) -> list[tuple[Images, range]]:
    """Images and the numbers of those to measure, for each repetition.

    Raises:
        ValueError: if there are too few images, or the seeds are no range.
    """
    if repeat < 1 or len(images) < 2 * repeat:
        raise ValueError(f"--repeat {repeat}: needs at least 1 and two images each; there are {len(images)} images")
    if repeat == 1:
        return [(images, range(len(images)))]
    if not isinstance(images, Generated):
        each = len(images) // repeat
        if images.source.seeds is not None:  # whose classes may come in turn, too
            return [(images, range(i * each, (i + 1) * each)) for i in range(repeat)]
        return [(images, range(i, each * repeat, repeat)) for i in range(repeat)]
    seeds = images.seeds
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"--repeat {repeat} needs the seeds as a range such as 0-49999, not {as_ranges(seeds)}")
    rounds: list[tuple[Images, range]] = []
    for i in range(repeat):
        start = seeds[0] + i * len(seeds)
        rounds.append((dataclasses.replace(images, seeds=range(start, start + len(seeds))), range(len(seeds))))
    return rounds


def _open_reference(
    metrics: Sequence[Metric],
    given: str | Path | Images | Mapping[str, Reference] | None,
    limits: Limits,
) -> Images | Mapping[str, Reference]:
    """What metrics are measured against, opened: references, or images to make them of."""
    compared = [one for one in metrics if one.reference]
    if not compared:
        if given is not None and not (isinstance(given, Mapping) and not given):
            names = ", ".join(metric.name for metric in metrics)
            raise ValueError(
                f"a reference, and {names} compare with none: leave out --reference, or name metrics that do, such as "
                "fid (in training --metrics-reference; None for a run that was begun with one)"
            )
        return {}
    if given is None:
        raise ValueError(
            f"{', '.join(metric.name for metric in compared)}: --reference (--metrics-reference in training) says what "
            "to measure against: an .npz of `unitgain metrics reference DATA --out FILE.npz`, or data"
        )
    if isinstance(given, str | Path):
        return open_references(Path(given)) if Path(given).suffix in SUFFIXES else open_images(str(given), limits)
    return given


def _check_detector(metrics: Sequence[Metric], detector: str | None) -> None:
    """Raise `ValueError` if a detector is chosen, and each metric names its own."""
    if detector is not None and all(metric.detector != UNNAMED for metric in metrics):
        named = ", ".join(metric.label for metric in metrics)
        raise ValueError(f"--detector {detector} is for metrics that name none, and {named} do: leave it out")


def _check_references(metrics: Sequence[Metric], references: Mapping[str, Reference]) -> None:
    """Raise `ValueError` unless references have what metrics need."""
    for one in metrics:
        if one.reference:
            find_reference(references, dataclasses.replace(one, detector=name_of(one.detector)))


def _part(images: Images, numbers: range) -> Mapping[str, Any]:
    """What a record says of a part of images; the seeds of a part of a folder are not known."""
    if isinstance(images, Generated):
        return {"seeds": as_ranges([images.seeds[number] for number in numbers])}
    whole, every = len(numbers) == len(images), "" if numbers.step == 1 else f", by {numbers.step}"
    part = f"{images.source.name} [{numbers[0]}-{numbers[-1]}{every}]"
    return {} if whole else {"seeds": None, "name": part}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _digest(summary: Summary) -> str:
    return hashlib.sha256(summary.mean.numpy().tobytes() + summary.cov.numpy().tobytes()).hexdigest()
