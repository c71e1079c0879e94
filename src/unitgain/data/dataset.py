"""What a data set is; and images and labels in memory, checked."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unitgain.arch.values import Conditions
from unitgain.data.conditions import Column, Shape, Values, name_and_kind, rows_of, update_digest
from unitgain.data.encoder import ArrayEncoder, Encoder, PixelEncoder
from unitgain.size import MOST_SIDES

Labels = Int[Tensor, " n"] | None


@runtime_checkable
class Dataset(Protocol):
    """Images by number, or signals, fields or volumes, and perhaps labels: what training needs of data.

    Attributes:
        name: for messages and records.
        labels: int64 `[N]`; None without.
        classes: names of the classes; None without labels.
        encoder: how stored values become what the network sees, and back.
    """

    name: str
    labels: Labels
    classes: tuple[str, ...] | None
    encoder: Encoder

    def __len__(self) -> int: ...

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of a row as it is stored: channels, then one to three sides: height and width of images."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of a row as it is stored."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that matters for training; empty if it is not known."""
        ...

    def rows(self, indices: NDArray[np.int64], out: Tensor | None = None) -> tuple[Tensor, Labels]:
        """Rows as they are stored, into `out` if given, and their labels."""
        ...

    def labels_of(self, indices: NDArray[np.int64]) -> Labels:
        """The labels of these rows, `[n]`."""
        return None if self.labels is None else self.labels[torch.from_numpy(indices)]

    @property
    def condition_shapes(self) -> Mapping[str, Shape]:
        """What else each row has, by its name, and the shape of a value; empty where there is nothing else.

        () of an amount, (dim,) of a vector, (channels, *size) of an image, (tokens, dim) of a sequence; None for a
        number of tokens that differs.
        """
        return {}

    def conditions_of(self, indices: NDArray[np.int64]) -> Conditions:
        """The values of `condition_shapes` of these rows, on the CPU, without their labels.

        Float32 as networks see them, 8-bit pixels from -1 to 1. Sequences are padded to the longest of these rows, with
        a mask; the mask of a value that a row lacks is False.
        """
        return Conditions()

    @property
    def latents(self) -> bool:
        """Whether these are latents, which a VAE decodes, rather than pixels."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image as the network sees it: channels, then sides."""
        return self.stored_shape

    @property
    def label_dim(self) -> int:
        """Number of classes, 0 without labels."""
        return len(self.classes) if self.labels is not None and self.classes else 0

    def encode(self, stored: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n c *size"]:
        """What the network sees, float32; `generator`, on the device of `stored`, draws latents.

        Floating values with an encoder of pixels, which goes for what is drawn, are as the network is to see them.
        """
        plain = stored.is_floating_point() and isinstance(self.encoder, PixelEncoder)
        return stored.float() if plain else self.encoder.encode(stored, generator)

    def batch(self, indices: NDArray[np.int64]) -> tuple[Float[Tensor, "n c *size"], Labels]:
        """The images with these indices as the network sees them, float32, and their labels."""
        stored, labels = self.rows(indices)
        return self.encode(stored), labels


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayDataset(Dataset):
    """A data set that fits in memory.

    Args:
        name: for messages and records.
        images: `[N, C, *size]`, one to three sides: uint8 pixels, or floating values as the network is to see them,
            pictures from -1 to 1.
        labels: class of each image, int64 `[N]`; None if there are none.
        classes: names of the classes; needed with labels.
        encoder: how pixels become what the network sees; an `ArrayEncoder` for numbers of any type, as from
            `ArrayEncoder.measured`. Floating values go through no other; drawn ones are written as pixels where they
            have 1 or 3 channels and two sides, and else as they are.
        conditions: what else each image has, by name: an array `[N, ...]`, or a sequence of arrays that may have None
            in it, and sequences of any length.

    Raises:
        ValueError: if there are no images, shapes do not fit, a value is not finite, or a label is out of range; the
            message names the first image concerned. If floating pictures have no negative value.
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    encoder: PixelEncoder | ArrayEncoder = field(default_factory=PixelEncoder)
    conditions: Mapping[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 3 <= self.images.ndim <= 2 + MOST_SIDES or not len(self.images):
            raise ValueError(
                f"data {self.name}: images must be [N, C, H, W], or have one to three sides, with N >= 1, not "
                f"{tuple(self.images.shape)}"
            )
        self._check_values()
        if self.labels is not None:
            self._check_labels(self.labels)
        _ = self._columns  # checked

    def _check_values(self) -> None:
        channels = self.images.shape[1]
        if self.encoder == PixelEncoder() and not (self.images.ndim == 4 and channels in (1, 3)):
            if self.images.is_floating_point():
                object.__setattr__(self, "encoder", ArrayEncoder.identity(channels))
            elif self.images.dtype == torch.uint8:
                object.__setattr__(self, "encoder", ArrayEncoder.bytes(channels))
        if isinstance(self.encoder, ArrayEncoder) and len(self.encoder.mean) != channels:
            raise ValueError(
                f"data {self.name}: an encoder of {len(self.encoder.mean)} channels for images of {channels}"
            )
        if self.images.is_floating_point():
            broken = ~torch.isfinite(self.images).flatten(1).all(1)
            if broken.any():
                first = int(broken.nonzero()[0])
                raise ValueError(
                    f"data {self.name}: {int(broken.sum())} of {len(self.images)} images hold NaN or infinite values, "
                    f"the first is image {first}: repair or drop them"
                )
            if isinstance(self.encoder, PixelEncoder):
                check_span(self.name, self.images.min().item(), self.images.max().item())
        elif self.images.dtype != torch.uint8 and not isinstance(self.encoder, ArrayEncoder):
            raise ValueError(
                f"data {self.name}: images must be uint8 or floating, not {self.images.dtype}; other numbers need an "
                "encoder, as from ArrayEncoder.measured"
            )

    @cached_property
    def _columns(self) -> dict[str, Column]:
        count = len(self.images)
        sides, columns = self.images.ndim - 2, dict[str, Column]()
        for text, values in self.conditions.items():
            name, kind = name_and_kind(text)
            columns[name] = Column.of(name, values, count, self.name, sides, kind)
        return columns

    def _check_labels(self, labels: Tensor) -> None:
        if labels.shape != (len(self.images),) or labels.dtype != torch.int64 or not self.classes:
            raise ValueError(f"data {self.name}: labels must be int64 [N] with the names of their classes")
        wrong = ((labels < 0) | (labels >= len(self.classes))).nonzero()
        if len(wrong):
            first = int(wrong[0])
            known = f"there are {len(self.classes)} classes, 0 to {len(self.classes) - 1}"
            raise ValueError(f"data {self.name}: image {first} has label {int(labels[first])}, but {known}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of an image: channels, then sides."""
        return tuple(self.images.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        return self.images.dtype

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that tell these data from others: shape, classes, encoder, and up to 1024 images."""
        rows = torch.linspace(0, len(self) - 1, min(len(self), 1024)).round().long()
        about = [list(self.images.shape), str(self.images.dtype), self.classes, dataclasses.asdict(self.encoder)]
        digest = hashlib.sha256(json.dumps(about).encode())
        for tensor in (self.images, self.labels):
            if tensor is not None:
                digest.update(tensor[rows].contiguous().view(torch.uint8).numpy().data)
        update_digest(digest, self._columns, rows)
        return digest.hexdigest()

    @property
    def condition_shapes(self) -> Mapping[str, Shape]:
        """Of `conditions`."""
        return {name: column.shape for name, column in self._columns.items()}

    def conditions_of(self, indices: NDArray[np.int64]) -> Conditions:
        """Those of these images."""
        return rows_of(self._columns, indices)

    def rows(self, indices: NDArray[np.int64], out: Tensor | None = None) -> tuple[Tensor, Labels]:
        """The images with these indices as they are stored, and their labels."""
        return torch.index_select(self.images, 0, torch.from_numpy(indices), out=out), self.labels_of(indices)


def check_span(name: str, lowest: float, highest: float) -> None:
    """Refuse floating pictures without any negative value, such as from 0 to 1: networks see them from -1 to 1.

    Args:
        name: of the data.
        lowest: of all values.
        highest: likewise.

    Raises:
        ValueError: if there is none, unless all are equal.
    """
    if 0 <= lowest < highest:
        raise ValueError(
            f"data {name}: floating pictures from {lowest:.3g} to {highest:.3g}, where networks see them from -1 to 1: "
            "give uint8 pixels (PILToTensor rather than ToTensor), or x * 2 - 1 of 0 to 1; have what are no pictures "
            "measured (from_torch(..., normalize='measured'), ArrayEncoder.measured)"
        )
