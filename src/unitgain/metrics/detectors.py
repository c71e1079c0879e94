"""Detectors: from 8-bit images, or arrays of other numbers, to features. Here the interface, pixels, and functions.

Arrays are signals, fields and volumes `[N, C, *size]`, in the units of the data: 8-bit numbers as they are, all others
as float32.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from unitgain.extras import import_named, source_hash

MAX_PIXELS = 4096  # features; their covariance is then 128 MiB
Scale = tuple[float | tuple[float, ...], float | tuple[float, ...]]
"""Mean and standard deviation: of the pixels of pictures, in 0...255, or of each channel of arrays."""
OWN = "a function of your own (module:function)"
ARRAYS = (
    "of signals, fields and volumes measure the numbers themselves, as by fd_pixels, kid@pixels or --detectors pixels, "
    f"or use {OWN}"
)


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What a detector is. Results and references of different ones are not comparable.

    Args:
        name: `inception`, `dinov2`, `pixels`, the name of a file, or `module:function`.
        hash: SHA-256 of its weights, source or settings; None if unknown.
        resize: what happens to the size of images.
        settings: numbers that it was made with, or several each.
    """

    name: str
    hash: str | None
    resize: str
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, other: "DetectorInfo", whose: str) -> None:
        """Raise `ValueError` unless `other`, of which `whose` speaks, can be this detector."""
        if other.name != self.name:
            raise ValueError(f"{whose} holds features of {other.name}, not of {self.name}")
        if None not in (self.hash, other.hash) and self.hash != other.hash:
            raise ValueError(
                f"{whose} was made with another {self.name}: its hash is {_short(other.hash)}, here it is "
                f"{_short(self.hash)}; make the reference again with this one, or use the same weights"
            )


@runtime_checkable
class Detector(Protocol):
    """Anything that turns images into features."""

    @property
    def info(self) -> DetectorInfo:
        """What it is."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Features, floating `[N, D]`, of images, uint8 `[N, C, H, W]` on any device; or of arrays, if it takes any."""
        ...


@runtime_checkable
class Classifier(Detector, Protocol):
    """A detector that also names classes, as an Inception score needs."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities of the classes, floating `[N, classes]`, rows summing to 1."""
        ...


class Pixels:
    """The pixels or numbers themselves, `(pixel - mean) / std * 0.5`: for images and arrays of a few dozen of them.

    Args:
        mean: of the pixels, in 0...255; of arrays one per channel, in the units of the data.
        std: of the pixels, or one per channel; the defaults map 0...255 to [-1, 1].
        device: where the features go; by default they stay where the images are.

    Raises:
        ValueError: if a value cannot be, or one of both is per channel and the other not.
    """

    def __init__(
        self,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 63.75,
        device: torch.device | str | None = None,
    ) -> None:
        settings = _settings(mean, std)
        self.info = DetectorInfo(name="pixels", hash=_hash(repr(settings).encode()), resize="none", settings=settings)
        self.device = device

    def __call__(self, images: Shaped[Tensor, "n c *size"]) -> Float[Tensor, "n d"]:
        """Float32 `[N, D]`, D the product of channels and sides.

        Raises:
            ValueError: if that is more than the covariance of pixels makes sense for, or the scale is of other values.
        """
        if images[0].numel() > MAX_PIXELS:
            fewer = "inception or dinov2" if are_pictures(images) else f"{OWN}, that makes fewer features of them"
            raise ValueError(
                f"images of {tuple(images.shape[1:])} have {images[0].numel()} pixels, more than {MAX_PIXELS}: use "
                f"{fewer}, or smaller images"
            )
        scale = self.info.settings
        if isinstance(scale["mean"], float) and images.dtype != torch.uint8:
            raise ValueError(
                f"pixels of {images.dtype} {tuple(images.shape[1:])} need the mean and standard deviation of each "
                "channel: compare with prepared data, which have them (unitgain data prepare SOURCE DATA); in Python "
                "Pixels(means, deviations)"
            )
        values = images.to(self.device).float()
        mean, std = _column(scale["mean"], values), _column(scale["std"], values)
        return ((values - mean) * (0.5 / std)).flatten(1)


