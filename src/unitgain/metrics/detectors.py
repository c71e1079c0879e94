"""Detectors: from 8-bit images to features. Here the interface, pixels, and functions of the user's own."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unitgain.extras import import_named

MAX_PIXELS = 4096  # features; their covariance is then 128 MiB


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What a detector is. Results and references of different ones are not comparable.

    Args:
        name: `inception`, `dinov2`, `pixels`, the name of a file, or `module:function`.
        hash: SHA-256 of its weights, source or settings; None if unknown.
        resize: what happens to the size of images.
        settings: numbers that it was made with.
    """

    name: str
    hash: str | None
    resize: str
    settings: dict[str, float] = field(default_factory=dict)

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
        """Features, floating `[N, D]`, of images, uint8 `[N, C, H, W]` on any device."""
        ...


@runtime_checkable
class Classifier(Detector, Protocol):
    """A detector that also names classes, as an Inception score needs."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities of the classes, floating `[N, classes]`, rows summing to 1."""
        ...


class Pixels:
    """The pixels themselves, `(pixel - mean) / std * 0.5`: for images of a few dozen pixels.

    Args:
        mean: of the pixels, in 0...255.
        std: of the pixels; the defaults map 0...255 to [-1, 1].
        device: where the features go; by default they stay where the images are.
    """

    def __init__(self, mean: float = 127.5, std: float = 63.75, device: torch.device | str | None = None) -> None:
        if not std > 0:
            raise ValueError(f"pixels need std > 0, not {std}")
        settings = {"mean": float(mean), "std": float(std)}
        self.info = DetectorInfo(name="pixels", hash=_hash(repr(settings).encode()), resize="none", settings=settings)
        self.device = device

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Float32 `[N, C H W]`.

        Raises:
            ValueError: if that is more than the covariance of pixels makes sense for.
        """
        if images[0].numel() > MAX_PIXELS:
            raise ValueError(
                f"images of {tuple(images.shape[1:])} have {images[0].numel()} pixels, more than {MAX_PIXELS}: use "
                "inception or dinov2, or smaller images"
            )
        mean, std = self.info.settings["mean"], self.info.settings["std"]
        return ((images.to(self.device).float() - mean) * (0.5 / std)).flatten(1)


class Function:
    """A function of the user's as a detector.

    Args:
        function: from uint8 `[N, C, H, W]` on `device` to features `[N, D]`.
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
        source = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
        return cls(
            cast(Callable[[Tensor], Tensor], function),
            name,
            _hash(Path(source).read_bytes()) if source else None,
            device,
        )

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
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


def rgb(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """RGB as it is, grey three times.

    Raises:
        ValueError: if there are neither 1 nor 3 channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, not {images.shape[1]}; decode latents first")
    return images.expand(-1, 3, -1, -1)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else f"{digest[:12]}..."
