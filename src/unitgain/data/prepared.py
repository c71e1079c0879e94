"""Prepared data, memory-mapped: any row at once, nothing read that is not asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from unitgain.arch.values import Conditions
from unitgain.data.arrow import map_batches
from unitgain.data.conditions import together
from unitgain.data.dataset import Dataset, Labels
from unitgain.data.encoder import ArrayEncoder, Encoder, PixelEncoder, encoder_from_dict
from unitgain.data.fit import read_pixels
from unitgain.data.manifest import MANIFEST, ConditionColumn, DataError, Manifest, Shard, read_manifest
from unitgain.extras import require


class PreparedDataset(Dataset):
    """What `unitgain data prepare` or `encode` made, as a data set.

    Args:
        folder: the prepared folder.
        encoder: how stored values become what the network sees; by default the official one for pixels, and that of
            the manifest for latents and arrays.

    Attributes:
        name: the path.
        manifest: what `unitgain.json` says.
        labels: int64 `[N]`, or None.
        classes: names of the classes, or None.

    Raises:
        FileNotFoundError: if there is no prepared data.
        DataError: if a file is missing or is not what the manifest says.
        ImportError: if pyarrow is missing.
    """

    def __init__(self, folder: Path | str, encoder: Encoder | None = None) -> None:
        self.folder = Path(folder)
        self.name = str(folder)
        self.manifest = read_manifest(self.folder)
        self.encoder = encoder or _default_encoder(self.manifest, self.folder / MANIFEST)
        self.classes = self.manifest.classes
        self._open()

    def _open(self) -> None:
        self._parts = [_read_shard(self.folder, shard, self.manifest) for shard in self.manifest.shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        for column in self.manifest.conditions:
            if not sum(_ends(part.conditions[column.name], self.folder)[-1] for part in self._parts):
                raise DataError(f"{self.folder}: the condition {column.name!r} has no value in any row: cannot be")
        self.labels = None
        if self.classes is not None:
            self.labels = torch.from_numpy(np.concatenate([part.labels for part in self._parts]))
        if self.manifest.kind != "image":
            dtype = np.dtype(str(self.dtype).removeprefix("torch."))
            self._arrays = [_fixed(part.values, self.stored_shape, dtype, self.folder) for part in self._parts]

    def with_encoder(self, encoder: Encoder) -> "PreparedDataset":
        """The same rows, not opened again, with another encoder."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), encoder=encoder)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "encoder": self.encoder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def latents(self) -> bool:
        """Whether these are latents rather than pixels."""
        return self.manifest.kind == "latent"

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of a row as it is stored: channels, height, width; of arrays channels and one to three sides."""
        return self.manifest.channels, *self.manifest.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image as the network sees it."""
        channels, *size = self.stored_shape
        return channels // 2 if self.latents else channels, *size

    @property
    def dtype(self) -> torch.dtype:
        """Of a row as it is stored: uint8 for pixels, float32 for latents, that of the manifest for arrays."""
        if self.manifest.array is not None:
            return getattr(torch, self.manifest.array.dtype)
        return torch.float32 if self.latents else torch.uint8

    @property
    def fingerprint(self) -> str:
        """Of the bytes, the classes and the encoder of latents and arrays."""
        return self.manifest.fingerprint

    def key(self, index: int) -> str:
        """Name of a row in the source."""
        shard, row = self._place(index)
        return self._parts[shard].keys[row].as_py()

    def stored(self, index: int) -> bytes:
        """The bytes of a row: an encoded image, or the numbers of latents and arrays."""
        shard, row = self._place(index)
        return self._parts[shard].values[row].as_py()

    def stored_condition(self, column: ConditionColumn, index: int) -> bytes:
        """The bytes of a row's value of a condition; none if it has no value."""
        shard, row = self._place(index)
        return self._parts[shard].conditions[column.name][row].as_py()

    def rows(self, indices: NDArray[np.int64], out: Tensor | None = None) -> tuple[Shaped[Tensor, "n c *size"], Labels]:
        """Rows as they are stored, and their labels.

        Args:
            indices: of the rows.
            out: where to put them, `[n, *stored_shape]`; a new tensor by default.

        Raises:
            DataError: if a row cannot be decoded.
        """
        if out is None:
            out = torch.empty((len(indices), *self.stored_shape), dtype=self.dtype)
        array = out.numpy()
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        places = indices - self._starts[shards]
        for position, (shard, row) in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
            decode = self.manifest.kind == "image"
            array[position] = self._pixels(shard, row) if decode else self._arrays[shard][row]
        return out, self.labels_of(indices)

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """As in `Dataset`."""
        return {column.name: column.shape for column in self.manifest.conditions}

    def conditions_of(self, indices: NDArray[np.int64]) -> Conditions:
        """As in `Dataset`."""
        places = [self._place(index) for index in indices.tolist()]
        values, masks = {}, {}
        for column in self.manifest.conditions:
            cells = [self._cell(column, shard, row) for shard, row in places]
            values[column.name], masks[column.name] = together(cells, column.shape)
        return Conditions(masks=masks, **values)

    def count(self, column: ConditionColumn) -> int:
        """How many rows have a value of a condition."""
        return sum(int((np.diff(_ends(part.conditions[column.name], self.folder)) > 0).sum()) for part in self._parts)

    def _cell(self, column: ConditionColumn, shard: int, row: int) -> Tensor | None:
        """A value; None if there is none."""
        data = self._parts[shard].conditions[column.name][row].as_buffer()
        if not data.size:
            return None
        array = np.frombuffer(data, np.dtype(column.dtype).newbyteorder("<")).copy()
        sides = [-1 if side is None else side for side in column.shape]
        return torch.from_numpy(array.reshape(sides))

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"data {self.name}: row {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _pixels(self, shard: int, row: int) -> NDArray[np.uint8]:
        channels, height, width = self.stored_shape
        data = self._parts[shard].values[row].as_buffer()
        try:
            pixels = read_pixels(data, channels, (width, height))
        except Exception as error:  # the decoders raise whatever they like
            key = self._parts[shard].keys[row].as_py()
            where = f"data {self.name}: row {row + int(self._starts[shard])} ({key})"
            raise DataError(f"{where} cannot be decoded: {error}; `unitgain data check` lists all such rows") from error
        return pixels.transpose(2, 0, 1)


