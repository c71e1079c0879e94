"""Measure images: `measure` reads them once and returns a record per metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from unitgain.given import real
from unitgain.metrics.detectors import Classifier, Detector
from unitgain.metrics.metric import Metric, parse_metrics
from unitgain.metrics.record import Record, Source, jpeg_warning
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import Summary, summarize
from unitgain.parallel import World
from unitgain.text import brief

T = TypeVar("T")
References = Reference | Mapping[str, Reference]


@dataclass(frozen=True, eq=False)
class Pair:
    """What a metric is computed from: images and real ones in the features of one detector.

    Args:
        images: what was seen of the images.
        reference: of the real ones; None for metrics that need none.
        metrics: all that are computed from it.
        device: where to compute.
    """

    images: Summary
    reference: Reference | None
    metrics: Sequence[Metric] = ()
    device: torch.device | str = "cpu"
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def real(self) -> Reference:
        """The reference, for metrics that need one."""
        assert self.reference is not None
        return self.reference

    def rows(self) -> tuple[Tensor, Tensor]:
        """Features of every image, `[N, D]` and `[M, D]`, on `device`; for metrics that need them."""
        assert self.images.rows is not None
        return self.images.rows.to(self.device), self.real.rows().to(self.device)

    def once(self, function: Callable[..., T], *args: object) -> T:
        """`function(pair, *args)`, computed once for all metrics of this pair that ask for it."""
        if (function, *args) not in self._known:
            self._known[function, *args] = function(self, *args)
        return self._known[function, *args]


def measure(
    batches: Iterable[Tensor],
    detectors: Detector | Sequence[Detector],
    metrics: Sequence[str | Metric],
    references: References | None = None,
    *,
    world: World | None = None,
    source: Source | None = None,
    errors: bool = False,
    on_images: Callable[[int], None] | None = None,
) -> list[Record]:
    """Measure images in one pass.

    A reference remembers what is costly about it, so one that is kept makes the next call cheap.

    Args:
        batches: uint8 images `[N, C, H, W]`, or signals, fields or volumes, as in `summarize`: of several processes,
            number r of R passes the images r, r + R, ... in order.
        detectors: one or several; the first is that of metrics which name none.
        metrics: as `parse_metrics` takes them.
        references: by name of the detector, as from `load_references`; or one, for its detector.
        world: processes that work together.
        source: where the images come from, for the records.
        errors: keep the features of every image, float32 in memory, so that Frechet distances come with their error.
        on_images: called with the number of images that this process has read.

    Returns:
        A record per metric in the order of `metrics`, on every process.

    Raises:
        ValueError: if a metric is unknown, its detector or reference is not given, they do not fit together, or there
            are too few images. All but the last before an image is read.
    """
    world = world or World()
    detectors = list(detectors) if isinstance(detectors, Sequence) else [detectors]
    chosen = plan(metrics, detectors, references)
    used = [detector for detector in detectors if any(metric.detector == detector.info.name for metric in chosen)]
    rows = [metric.detector for metric in chosen if metric.rows or errors]
    probabilities = [metric.detector for metric in chosen if metric.probabilities]
    summaries = summarize(batches, used, rows=rows, probabilities=probabilities, world=world, on_images=on_images)
    return world.on_main(lambda: evaluate(summaries, chosen, references, source or Source(), world.device))


def plan(metrics: Sequence[str | Metric], detectors: Sequence[Detector], references: References | None) -> list[Metric]:
    """The metrics, checked against detectors and references.

    Raises:
        ValueError: as `measure`.
    """
    by_name = {detector.info.name: detector for detector in detectors}
    chosen = parse_metrics(metrics, default=detectors[0].info.name if detectors else "inception")
    for metric in chosen:
        if metric.detector not in by_name:
            known = ", ".join(by_name) or "none"
            raise ValueError(f"{metric.name} needs the detector {metric.detector}; given: {known}")
        detector = by_name[metric.detector]
        if metric.probabilities and not isinstance(detector, Classifier):
            raise ValueError(f"detector {metric.detector} names no classes, which {metric.name} needs")
        if metric.reference:
            reference = find_reference(references, metric)
            detector.info.check(reference.summary.detector, reference.name or "the reference")
    return chosen


def find_reference(references: References | None, metric: Metric) -> Reference:
    """The reference that a metric is measured against.

    Raises:
        ValueError: if there is none in the features of its detector, or it lacks those of single images.
    """
    if isinstance(references, Reference):
        references = {references.summary.detector.name: references}
    if not references or metric.detector not in references:
        known = ", ".join(references) if references else "none"
        raise ValueError(
            f"{metric.name} needs a reference in the features of {metric.detector}; given: {known}. Make one with "
            f"`unitgain metrics reference DATA --detectors {metric.detector}`"
        )
    if metric.rows:
        references[metric.detector].rows()
    return references[metric.detector]


def evaluate(
    summaries: Mapping[str, Summary],
    metrics: Sequence[Metric],
    references: References | None,
    source: Source,
    device: torch.device | str = "cpu",
) -> list[Record]:
    """Records from what a pass left; in one process.

    Raises:
        ValueError: if there are too few images for a metric, or numbers of features differ.
    """
    pairs: dict[tuple[str, bool], Pair] = {}
    records = []
    for metric in metrics:
        summary, key = summaries[metric.detector], (metric.detector, metric.reference)
        if key not in pairs:
            own = [one for one in metrics if (one.detector, one.reference) == key]
            pairs[key] = Pair(summary, find_reference(references, metric) if metric.reference else None, own, device)
            if metric.reference:
                pairs[key].real.check_features(len(summary.mean))
        records.append(_record(metric, pairs[key], source))
    return records


def _record(metric: Metric, pair: Pair, source: Source) -> Record:
    score, images, reference = metric.score(pair), pair.images, pair.reference
    value, deviation = _numbers(metric, score)
    warnings = metric.warnings(pair)
    if not math.isfinite(value):
        warnings.append(f"{metric.label} is {value}, which is no figure to compare")
    if source.formats.get("jpeg"):
        warnings.append(jpeg_warning(source))
    if reference is not None and None in (reference.summary.detector.hash, images.detector.hash):
        warnings.append("the reference does not say which weights it was made with: check that they are these")
    return Record(
        metric=metric.name,
        value=value,
        deviation=deviation,
        higher=metric.higher,
        detector=images.detector,
        dims=len(images.mean),
        images=images.n,
        reference=None if reference is None else reference.info(),
        settings=metric.settings,
        source=source,
        warnings=tuple(warnings),
    )


def _numbers(metric: Metric, score: Any) -> tuple[float, float | None]:
    """A value and its deviation, if that is known, of any type of numbers.

    Raises:
        ValueError: if they are none.
    """
    value, deviation = score if isinstance(score, tuple) and len(score) == 2 else (score, None)
    try:
        value, deviation = float(real(value, "it")), None if deviation is None else float(real(deviation, "it"))
    except ValueError as error:
        raise ValueError(
            f"the score of {metric.label} is {brief(score)}: expected a number, or a number and its deviation"
        ) from error
    return value, deviation if deviation is not None and math.isfinite(deviation) else None
