"""Measure images: `measure` reads them once and returns a record per metric."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unitgain.metrics.detectors import Classifier, Detector
from unitgain.metrics.frechet import frechet_distance
from unitgain.metrics.kernel import kernel_distance
from unitgain.metrics.names import Metric, parse_metrics
from unitgain.metrics.neighbours import Neighbourhoods, neighbourhoods
from unitgain.metrics.record import Record, ReferenceInfo, Source, warnings_for
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import Summary, Wanted, summarize
from unitgain.parallel import World
from unitgain.sample.seeds import check_seeds

References = Reference | Mapping[str, Reference]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of the metrics, the papers' by default.

    Args:
        kid_subsets: how many subsets of images KID averages over.
        kid_size: images in each.
        kid_seed: of the subsets.
        k_precision: neighbours for precision and recall.
        k_density: neighbours for density and coverage.
        splits: of the Inception score.

    Raises:
        ValueError: if the seed is out of range.
    """

    kid_subsets: int = 100
    kid_size: int = 1000
    kid_seed: int = 0
    k_precision: int = 3
    k_density: int = 5
    splits: int = 10

    def __post_init__(self) -> None:
        check_seeds([self.kid_seed], "kid_seed")


def measure(
    batches: Iterable[Tensor],
    detectors: Detector | Sequence[Detector],
    metrics: Sequence[str],
    references: References | None = None,
    *,
    world: World | None = None,
    source: Source | None = None,
    settings: Settings | None = None,
    on_images: Callable[[int], None] | None = None,
) -> list[Record]:
    """Measure images in one pass.

    A reference remembers what is costly about it, so one that is kept makes the next call cheap.

    Args:
        batches: uint8 images `[N, C, H, W]`, as in `summarize`: of several processes, number r of R passes the images
            r, r + R, ... in order.
        detectors: one or several; the first is that of metrics which name none.
        metrics: as `parse_metrics` reads them.
        references: by name of the detector, as from `load_references`; or one, for its detector.
        world: processes that work together.
        source: where the images come from, for the records.
        settings: numbers of the metrics.
        on_images: called with the number of images that this process has read.

    Returns:
        A record per metric in the order of `metrics`, on every process.

    Raises:
        ValueError: if a metric is unknown, its detector or reference is not given, they do not fit together, or there
            are too few images. All but the last before an image is read.
    """
    world, settings = world or World(), settings or Settings()
    detectors = list(detectors) if isinstance(detectors, Sequence) else [detectors]
    wanted = plan(metrics, detectors, references)
    used = [detector for detector in detectors if any(metric.detector == detector.info.name for metric in wanted)]
    keep = {
        detector.info.name: Wanted(
            rows=any(m.needs.rows for m in wanted if m.detector == detector.info.name),
            probabilities=any(m.kind == "is" for m in wanted if m.detector == detector.info.name),
        )
        for detector in used
    }
    summaries = summarize(batches, used, keep, world=world, splits=settings.splits, on_images=on_images)
    records = None
    if world.main:
        records = evaluate(summaries, wanted, references, source=source, settings=settings, device=world.device)
    records = world.broadcast(records)
    assert records is not None
    return records


def plan(metrics: Sequence[str], detectors: Sequence[Detector], references: References | None) -> list[Metric]:
    """The metrics by these names, checked against detectors and references.

    Raises:
        ValueError: as `measure`.
    """
    by_name = {detector.info.name: detector for detector in detectors}
    wanted = parse_metrics(metrics, default=detectors[0].info.name if detectors else "inception")
    for metric in wanted:
        if metric.detector not in by_name:
            known = ", ".join(by_name) or "none"
            raise ValueError(f"{metric.name} needs the detector {metric.detector}; given: {known}")
        detector = by_name[metric.detector]
        if metric.kind == "is" and not isinstance(detector, Classifier):
            raise ValueError(f"detector {metric.detector} names no classes, which an Inception score needs")
        if metric.needs.reference:
            reference = find_reference(references, metric)
            detector.info.check(reference.summary.detector, reference.name or "the reference")
            if metric.needs.rows:
                reference.rows()
    return wanted


