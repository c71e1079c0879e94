"""Results that say what they are: each value with everything it depends on."""

from dataclasses import dataclass, field
from typing import Any

from unitgain.metrics.detectors import DetectorInfo
from unitgain.version import __version__


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the measured images come from.

    Args:
        kind: "folder", "zip", "tar", "parquet", "prepared", "digits", "snapshot" or "images".
        name: path or name.
        seeds: of generated images, as text (`0-49999`); None if unknown.
        snapshot: path of the network that drew them; None if unknown.
        snapshot_hash: SHA-256 that the snapshot carries.
        guide: name of what guided it, "self" for itself without its label; None for nothing, and if unknown.
        sampler: settings of the sampler.
        formats: number of images by file format, such as `{"png": 100}`.
    """

    kind: str = "images"
    name: str = ""
    seeds: str | None = None
    snapshot: str | None = None
    snapshot_hash: str | None = None
    guide: str | None = None
    sampler: dict[str, str | float | int | None] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReferenceInfo:
    """What a value was measured against.

    Args:
        name: the data, or the file, in words.
        hash: SHA-256 of the file; None if it is not from a file.
        fingerprint: of the images; None if unknown. Equal images have equal ones, whatever holds them.
        count: number of images; None if unknown, as with official files.
    """

    name: str = ""
    hash: str | None = None
    fingerprint: str | None = None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One result.

    Args:
        metric: its name.
        value: the value.
        deviation: standard deviation over subsets (KID) or splits (Inception score); of a Frechet distance its standard
            error (`frechet.sampling_error`), where the features of every image were kept.
        higher: higher is better.
        detector: whose features.
        dims: number of features.
        images: number of images measured.
        reference: measured against; None for an Inception score.
        settings: numbers that the metric was computed with, such as k.
        source: where the images come from.
        warnings: what a reader of the value should know.
        version: of this package.
    """

    metric: str
    value: float
    deviation: float | None = None
    higher: bool = False
    detector: DetectorInfo
    dims: int
    images: int
    reference: ReferenceInfo | None
    settings: dict[str, Any] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    warnings: tuple[str, ...] = ()
    version: str = __version__


def jpeg_warning(source: Source) -> str:
    """What to know of images of which some are JPEG files."""
    return f"{source.formats['jpeg']:,} images are JPEG files, whose compression the detectors see: use PNG"
