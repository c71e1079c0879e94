"""Data sets of other libraries: any with a length and items, such as those of PyTorch; of tensors, pairs or dicts."""

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from unitgain.arch.values import Conditions
from unitgain.data.cells import Wanted, parse_all
from unitgain.data.conditions import Column, rows_of, update_digest
from unitgain.data.dataset import Dataset, Labels, check_span
from unitgain.data.encoder import ArrayEncoder, Encoder, PixelEncoder
from unitgain.data.numbers import ArrayType, Numbers
from unitgain.data.settings import Normalize
from unitgain.data.shards import array_sums
from unitgain.data.sources.numbering import number
from unitgain.serial import suggest, to_dict
from unitgain.size import MOST_SIDES

NAMED = 1024  # rows that tell data from others
DTYPES: dict[torch.dtype, ArrayType] = {torch.uint8: "uint8", torch.int16: "int16", torch.float32: "float32"}


@runtime_checkable
class Items(Protocol):
    """What has a length and items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def from_torch(
    dataset: Items | Iterable[Any],
    *,
    name: str = "torch",
    image: str | None = None,
    label: str | None = None,
    conditions: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    normalize: Normalize | str = "official",
) -> "WrappedDataset":
    """A data set for training from one of another library.

    Every item is read once, here, to check it and to measure mean and standard deviation; then again whenever it is
    trained on, by several threads at once. Runs are repeatable where items are: `dataset[i]` is to be the same each
    time, and to draw no random numbers.

    Args:
        dataset: with items that are a tensor `[C, *size]`, (tensor,), (tensor, class), or dicts of these and of
            conditions; of uint8, int16 or floating numbers.
        name: for messages and records.
        image: key of the tensor in items that are dicts; by default `image`.
        label: key of the class, a whole number, in items that are dicts; by default `label`, which they need not have.
        conditions: keys of what else networks are told: amounts, vectors `[dim]`, images `[C, *size]`, tokens
            `[T, dim]`, which may be a list of vectors; None where an item has no value. As for `data prepare`, each is
            the key, NAME=KEY, or with what its values are NAME:KIND or NAME=KEY:KIND (scalar, vector, image or tokens).
        classes: names of the classes, where items have one; by default their numbers, and where these are far apart
            (the highest 100,000 or more, and ten times as many as there are), those that are there, in order.
        normalize: "official": floating numbers as the network is to see them, pictures from -1 to 1, and pixels, uint8
            of 1 or 3 channels, brought there; "measured": mean 0 and standard deviation 0.5, over all channels of such
            pixels, for each channel of all else. Other whole numbers are measured in any case. What is measured and no
            such pixels, floating pictures too, is drawn as arrays of numbers (NPY), not as PNG.

    Raises:
        ValueError: if these are no items by number, there are none, one is something else, has another shape or type
            than the first, or holds NaN or infinite values; the message names the first such item. If there is no class
            where a `label` or `classes` are named, or floating pictures have no negative value, as from `ToTensor`.
    """
    if normalize not in get_args(Normalize):
        raise ValueError(f"normalize {normalize!r}: {suggest(str(normalize), get_args(Normalize))}")
    if isinstance(conditions, str):
        raise ValueError(f"conditions {conditions!r}: give a list of keys, [{conditions!r}]")
    if isinstance(classes, str):
        raise ValueError(f"classes {classes!r}: give a list of names, [{classes!r}]")
    if isinstance(dataset, IterableDataset | Mapping | str | bytes) or not isinstance(dataset, Items):
        raise ValueError(
            f"data {name}: {type(dataset).__name__} is no map-style data set, with a length and items by number, "
            "dataset[0] and so on: collect what it yields in a list first"
        )
    return WrappedDataset(dataset, name, (image, label), parse_all(conditions), classes, normalize)


class WrappedDataset(Dataset):
    """As from `from_torch`.

    Attributes:
        items: the data set of another library.
        mean: of the tensors, float64 `[C]`.
        std: their standard deviation, likewise.
    """

    def __init__(
        self,
        items: Items,
        name: str,
        keys: tuple[str | None, str | None],
        wanted: Sequence[Wanted],
        classes: Sequence[str] | None,
        normalize: Normalize | str,
    ) -> None:
        self.items, self.name, self._keys, self._wanted = items, name, keys, tuple(wanted)
        if not len(items):
            raise ValueError(f"data {name}: there are no items")
        labels = self._look()
        if labels is None and (classes or keys[1] is not None):
            named = f"classes {', '.join(classes)}" if classes else f"label {keys[1]!r}"
            raise ValueError(f"data {name}: {named}, and no item has a class: name its key, or leave it out")
        self.classes = None
        self.labels = None
        if labels is not None:
            items_named = [f"item {index}" for index in range(len(labels))]
            numbers, self.classes, _ = number(labels, items_named, f"data {name}", classes and list(classes))
            self.labels = torch.from_numpy(numbers)
        self.encoder = self._encoder(normalize)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of an item's tensor."""
        return tuple(self._first.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors; floating ones as float32."""
        return self._first.dtype

    @property
    def fingerprint(self) -> str:
        """Of shape, type, encoder, classes, and up to 1024 items."""
        return self._fingerprint

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """As in `Dataset`."""
        return {name: column.shape for name, column in self._columns.items()}

    def conditions_of(self, indices: NDArray[np.int64]) -> Conditions:
        """As in `Dataset`."""
        return rows_of(self._columns, indices)

    def measured(self) -> "WrappedDataset":
        """The same with what is measured of it as its normalization, as by `normalize="measured"`."""
        other = copy.copy(self)
        other.encoder = other._encoder("measured")
        return other

    def rows(self, indices: NDArray[np.int64], out: Tensor | None = None) -> tuple[Shaped[Tensor, "n c *size"], Labels]:
        """Tensors of items, and their labels.

        Raises:
            ValueError: if an item is not what it was.
        """
        if out is None:
            out = torch.empty((len(indices), *self.stored_shape), dtype=self.dtype)
        for place, index in enumerate(indices.tolist()):
            out[place] = self._image(index)
        return out, self.labels_of(indices)

    def _item(self, index: int) -> tuple[Any, Any, Mapping[str, Any]]:
        """Tensor, label or None, and conditions of an item, by their names."""
        item, (image, label) = self.items[index], self._keys
        named = [key for key in (image, label, *(one.column for one in self._wanted)) if key is not None]
        if isinstance(item, Mapping):
            for key in (image or "image", *named):
                if key not in item:
                    raise ValueError(f"data {self.name}: item {index} has no {key!r}, but {', '.join(map(str, item))}")
            told = {one.name: item[one.column] for one in self._wanted}
            return item[image or "image"], item.get(label or "label"), told
        if isinstance(item, tuple | list) and len(item) in (1, 2) and not named:
            return item[0], item[1] if len(item) == 2 else None, {}
        if isinstance(item, Tensor | np.ndarray) and not named:
            return item, None, {}
        what = f"a dict with {', '.join(map(repr, named))}" if named else "a tensor, (tensor, class), or a dict"
        raise ValueError(f"data {self.name}: item {index} is {type(item).__name__}; expected {what}")

    def _image(self, index: int) -> Tensor:
        return self._checked(self._item(index)[0], index)

    def _checked(self, image: Any, index: int) -> Tensor:
        where = f"data {self.name}: item {index}"
        if not isinstance(image, Tensor | np.ndarray):
            raise ValueError(f"{where} has {type(image).__name__} for a tensor: convert it, such as by PILToTensor")
        tensor = torch.as_tensor(image)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if tensor.dtype not in DTYPES or not 2 <= tensor.ndim <= MOST_SIDES + 1 or not tensor.numel():
            raise ValueError(
                f"{where} is {tensor.dtype} {list(tensor.shape)}; expected uint8, int16 or floating [C, *size], one to "
                "three sides"
            )
        first = getattr(self, "_first", tensor)
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"{where} is {tensor.dtype} {list(tensor.shape)}, where the first is {first.dtype} {list(first.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where} holds NaN or infinite values: repair it or leave it out")
        return tensor.cpu()

    def _look(self) -> list[int] | None:
        """Read all: labels, conditions, mean and standard deviation, and what tells these data from others."""
        labels, cells = list[Any](), {one.name: list[Any]() for one in self._wanted}
        sums: Any = 0
        lowest, highest = math.inf, -math.inf
        some = np.linspace(0, len(self) - 1, min(len(self), NAMED)).round().astype(np.int64)
        named = set(some.tolist())
        digest = hashlib.sha256()
        for index in range(len(self)):
            image, label, conditions = self._item(index)
            tensor = self._checked(image, index)
            self._first = self._first if index else tensor
            sums = sums + np.array(array_sums(tensor.numpy()[None]))
            lowest, highest = min(lowest, tensor.min().item()), max(highest, tensor.max().item())
            labels.append(label)
            for one, value in conditions.items():
                cells[one].append(value)
            if index in named:
                digest.update(tensor.contiguous().numpy().tobytes() + repr(label).encode())
        self._digest, self._span = digest, (lowest, highest)
        values = len(self) * self._first.numel() / self._first.shape[0]
        self.mean = sums[0] / values
        self.std = np.sqrt(np.maximum(sums[1] / values - self.mean**2, 0))
        sides = self._first.ndim - 1
        self._columns = {
            one.name: Column.of(one.name, cells[one.name], len(self), self.name, sides, one.kind)
            for one in self._wanted
        }
        update_digest(digest, self._columns, torch.from_numpy(some))
        if all(label is None for label in labels):
            return None
        whole = [int(label) if _is_whole(label) else None for label in labels]
        if None in whole:
            index = whole.index(None)
            raise ValueError(
                f"data {self.name}: item {index} has the class {labels[index]!r}: a whole number in all items, or none"
            )
        return [label for label in whole if label is not None]

    def _encoder(self, normalize: Normalize | str) -> Encoder:
        channels, pictures = self._first.shape[0], self._first.ndim == 3 and self._first.shape[0] in (1, 3)
        measured = normalize == "measured"
        if pictures and self.dtype == torch.uint8:
            encoder: Encoder = PixelEncoder.measured(self.mean, self.std) if measured else PixelEncoder()
        elif pictures and self.dtype == torch.float32 and not measured:
            check_span(self.name, *self._span)
            encoder = PixelEncoder()  # for what is drawn
        elif measured or self.dtype != torch.float32:
            numbers = Numbers(dtype=DTYPES[self.dtype])
            encoder = ArrayEncoder.measured(self.mean.tolist(), self.std.tolist(), numbers)
        else:
            encoder = ArrayEncoder.identity(channels)
        about = [self.stored_shape, str(self.dtype), len(self), self.classes, to_dict(encoder)]
        digest = self._digest.copy()
        digest.update(json.dumps(about).encode())
        self._fingerprint = digest.hexdigest()
        return encoder


def _is_whole(label: Any) -> bool:
    if isinstance(label, Tensor | np.ndarray):
        tensor = torch.as_tensor(label)
        return tensor.numel() == 1 and not (tensor.is_floating_point() or tensor.dtype == torch.bool)
    return isinstance(label, int | np.integer) and not isinstance(label, bool)
