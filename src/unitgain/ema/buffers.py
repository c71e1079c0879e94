"""Buffers of a module: which of them an average averages, and which it takes as they are."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Buffers = Literal["statistics", "copy", "average"]
STATISTICS = frozenset({"running_mean", "running_var", "running_std"})  # as normalization layers call them
# Vectors of power iterations, which go with the weights as they are: nothing to average, nothing to be warned of.
COPIED = frozenset({"_u", "_v", "weight_u", "weight_v"})


def is_statistic(name: str) -> bool:
    """Whether a buffer is a running statistic of a normalization layer, by the name that these give it."""
    return name.rpartition(".")[2] in STATISTICS


def is_number(tensor: Tensor) -> bool:
    """Whether a tensor has values that can be averaged: floating or complex ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_averaged(name: str, buffer: Tensor, buffers: Buffers) -> bool:
    """Whether a buffer is averaged, where `buffers` says so of all."""
    return is_number(buffer) and (buffers == "average" or (buffers == "statistics" and is_statistic(name)))


def passing_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that do not persist: no file holds them."""
    parts: list[tuple[str, Any]] = list(cast(Any, module).named_modules())
    return {
        f"{path}.{name}".lstrip(".")
        for path, part in parts
        for name in part._non_persistent_buffers_set  # which torch tells nowhere else
    }


class Unknown:
    """Floating buffers of which nobody knows what they are: warns once of those that training changes.

    Constants (frequencies, masks, positions) are the same copied or averaged: what counts is a change. It is looked for
    after 2, 4, 8, ... updates, for a comparison has the processor wait for the device.

    Args:
        names: of floating buffers that are copied.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(name for name in names if name.rpartition(".")[2] not in COPIED)
        self._updates = 0

    def due(self) -> bool:
        """Count an update; whether to look."""
        self._updates += 1
        return bool(self.names) and self._updates > 1 and not self._updates & (self._updates - 1)

    def look(self, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
        """Compare values of one update with those of the next."""
        changed = [name for name in self.names if not torch.equal(before[name], now[name].to(before[name].device))]
        if not changed:
            return
        self.names = []
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        warnings.warn(
            f"training changes the buffers {shown}, and what they are is not known: an average gets them as they are "
            'at its last update. Say buffers="average" to average them as parameters are, or buffers="copy" if this '
            "is right",
            stacklevel=4,
        )
