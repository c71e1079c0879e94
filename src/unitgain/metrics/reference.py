"""References: what is known of the real images, in an `.npz` file."""

import functools
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitgain.files import atomic, near, sha256
from unitgain.metrics import frechet, neighbours
from unitgain.metrics.detectors import DetectorInfo
from unitgain.metrics.record import ReferenceInfo
from unitgain.metrics.summary import Summary, as_seen
from unitgain.npz import read_npz
from unitgain.serial import from_dict, to_dict
from unitgain.text import printable
from unitgain.trust import LARGEST, parse_json

FORMAT = "unitgain-reference/1"
MAX_FEATURES = 16_384
ROUNDING = 1e-4  # of a covariance, by its largest entry
OFFICIAL = {"fid": "inception", "fd_dinov2": "dinov2"}  # entries of the official reference files


class ReferenceFileError(Exception):
    """A file is no reference, or is damaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference(ReferenceInfo):
    """Real images in the features of one detector, with what is costly about them computed once.

    Args:
        summary: of the images.
    """

    summary: Summary

    @classmethod
    def of(cls, summary: Summary, name: str = "", fingerprint: str | None = None) -> "Reference":
        """A reference in memory, such as for a sweep."""
        return cls(summary=summary, name=name, fingerprint=fingerprint, count=summary.n)

    @functools.cached_property
    def root(self) -> Tensor:
        """A root of the covariance, for the Frechet distance."""
        return frechet.root(self.summary.cov)

    @functools.cached_property
    def _radii(self) -> dict[tuple[int, ...], Tensor]:
        return {}

    def info(self) -> ReferenceInfo:
        """What a record says of it."""
        return ReferenceInfo(name=self.name, hash=self.hash, fingerprint=self.fingerprint, count=self.count)

    def check_features(self, count: int) -> None:
        """Raise `ValueError` unless it has so many features, as the images do."""
        if len(self.summary.mean) != count:
            raise ValueError(
                f"{self.name or 'the reference'} has {len(self.summary.mean)} features of {self.summary.detector.name},"
                f" the images have {count}: were the images of another size?"
            )

    def rows(self) -> Tensor:
        """Features of every image.

        Raises:
            ValueError: if the reference was made without.
        """
        if self.summary.rows is None:
            where = self.name or "the reference"
            raise ValueError(
                f"{where} holds no features of single images, which KID, precision, recall, density and coverage need: "
                "make it again with `unitgain metrics reference DATA --features`"
            )
        return self.summary.rows

    def radii(self, ks: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """As `neighbours.radii`, computed once."""
        if ks not in self._radii:
            self._radii[ks] = neighbours.radii(self.rows().to(device), ks).cpu()
        return self._radii[ks].to(device)


def save_references(path: Path, summaries: Mapping[str, Summary], name: str, fingerprint: str | None) -> None:
    """Write an `.npz` file with one entry per detector, atomically.

    Args:
        path: ends in `.npz`.
        summaries: from `summarize`, or of official references; features of single images are written if they are there.
        name: of the data.
        fingerprint: of the images; None if unknown.

    Raises:
        ValueError: if `path` ends in something else.
    """
    if path.suffix != ".npz":
        raise ValueError(f"{path}: a reference is an .npz file")
    about = {
        "format": FORMAT,
        "name": name,
        "fingerprint": fingerprint,
        "detectors": {key: {"n": s.n, "detector": to_dict(s.detector)} for key, s in summaries.items()},
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about, sort_keys=True))}
    for key, summary in summaries.items():
        arrays[f"{key}/mean"], arrays[f"{key}/cov"] = summary.mean.numpy(), summary.cov.numpy()
        if summary.rows is not None:
            arrays[f"{key}/features"] = summary.rows.numpy()
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_references(path: Path) -> dict[str, Reference]:
    """References by name of the detector: ours, or an official `.npz` with `mu` and `sigma`.

    Raises:
        FileNotFoundError: if there is no file.
        ReferenceFileError: if it is no reference or damaged.
    """
    if not path.is_file():
        command = f"unitgain metrics reference DATA --out {path}"
        raise FileNotFoundError(f"no reference at {path}: make one with `{command}`{near(path)}")
    try:
        arrays = read_npz(path)
        if "mu" in arrays:
            return official_references({"fid": arrays}, path.name, sha256(path))
        if "about" not in arrays:
            named = printable(", ".join(list(arrays)[:5]))
            raise ReferenceFileError(
                f"{path} is no reference, but holds arrays ({named}): if they are what to compare with, prepare them "
                f"and name the result (--reference DATA): unitgain data prepare {shlex.quote(str(path))} DATA"
            )
        about = parse_json(str(arrays["about"]), "what it says of itself")
        if about["format"] != FORMAT:
            raise ReferenceFileError(f"{path} is a reference of format {about['format']!r}, not {FORMAT}")
        digest = sha256(path)
        return {key: _reference(path, about, key, arrays, digest) for key in about["detectors"]}
    except (ReferenceFileError, MemoryError):
        raise
    except Exception as error:  # archives, arrays and JSON each have errors of their own
        why = printable(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__} {error}"
        raise ReferenceFileError(f"{path} is damaged or no reference: {why}") from error


def official_references(
    entries: Mapping[str, Mapping[str, Any]], name: str, hash: str | None = None
) -> dict[str, Reference]:
    """References from official statistics: `{"fid": {"mu": ..., "sigma": ...}, "fd_dinov2": {...}}`.

    They do not say which weights they are of, and some not of how many images (`num_images`); results warn of it.

    Raises:
        ReferenceFileError: if shapes do not fit or there is nothing known among them.
    """
    references = {}
    for key, detector in OFFICIAL.items():
        if key in entries:
            entry = entries[key]
            if not isinstance(entry, Mapping) or not {"mu", "sigma"} <= entry.keys():
                raise ReferenceFileError(f"{name}: {key} holds no mean `mu` and covariance `sigma`")
            mean, cov = np.asarray(entry["mu"]), np.asarray(entry["sigma"])
            info = DetectorInfo(name=detector, hash=None, resize="unknown")
            count = _count(entry["num_images"], name) if "num_images" in entry else None
            summary = _summary(info, count or 0, mean, cov, name)
            references[detector] = Reference(summary=summary, name=name, hash=hash, count=count)
    if not references:
        raise ReferenceFileError(f"{name} holds none of {', '.join(OFFICIAL)}")
    return references


def official_entries(references: Mapping[str, Reference]) -> dict[str, dict[str, Any]]:
    """Official statistics of those references that have an official name; the inverse of `official_references`."""
    entries: dict[str, dict[str, Any]] = {}
    for name, detector in OFFICIAL.items():
        if (one := references.get(detector)) is not None:
            entries[name] = {"mu": one.summary.mean.numpy(), "sigma": one.summary.cov.numpy()}
            entries[name] |= {"num_images": one.count} if one.count else {}
    return entries


def _reference(path: Path, about: Mapping[str, Any], key: str, arrays: Mapping[str, Any], digest: str) -> Reference:
    entry = about["detectors"][key]
    info = from_dict(DetectorInfo, entry["detector"])
    count, fingerprint = entry["n"], about["fingerprint"]
    if type(count) is not int or not 0 <= count < 2**53 or not isinstance(fingerprint, str | None):
        raise ReferenceFileError(f"{path}: {count!r} images with the fingerprint {fingerprint!r}: cannot be")
    summary = _summary(info, count, arrays[f"{key}/mean"], arrays[f"{key}/cov"], str(path))
    rows = arrays.get(f"{key}/features")
    if rows is not None:
        if rows.shape != (summary.n, len(summary.mean)) or rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise ReferenceFileError(f"{path}: features of {key} are {rows.shape} for {summary.n} images")
        features = torch.from_numpy(rows.astype(np.float32))
        summary = Summary(detector=info, n=summary.n, mean=summary.mean, cov=summary.cov, rows=features)
    return Reference(
        summary=summary,
        name=str(about["name"]),
        hash=digest,
        fingerprint=fingerprint,
        count=count or None,  # official statistics do not say it
    )


def _count(number: Any, where: str) -> int:
    """The number of images that official statistics say they are of."""
    array = np.asarray(number)
    if array.size != 1 or array.dtype.kind not in "iuf" or not 1 <= (count := float(array.item())) < 2**53 or count % 1:
        raise ReferenceFileError(f"{where}: num_images is no whole number of images")
    return int(count)


def _summary(info: DetectorInfo, n: int, mean: np.ndarray, cov: np.ndarray, where: str) -> Summary:
    if mean.dtype.kind not in "fiu" or cov.dtype.kind not in "fiu":
        raise ReferenceFileError(f"{where}: mean and covariance are {mean.dtype} and {cov.dtype}, not numbers")
    if mean.ndim != 1 or not 1 <= len(mean) <= MAX_FEATURES or cov.shape != (len(mean), len(mean)):
        raise ReferenceFileError(f"{where}: mean {mean.shape} and covariance {cov.shape} do not fit, or are too large")
    with np.errstate(over="ignore"):
        mean, cov = mean.astype(np.float64), cov.astype(np.float64)  # copies: what was read may not be written to
    largest = np.abs(cov).max()
    if not largest < LARGEST or not np.abs(mean).max() < LARGEST:
        raise ReferenceFileError(f"{where}: mean or covariance are not finite, or beyond {LARGEST:g}")
    if np.abs(cov - cov.T).max() > ROUNDING * largest or cov.diagonal().min() < -ROUNDING * largest:
        raise ReferenceFileError(f"{where}: its covariance is not symmetric, or has negative variances: it is none")
    return Summary(detector=info, n=n, mean=torch.from_numpy(mean), cov=torch.from_numpy(cov))


class Fingerprint:
    """A fingerprint of images that depends neither on their order nor on the processes that read them.

    The sum, modulo 2^256, of the SHA-256 of each image's shape and pixels; of arrays the numbers as detectors see them.
    """

    def __init__(self) -> None:
        self._sum = 0

    def update(self, images: Tensor) -> None:
        """Take in images, uint8 `[N, C, H, W]`, or arrays `[N, C, *size]`."""
        for image in as_seen(images).cpu().numpy():
            digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
            self._sum = (self._sum + int.from_bytes(digest.digest(), "big")) % 2**256

    def hex(self, parts: Sequence[str] = ()) -> str:
        """64 hexadecimal digits; with those of other processes, of all together."""
        total = sum((int(part, 16) for part in parts), 0) if parts else self._sum
        return f"{total % 2**256:064x}"