class Function:
    """A function of the user's as a detector.

    Args:
        function: from uint8 `[N, C, H, W]` on `device` to features `[N, D]`; of arrays from `[N, C, *size]` of one to
            three sides, float32 in the units of the data, uint8 where these are 8-bit.
        name: of the detector.
        hash: of what it computes with; None if unknown.
        device: where the images go first.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        name: str,
        hash: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.function, self.device = function, torch.device(device)
        self.info = DetectorInfo(name=name, hash=hash, resize="inside the detector")

    @classmethod
    def load(cls, name: str, device: torch.device | str = "cpu") -> "Function":
        """The function `module:function`; its hash is that of the module's source.

        Raises:
            ValueError: if there is no such function.
        """
        function = import_named(name, "detector")
        if not callable(function):
            raise ValueError(f"detector {name!r} is no function")
        return cls(cast(Callable[[Tensor], Tensor], function), name, source_hash(name.partition(":")[0]), device)

    def __call__(self, images: Shaped[Tensor, "n c *size"]) -> Float[Tensor, "n d"]:
        """The features.

        Raises:
            ValueError: if the function returns no `[N, D]`.
        """
        return check_features(self.function(images.to(self.device)), len(images), self.info.name)


def check_features(features: Any, count: int, name: str) -> Tensor:
    """What a foreign detector returned, as `[N, D]`, or `ValueError`; trailing dimensions of size 1 are dropped."""
    if isinstance(features, Tensor) and features.is_floating_point() and len(features) == count:
        while features.ndim > 2 and features.shape[-1] == 1:
            features = features.squeeze(-1)
        if features.ndim == 2:
            return features
    found = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
    raise ValueError(f"detector {name} must return floating features [{count}, D] for {count} images, not {found}")


def are_pictures(images: Tensor) -> bool:
    """Whether samples `[N, C, *size]` are pictures, uint8 of 1 or 3 channels and two sides, rather than arrays."""
    return images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)


def rgb(images: Tensor) -> UInt8[Tensor, "n 3 h w"]:
    """RGB as it is, grey three times.

    Raises:
        ValueError: if these are no pictures.
    """
    if not are_pictures(images):
        raise ValueError(
            f"networks see pictures, uint8 [N, C, H, W] of 1 or 3 channels, not {images.dtype} {tuple(images.shape)}: "
            f"decode latents first; {ARRAYS}"
        )
    return images.expand(-1, 3, -1, -1)


def _settings(mean: float | Sequence[float], std: float | Sequence[float]) -> dict[str, Any]:
    """The scale of pixels, checked."""
    means, stds = (tuple(map(float, one)) if isinstance(one, Sequence) else (float(one),) for one in (mean, std))
    several = isinstance(mean, Sequence)
    if several != isinstance(std, Sequence) or len(means) != len(stds) or not means:
        raise ValueError(f"pixels need one mean and std, or both for each channel, not {mean} and {std}")
    if not all(map(math.isfinite, (*means, *stds))) or not all(one > 0 for one in stds):
        raise ValueError(f"pixels need finite means and std > 0, not {mean} and {std}")
    return {"mean": means, "std": stds} if several else {"mean": means[0], "std": stds[0]}


def _column(numbers: float | tuple[float, ...], like: Tensor) -> float | Tensor:
    """A number for all, or one per channel, to go with `[N, C, *size]`.

    Raises:
        ValueError: if it has other channels.
    """
    if not isinstance(numbers, tuple):
        return numbers
    if like.shape[1] != len(numbers):
        raise ValueError(f"samples of {like.shape[1]} channels, and a scale of {len(numbers)}: compare like with like")
    return like.new_tensor(numbers).reshape(1, -1, *[1] * (like.ndim - 2))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else f"{digest[:12]}..."
