"""Values of conditions in memory: checked, of one shape but for the number of tokens, and put together for a batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from unitgain.arch.conditions import check_name
from unitgain.arch.values import Conditions
from unitgain.data.settings import ConditionKind, dimensions_of, known_kind

Shape = tuple[int | None, ...]  # of one value; None for a length that differs
Values = Any  # an array `[N, ...]`, or a sequence of N arrays, numbers, or None where there is no value


@dataclass(frozen=True, eq=False)
class Column:
    """The values of one condition.

    Attributes:
        shape: of a value.
        values: all of them as one tensor `[N, *shape]`, or one each; None for what is missing.
    """

    shape: Shape
    values: Tensor | list[Tensor | None]

    @classmethod
    def of(
        cls, name: str, values: Values, count: int, data: str, sides: int = 0, kind: ConditionKind | None = None
    ) -> "Column":
        """Check the values of a data set.

        Args:
            name: of the condition.
            values: of all rows: an array, or a sequence of arrays with None where there is no value. 8-bit images are
                pixels. Tokens may be a list of vectors, and a list of none.
            count: of rows.
            data: name of the data set.
            sides: of the images, signals or volumes of the data.
            kind: of the values; None where their shapes tell it.

        Raises:
            ValueError: if the name cannot be that of a condition, there are not as many values as rows, their shapes
                differ in more than the number of tokens or are not those of their kind, or one is not finite; the
                message names the first row.
        """
        check_name(name)
        where = f"data {data}: condition {name!r}"
        if len(values) != count:
            raise ValueError(
                f"{where} has {len(values)} values for {count} rows: give one per row, None if it has none"
            )
        if isinstance(values, Tensor | np.ndarray):
            whole = _tensor(values, where)
            _check_finite(whole, where)
            return cls(tuple(whole.shape[1:]), whole)._of_kind(kind, sides, where)
        each = [None if one is None else _tensor(one, f"{where}, row {row}") for row, one in enumerate(values)]
        dim = next((one.shape[1] for one in each if one is not None and one.ndim == 2), None)
        if dim is not None:  # an empty list is no tokens
            each = [one.new_zeros(0, dim) if one is not None and one.shape == (0,) else one for one in each]
        for row, one in enumerate(each):
            if one is not None and not torch.isfinite(one).all():
                raise ValueError(f"{where}: row {row} holds NaN or infinite values: repair it, or give None for it")
        shape = _common([None if one is None else one.shape for one in each], where)
        return cls(shape, each)._of_kind(kind, sides, where)

    def _of_kind(self, kind: ConditionKind | None, sides: int, where: str) -> "Column":
        """The same as values of a kind: tokens of any number, images with channels.

        Raises:
            ValueError: if that cannot be.
        """
        shape, values = self.shape, self.values
        if kind == "image" and len(shape) == sides:
            shape = (1, *shape)
            several = isinstance(values, Tensor)
            values = values[:, None] if several else [None if one is None else one[None] for one in values]
        if kind is not None and (len(shape) != dimensions_of(kind, sides) or (kind != "tokens" and None in shape)):
            raise ValueError(f"{where}: values of shape {list(self.shape)}, which no {kind} of these data has")
        return Column((None, *shape[1:]) if kind == "tokens" else shape, values)

    def of_rows(self, rows: Tensor) -> tuple[Float[Tensor, "n ..."], Tensor | None]:
        """The values of these rows, float32, and which are there; None for all."""
        if isinstance(self.values, Tensor):
            value = as_seen(self.values[rows])
            return value, value.new_ones(value.shape[:2], dtype=torch.bool) if self.shape[:1] == (None,) else None
        return together([self.values[row] for row in rows.tolist()], self.shape)


def name_and_kind(text: str) -> tuple[str, ConditionKind | None]:
    """A condition as `NAME` or `NAME:KIND`.

    Raises:
        ValueError: if the kind is none.
    """
    name, _, kind = text.partition(":")
    return name, known_kind(kind, text)


def update_digest(digest: Any, columns: Mapping[str, Column], rows: Tensor) -> None:
    """Add the values of some rows to a digest of `hashlib` that tells data from others."""
    for name, column in columns.items():
        value, mask = column.of_rows(rows)
        digest.update(json.dumps([name, column.shape]).encode())
        for tensor in (value, mask):
            digest.update(b"" if tensor is None else tensor.contiguous().numpy().tobytes())


def rows_of(columns: Mapping[str, Column], indices: NDArray[np.int64]) -> Conditions:
    """What rows have of columns, by their names: as `unitgain.data.Dataset.conditions_of` has it."""
    rows = torch.from_numpy(indices)
    parts = {name: column.of_rows(rows) for name, column in columns.items()}
    masks = {name: mask for name, (_, mask) in parts.items() if mask is not None}
    return Conditions(masks=masks, **{name: value for name, (value, _) in parts.items()})


def together(values: Sequence[Tensor | None], shape: Shape) -> tuple[Float[Tensor, "n ..."], Bool[Tensor, "n ..."]]:
    """Values of a batch as one tensor, float32, and which of them are there.

    Args:
        values: one per sample; None for what is missing, which becomes zeros.
        shape: of a value. Where its first is None, values are sequences, padded to the longest.

    Returns:
        Values `[N, *shape]`, and a mask `[N]`; `[N, T, ...]` and a mask `[N, T]` of sequences.
    """
    there = torch.tensor([value is not None for value in values])
    if shape[:1] != (None,):
        sizes = [size or 0 for size in shape]
        return torch.stack([torch.zeros(sizes) if value is None else as_seen(value) for value in values]), there
    lengths = torch.tensor([0 if value is None else len(value) for value in values])
    out = torch.zeros(len(values), int(lengths.max()), *[size or 0 for size in shape[1:]])
    for place, value in enumerate(values):
        if value is not None:
            out[place, : len(value)] = as_seen(value)
    return out, torch.arange(out.shape[1]) < lengths[:, None]


def as_seen(value: Tensor) -> Float[Tensor, "..."]:
    """As networks see it: float32, with 8-bit pixels from -1 to 1."""
    return value.float() / 127.5 - 1 if value.dtype == torch.uint8 else value.float()


def _tensor(value: Any, where: str) -> Tensor:
    parts = value if isinstance(value, list | tuple) else ()
    try:
        several = any(isinstance(one, Tensor | np.ndarray) for one in parts)
        tensor = torch.stack([torch.as_tensor(one) for one in parts]) if several else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        lengths = sorted({len(one) for one in parts if isinstance(one, list | tuple) or getattr(one, "ndim", 0)})
        if len(lengths) > 1:
            raise ValueError(f"{where} is ragged, with rows of {lengths} numbers: each token has as many") from error
        raise ValueError(
            f"{where} is {type(value).__name__}: a value must be a number or an array of numbers, or a list of these"
        ) from error
    if tensor.is_complex():
        raise ValueError(f"{where}: complex numbers; give real and imaginary parts as two")
    return tensor


def _check_finite(values: Tensor, where: str) -> None:
    broken = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    if broken.any():
        raise ValueError(
            f"{where}: {int(broken.sum())} of {len(values)} values hold NaN or infinite values, the first is row "
            f"{int(broken.nonzero()[0])}: repair them, or give None where there is no value"
        )


def _common(shapes: Sequence[torch.Size | None], where: str) -> Shape:
    """The shape of all values: None first where they differ in that alone.

    Raises:
        ValueError: if they differ otherwise, or there is no value at all.
    """
    known = {row: tuple(shape) for row, shape in enumerate(shapes) if shape is not None}
    if not known:
        raise ValueError(f"{where} has no value in any row: leave it out")
    first, shape = next(iter(known.items()))
    for row, other in known.items():
        if other[1:] != shape[1:] or len(other) != len(shape):
            raise ValueError(
                f"{where}: row {first} has a value of shape {list(shape)}, row {row} one of {list(other)}: they may "
                "differ in the number of tokens, [T, dim], alone"
            )
    if len({other[:1] for other in known.values()}) == 1:
        return shape
    if len(shape) != 2:
        tokens = "; of tokens [T, dim], vectors, the number may differ" if len(shape) == 1 else ""
        raise ValueError(
            f"{where}: values of {len(shape)} dimensions must all have one shape, such as {list(shape)}{tokens}"
        )
    return None, *shape[1:]
