"""What the conditions of data are to a network: declared from the shapes of their values, and checked against them."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from unitgain.arch import NetworkSpec
from unitgain.arch.conditions import Condition, Image, Scalar, Tokens, Vector
from unitgain.data.conditions import Shape
from unitgain.data.dataset import Dataset
from unitgain.serial import suggest
from unitgain.train.rules import LABEL_DROPOUT

MEASURED, AT_ONCE = 512, 32  # rows that scales are measured on


def declared(
    dataset: Dataset, names: Sequence[str] | None = None, known: Sequence[Condition] = ()
) -> tuple[Condition, ...]:
    """Declarations of what the data have beside images and labels, in its order.

    A number per row is a `Scalar`, whose scale is the standard deviation of up to 512 rows; a vector a `Vector`; what
    has channels and as many sides as the images an `Image`, whose mean and deviation are measured likewise; any other
    sequence of vectors `Tokens`. A tenth of each is dropped in training, so that it can guide.

    Args:
        dataset: what they are of.
        names: of those that are wanted; None for all.
        known: declarations that are kept as they are, where the data have a condition of that name.

    Raises:
        ValueError: if the data have none of a name, or the shape of one is none that a network can be told.
    """
    shapes, kept = dataset.condition_shapes, {one.name: one for one in known}
    check_there(dataset, names)
    wanted = shapes if names is None else names
    return tuple(kept.get(name) or _declared(dataset, name, shapes[name]) for name in wanted)


def check_told(network: NetworkSpec, dataset: Dataset, names: Sequence[str] | None = None) -> None:
    """Check that the data have what the network is told, and nothing else that is not left out on purpose.

    Args:
        network: declares its conditions.
        dataset: to be trained on.
        names: of conditions of the data that are wanted; None for all.

    Raises:
        ValueError: if the data lack one, have it in another shape, or have one that the network does not know.
    """
    shapes, known = dataset.condition_shapes, {one.name: one for one in network.conditions}
    where = f"data {dataset.name}"
    for name, condition in known.items():
        if name not in shapes:
            there = ", ".join(shapes) or "none"
            raise ValueError(
                f"{where} have no condition {name!r}, which the network is told (they have: {there}): give data with "
                f"it, or train a network without it (--conditions {','.join(set(known) & set(shapes)) or 'none'})"
            )
        if not fits(condition, shapes[name], network.size):
            raise ValueError(
                f"{where}: values of {name!r} are {show_shape(shapes[name])}, the network's {condition.kind} takes "
                f"{condition.shape} for images of {'x'.join(map(str, network.size))}"
            )
    unknown = [name for name in shapes if name not in known]
    if unknown and (names is None or set(unknown) & set(names)):
        raise ValueError(
            f"{where} have {', '.join(unknown)}, which the network does not know: declare it "
            f"(unitgain.train.fit does), or leave it out on purpose: --conditions {','.join(known) or 'none'}"
        )


def check_there(dataset: Dataset, names: Sequence[str] | None) -> None:
    """Raise `ValueError` if the data have no condition of one of these names."""
    shapes = dataset.condition_shapes
    for name in names or ():
        if name not in shapes:
            there = suggest(name, shapes) if shapes else "they have none: leave --conditions out"
            raise ValueError(f"data {dataset.name} have no condition {name!r}; {there}")


def fits(condition: Condition, shape: Shape, size: Sequence[int]) -> bool:
    """Whether values of a shape are those of a condition of a network for images of a size."""
    match condition:
        case Vector():
            return shape == (condition.dim,)
        case Scalar():
            return shape == ()
        case Image():
            sides = shape[1:]
            smaller = len(sides) == len(size) and all(
                a is not None and 0 < a <= b for a, b in zip(sides, size, strict=True)
            )
            return smaller and shape[0] == condition.channels
        case Tokens():
            return len(shape) == 2 and shape[1] == condition.dim
    raise AssertionError(condition)


def show_shape(shape: Shape) -> str:
    """The shape of a value as messages have it."""
    return "[" + ", ".join(["N", *("T" if size is None else str(size) for size in shape)]) + "]"


def _declared(dataset: Dataset, name: str, shape: Shape) -> Condition:
    dims = len(dataset.shape) - 1
    match shape:
        case ():
            return Scalar(name=name, dropout=LABEL_DROPOUT, scale=_measured(dataset, name)[1])
        case (int() as dim,) if dim > 1:
            return Vector(name=name, dropout=LABEL_DROPOUT, dim=dim)
        case (int() as channels, *sides) if len(sides) == dims and None not in sides:
            mean, std = _measured(dataset, name)
            return Image(name=name, dropout=LABEL_DROPOUT, channels=channels, mean=mean, std=std)
        case (_, int() as dim):
            return Tokens(name=name, dropout=LABEL_DROPOUT, dim=dim)
    raise ValueError(
        f"data {dataset.name}: values of {name!r} are {show_shape(shape)}, which is none of: an amount [N], a vector "
        f"[N, dim] of 2 numbers or more, an image {show_shape((3, *dataset.shape[1:]))} or smaller, tokens [N, T, dim]"
    )


def _measured(dataset: Dataset, name: str) -> tuple[float, float]:
    """Mean and standard deviation of the values, the mean to a thousandth of that; 1 where there is no deviation."""
    count, total, square = 0, 0.0, 0.0
    for value in _some(dataset, name):
        count, total, square = count + value.numel(), total + float(value.sum()), square + float(value.square().sum())
    mean = total / max(count, 1)
    std = float(f"{math.sqrt(max(square / max(count, 1) - mean**2, 0)):.3g}") or 1.0
    return round(mean, 3 - math.floor(math.log10(std))), std


def _some(dataset: Dataset, name: str) -> Iterator[Tensor]:
    """Values that are there of rows that are spread over the data, float64."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MEASURED)).round().astype(np.int64))
    for first in range(0, len(rows), AT_ONCE):
        told = dataset.conditions_of(rows[first : first + AT_ONCE])
        masks: Mapping[str, Tensor] = told.masks
        value = told.values[name].double()
        yield value[masks[name]] if name in masks else value
