"""Values of conditions: what the images of a batch are to show, beside or instead of a class."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unitgain.arch.conditions import Condition, Image, Scalar, Tokens, Vector
from unitgain.arch.spec import NetworkSpec
from unitgain.serial import suggest

Classes = Int[Tensor, " n"] | Float[Tensor, "n label_dim"]
Rows = slice | Tensor
T = TypeVar("T")
SOME_TOKENS = 64  # where nothing says how many there are


class Conditions:
    """Values of a batch's conditions, in place of its label: `denoiser(x, sigma, Conditions(label, age=age))`.

    Args:
        label: classes as int64 `[N]`, or float `[N, label_dim]`, or None.
        masks: by the name of a condition, bool: `[N]`, which samples have it; of tokens `[N, T]`, which tokens are
            there. All by default.
        values: by the name of a condition: `[N, dim]` of a vector, `[N]` of a scalar, `[N, C, *size]` of an image,
            `[N, T, dim]` of tokens. What is left out is absent for all samples.

    Attributes:
        keeps: whether what networks make of them is kept for the next noise level, as prepared networks do.

    Raises:
        ValueError: if a value is no tensor of rows, values differ in the number of samples, or a mask has no value, is
            not bool, or of another shape.

    They are not to be changed in place: what is made of them is made once, where the same values come again with
    another noise level.
    """

    def __init__(
        self, label: Classes | None = None, masks: Mapping[str, Tensor] | None = None, **values: Tensor
    ) -> None:
        for name, value in {**values, **({} if label is None else {"label": label})}.items():
            if not isinstance(value, Tensor) or not value.ndim:
                given = type(value).__name__ if not isinstance(value, Tensor) else "a tensor without sides"
                raise ValueError(f"condition {name!r} is {given}: expected a tensor with a row per sample")
        self.label, self.values, self.masks = label, values, dict(masks or {})
        self.keeps = False
        self._kept: dict[Hashable, Any] = {}
        lengths = {name: len(value) for name, value in values.items()}
        lengths |= {} if label is None else {"label": len(label)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"conditions of different numbers of samples: {lengths}")
        for name, mask in self.masks.items():
            if name not in values:
                raise ValueError(f"a mask for {name!r}, of which there are no values; {suggest(name, values)}")
            allowed = [values[name].shape[:1], values[name].shape[:2]]
            if mask.dtype != torch.bool or mask.shape not in allowed:
                raise ValueError(
                    f"the mask of {name!r} is {mask.dtype} of shape {list(mask.shape)}: expected bool [N], or of "
                    f"tokens [N, T], for values of shape {list(values[name].shape)}"
                )

    def __len__(self) -> int:
        return next((len(value) for value in self._tensors()), 0)

    def __getitem__(self, rows: Rows) -> "Conditions":
        """Those of some samples."""
        return self._map(lambda value: value[rows])

    def with_label(self, label: Classes | None) -> "Conditions":
        """The same with another label."""
        return Conditions(label, self.masks, **self.values)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives of these values, made when it is first asked for under this key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def keeping(self) -> "Conditions":
        """Itself, from now on with what networks make of it."""
        self.keeps = True
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Conditions":
        """The same on a device; itself if it is there."""
        if all(value.device == torch.device(device) for value in self._tensors()):
            return self
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pinned(self) -> "Conditions":
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def mirrored(self, which: Bool[Tensor, " n"], names: Iterable[str]) -> "Conditions":
        """The same with the images of these names mirrored, left to right, in some samples."""
        values = dict(self.values)
        for name in set(names) & set(values):
            values[name] = values[name].clone()
            values[name][which] = values[name][which].flip(-1)
        return Conditions(self.label, self.masks, **values)

    def without(self, name: str, which: Bool[Tensor, " n"]) -> "Conditions":
        """The same with the condition of this name absent in some samples."""
        value = self.values[name]
        mask = self.masks.get(name, torch.ones(len(value), dtype=torch.bool, device=value.device))
        there = ~which.to(mask.device)
        masks = {**self.masks, name: mask & (there if mask.ndim == 1 else there[:, None])}
        return Conditions(self.label, masks, **self.values)

    def split(self, size: int) -> "list[Conditions]":
        """Those of so many samples each, in their order: the same ones whenever they are asked for."""
        return self.once(("split", size), lambda: [self[start : start + size] for start in range(0, len(self), size)])

    def not_finite(self) -> tuple[str, int] | None:
        """A condition and the first sample with NaN or infinite values of it that are not masked; None without."""
        for name, value in self.values.items():
            broken = ~torch.isfinite(value)
            if name in self.masks:
                mask = self.masks[name]
                broken = broken & mask[(..., *[None] * (value.ndim - mask.ndim))]
            if broken.any():
                return name, int(broken.reshape(len(value), -1).any(1).nonzero()[0])
        return None

    def only(self, names: Iterable[str]) -> "Conditions":
        """The same without those of other names; "label" is that of the label."""
        names = set(names)
        return Conditions(
            self.label if "label" in names else None,
            {name: mask for name, mask in self.masks.items() if name in names},
            **{name: value for name, value in self.values.items() if name in names},
        )

    def checked(self, spec: NetworkSpec, batch: int) -> "Conditions":
        """The same as a network takes them: float32, with a mask for each, zeros where that says so.

        Labels stay as they are.

        Raises:
            ValueError: if a name is none of the network's, or a shape does not fit the network or `batch`.
        """
        known = {condition.name: condition for condition in spec.conditions}
        for name in self.values:
            if name not in known:
                raise ValueError(f"the network has no condition {name!r}; {suggest(name, known)}")
        values, masks = {}, {}
        for name, value in self.values.items():
            _check_shape(known[name], value, batch, spec.dims)
            value, mask = value.float(), self.masks.get(name)
            shape = value.shape[:2] if isinstance(known[name], Tokens) else value.shape[:1]
            mask = torch.ones(shape, dtype=torch.bool, device=value.device) if mask is None else mask
            mask = mask[:, None].expand(shape) if mask.ndim < len(shape) else mask
            if isinstance(known[name], Tokens) and not value.shape[1]:  # so that every layer has a part in the result
                value, mask = value.new_zeros(len(value), 1, value.shape[2]), mask.new_zeros(len(value), 1)
            values[name] = value.where(mask[(..., *[None] * (value.ndim - mask.ndim))], 0.0)
            masks[name] = mask
        return Conditions(self.label, masks, **values)

    def _tensors(self) -> list[Tensor]:
        return [*([] if self.label is None else [self.label]), *self.values.values(), *self.masks.values()]

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Conditions":
        label = None if self.label is None else function(self.label)
        masks = {name: function(mask) for name, mask in self.masks.items()}
        mapped = Conditions(label, masks, **{name: function(value) for name, value in self.values.items()})
        mapped.keeps = self.keeps
        return mapped


def _check_shape(condition: Condition, value: Tensor, batch: int, dims: int) -> None:
    shape = tuple(value.shape)
    fits = bool(shape) and shape[0] == batch
    match condition:
        case Vector():
            fits = fits and shape[1:] == (condition.dim,)
        case Scalar():
            fits = fits and len(shape) == 1
        case Image():
            fits = fits and len(shape) == 2 + dims and shape[1] == condition.channels and all(shape)
        case Tokens():
            fits = fits and len(shape) == 3 and shape[2] == condition.dim
    if not fits:
        raise ValueError(
            f"the condition {condition.name!r} has values of shape {list(shape)}: expected {condition.shape}, "
            f"with N = {batch}"
        )


def placeholder(
    spec: NetworkSpec, label: Classes | None, batch: int, device: torch.device | str | None = None
) -> Classes | Conditions | None:
    """Something of everything that a network can be told, to count and to measure by; zeros, 64 tokens.

    Args:
        spec: of the network.
        label: of `batch` samples, or None.
        batch: samples.
        device: of the values.

    Returns:
        The label itself, if there are no conditions beside it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for one in spec.conditions:
        match one:
            case Vector():
                shapes[one.name] = (one.dim,)
            case Scalar():
                shapes[one.name] = ()
            case Image():
                shapes[one.name] = (one.channels, *spec.size)
            case Tokens():
                shapes[one.name] = (SOME_TOKENS, one.dim)
    if not shapes:
        return label
    values = {name: torch.zeros(batch, *shape, device=device) for name, shape in shapes.items()}
    return Conditions(label, None, **values)


Told = Int[Tensor, " n"] | Float[Tensor, "n label_dim"] | Conditions | None  # what a network gets: shares of classes