def find_reference(references: References | None, metric: Metric) -> Reference:
    """The reference that a metric is measured against.

    Raises:
        ValueError: if there is none in the features of its detector.
    """
    if isinstance(references, Reference):
        references = {references.summary.detector.name: references}
    if not references or metric.detector not in references:
        known = ", ".join(references) if references else "none"
        raise ValueError(
            f"{metric.name} needs a reference in the features of {metric.detector}; given: {known}. Make one with "
            f"`unitgain metrics reference DATA --detectors {metric.detector}`"
        )
    return references[metric.detector]


def evaluate(
    summaries: Mapping[str, Summary],
    metrics: Sequence[Metric],
    references: References | None,
    *,
    source: Source | None = None,
    settings: Settings | None = None,
    device: torch.device | str = "cpu",
) -> list[Record]:
    """Records from what a pass left; in one process.

    Raises:
        ValueError: if there are too few images for a metric, or numbers of features differ.
    """
    settings, source = settings or Settings(), source or Source()
    near: dict[str, Neighbourhoods] = {}
    records = []
    for metric in metrics:
        summary = summaries[metric.detector]
        reference = find_reference(references, metric) if metric.needs.reference else None
        if reference is not None and len(reference.summary.mean) != len(summary.mean):
            raise ValueError(
                f"{reference.name or 'the reference'} has {len(reference.summary.mean)} features of {metric.detector}, "
                f"the images have {len(summary.mean)}: were the images of another size?"
            )
        value, deviation, numbers = _value(metric, summary, reference, settings, near, device)
        records.append(_record(metric, value, deviation, numbers, summary, reference, source))
    return records


def _value(
    metric: Metric,
    summary: Summary,
    reference: Reference | None,
    settings: Settings,
    near: dict[str, Neighbourhoods],
    device: torch.device | str,
) -> tuple[float, float | None, dict[str, int]]:
    """Value, deviation and the numbers it was computed with."""
    if metric.kind == "is":
        assert summary.inception_score is not None
        return *summary.inception_score, {"splits": settings.splits}
    assert reference is not None
    real = reference.summary
    if metric.kind == "fd":
        return frechet_distance(summary.mean, summary.cov, real.mean, real.cov, root2=reference.root), None, {}
    assert summary.rows is not None
    if metric.kind == "kid":
        numbers = {
            "subsets": settings.kid_subsets,
            "size": min(settings.kid_size, summary.n, real.n),
            "seed": settings.kid_seed,
        }
        rows = summary.rows.to(device), reference.rows().to(device)
        return *kernel_distance(*rows, **numbers), numbers
    k_precision, k_density = settings.k_precision, settings.k_density
    if metric.detector not in near:
        near[metric.detector] = neighbourhoods(
            summary.rows.to(device),
            reference.rows().to(device),
            k_precision=k_precision,
            k_density=k_density,
            real_radii=reference.radii((k_precision, k_density), device),
        )
    k = k_precision if metric.kind in ("precision", "recall") else k_density
    return getattr(near[metric.detector], metric.kind), None, {"k": k}


def _record(
    metric: Metric,
    value: float,
    deviation: float | None,
    numbers: dict[str, int],
    summary: Summary,
    reference: Reference | None,
    source: Source,
) -> Record:
    about = None
    same_weights = True
    if reference is not None:
        about = ReferenceInfo(
            name=reference.name, hash=reference.hash, fingerprint=reference.fingerprint, count=reference.count
        )
        same_weights = None not in (reference.summary.detector.hash, summary.detector.hash)
    dims = len(summary.mean)
    return Record(
        metric=metric.name,
        value=value,
        deviation=deviation,
        higher=metric.needs.higher,
        detector=summary.detector,
        dims=dims,
        images=summary.n,
        reference=about,
        settings=numbers,
        source=source,
        warnings=warnings_for(metric.kind, summary.n, dims, source, about, same_weights),
    )
