"""The metrics of a sweep: detectors and references opened once, values by name."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unitgain.data.digits import digits
from unitgain.evaluate.references import open_references
from unitgain.metrics.detectors import Detector
from unitgain.metrics.measure import measure, plan
from unitgain.metrics.names import DINOV2, Metric, parse_metrics
from unitgain.metrics.record import Record, Source
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import Wanted, summarize
from unitgain.metrics.weights import open_detector, scale_of
from unitgain.serial import to_dict


@dataclass(frozen=True)
class Judge:
    """Measures images with the same detectors and references each time.

    Args:
        names: of the metrics.
        detectors: by which they are measured.
        references: by name of the detector.

    Raises:
        ValueError: if a metric is unknown, or has no detector or reference.
    """

    names: tuple[str, ...]
    detectors: tuple[Detector, ...]
    references: Mapping[str, Reference]

    def __post_init__(self) -> None:
        plan(self.names, self.detectors, self.references)

    @classmethod
    def open(
        cls,
        names: Sequence[str],
        reference: Path | str,
        device: torch.device | str = "cpu",
        *,
        inception: Path | None = None,
        dinov2: str = DINOV2,
    ) -> "Judge":
        """The detectors that the metrics need, and the reference.

        Args:
            names: of the metrics.
            reference: `.npz` or official `.pkl` file, or `digits` for the embedded digits.
            device: of the detectors.
            inception: file of Inception's weights; fetched once by default.
            dinov2: folder or Hub id of DINOv2's weights.

        Raises:
            FileNotFoundError: if there is no reference, or no weights.
            ValueError: if a metric is unknown, or its reference is not given.
        """
        metrics = parse_metrics(names, default="pixels" if str(reference) == "digits" else "inception")
        needed = list(dict.fromkeys(metric.detector for metric in metrics))
        embedded = str(reference) == "digits"
        references = {} if embedded else open_references(Path(reference))

        def opened(name: str) -> Detector:
            scale = _digits_scale() if embedded and name == "pixels" else None
            if name in references:
                scale = scale_of(references[name].summary.detector)
            return open_detector(name, device, inception=inception, dinov2=dinov2, scale=scale)

        detectors = [opened(name) for name in needed]
        if embedded:
            references = digits_references(detectors, metrics)
        return cls(tuple(names), tuple(detectors), references)

    def __call__(self, batches: Iterable[Tensor], source: Source) -> list[Record]:
        """A record per metric, in their order, of uint8 images `[N, C, H, W]`."""
        return measure(batches, self.detectors, self.names, self.references, source=source)

    def metrics(self) -> list[Metric]:
        """The metrics, parsed, in the order of their names."""
        return plan(self.names, self.detectors, self.references)

    def identity(self, metric: Metric) -> dict[str, object]:
        """What a value of this metric depends on besides the images, as JSON."""
        detector = next(one for one in self.detectors if one.info.name == metric.detector)
        reference = self.references.get(metric.detector) if metric.needs.reference else None
        summary = reference and reference.summary
        digest = hashlib.sha256(summary.mean.numpy().tobytes() + summary.cov.numpy().tobytes()) if summary else None
        return {
            "metric": f"{metric.kind}@{metric.detector}",
            "detector": to_dict(detector.info),
            "reference": digest and digest.hexdigest(),
        }


def digits_references(detectors: Sequence[Detector], metrics: Sequence[Metric]) -> dict[str, Reference]:
    """References of the embedded digits in the features of each detector."""
    rows = {detector.info.name: False for detector in detectors}
    for metric in metrics:
        rows[metric.detector] |= metric.needs.rows
    wanted = {name: Wanted(rows=needed) for name, needed in rows.items()}
    summaries = summarize([digits().images], detectors, wanted)
    return {name: Reference.of(summary, name="digits") for name, summary in summaries.items()}


def _digits_scale() -> tuple[float, float]:
    """What the digits' networks see, so that the distance is the one of the demo."""
    encoder = digits().encoder
    return encoder.mean, encoder.std