def measured_encoder(manifest: Manifest) -> PixelEncoder:
    """The encoder that gives prepared pixels mean 0 and standard deviation 0.5, over all channels.

    Raises:
        ValueError: if these are no pixels, or all of them are equal.
    """
    if manifest.kind != "image":
        raise ValueError("latents and arrays are standardized per channel, as their manifest says")
    return PixelEncoder.measured(manifest.mean, manifest.std)


def _default_encoder(manifest: Manifest, path: Path) -> Encoder:
    if manifest.kind == "image":
        return PixelEncoder()
    what = "latents" if manifest.kind == "latent" else "arrays"
    if manifest.encoder is None:
        raise DataError(f"{path} is damaged: it has {what}, and no encoder that made them")
    try:
        encoder = encoder_from_dict(manifest.encoder)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if isinstance(encoder, PixelEncoder) or len(encoder.mean) != len(manifest.mean):
        raise DataError(f"{path} is damaged: its encoder is none for {what} of {len(manifest.mean)} channels")
    if (encoder.numbers if isinstance(encoder, ArrayEncoder) else None) != manifest.array:
        raise DataError(f"{path} is damaged: its encoder is for other values than its {what} have")
    return encoder


@dataclass(frozen=True)
class _Part:
    """The mapped columns of a shard."""

    values: Any
    labels: NDArray[np.int64]
    keys: Any
    conditions: Mapping[str, Any]


def _read_shard(folder: Path, shard: Shard, manifest: Manifest) -> _Part:
    """The mapped columns of a shard, checked against the manifest."""
    pa = require("pyarrow", extra="data")
    path, kind = folder / shard.file, manifest.kind
    if not path.is_file() or path.stat().st_size != shard.bytes:
        raise DataError(f"{path} is missing or was cut short: prepare the data again")
    types = {kind: pa.binary(), "label": pa.int64(), "key": pa.string()}
    types |= {column.name: pa.binary() for column in manifest.conditions}
    if manifest.classes is None:
        del types["label"]
    try:
        batches = map_batches(path, list(types))
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    if [batch.num_rows for batch in batches] != [shard.rows]:
        raise DataError(f"{path} does not hold {shard.rows} rows in one piece, as the manifest says")
    (batch,) = batches
    for name, wanted in types.items():
        column = batch.column(name)
        if column.type != wanted or column.null_count:
            raise DataError(f"{path}: column {name!r} is {column.type}, with {column.null_count} nulls; not {wanted}")
    _ends(batch.column(kind), path)
    for column in manifest.conditions:
        sizes = np.diff(_ends(batch.column(column.name), path))
        fits = sizes % column.item == 0 if column.tokens else (sizes == 0) | (sizes == column.item)
        if not fits.all():
            row = int(np.flatnonzero(~fits)[0])
            raise DataError(f"{path}: row {row} has {sizes[row]} bytes of the condition {column.name!r}: cannot be")
    conditions = {column.name: batch.column(column.name) for column in manifest.conditions}
    return _Part(batch.column(kind), _labels(batch, manifest, path), batch.column("key"), conditions)


def _ends(column: Any, path: Path) -> NDArray[np.int32]:
    """Where the rows of a mapped column begin and end."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32, count=len(column) + 1)
    if ends[0] != 0 or ends[-1] != (0 if data is None else data.size):
        raise DataError(f"{path} is damaged: its rows do not begin and end where their bytes do")
    return ends


def _labels(batch: Any, manifest: Manifest, path: Path) -> NDArray[np.int64]:
    if manifest.classes is None:
        return np.zeros(0, np.int64)
    labels = batch.column("label").to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= len(manifest.classes)))
    if len(wrong):
        first = int(wrong[0])
        known = f"there are {len(manifest.classes)} classes"
        raise DataError(f"{path}: row {first} has label {labels[first]}, but {known}; {len(wrong)} such rows in all")
    return labels


def _fixed(column: Any, shape: Sequence[int], dtype: np.dtype, folder: Path) -> NDArray[Any]:
    """A mapped column of rows of equal size as one array `[rows, *shape]`, without a copy."""
    size = dtype.itemsize * math.prod(shape)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    if not np.array_equal(ends, np.arange(len(column) + 1) * size):
        raise DataError(f"{folder}: rows are not {tuple(shape)} {dtype} each, as its manifest says")
    return np.frombuffer(data, dtype, count=len(column) * math.prod(shape)).reshape(len(column), *shape)
