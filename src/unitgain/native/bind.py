"""C functions as Python calls them: declared once, with what is laid out in common, and how to do without."""

import ctypes
import math
from collections.abc import Mapping
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unitgain.native.build import library
from unitgain.native.memory import images

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Numbers of types, as C has them."""

FOREIGN = "this network was prepared for another processor or compiler: prepare it here"


class Array(Structure):
    """Where numbers lie, and of which type they are; images may have half the height and width of others."""

    _fields_ = [("at", c_void_p), ("type", c_int32), ("halved", c_int32)]


class Addend(Structure):
    """What is added to a result, if it is anywhere."""

    _fields_ = [("main", Array), ("share", c_float), ("limit", c_float)]


class Sum(NamedTuple):
    """What comes after a convolution: `share` times `main`, added, and all clamped to [-limit, limit], in `dtype`.

    Pixels of `main` are doubled if it is half as high and wide as what it is added to.
    """

    main: Float[Tensor, "n c h w"]
    share: float
    limit: float
    dtype: torch.dtype


class Binding:
    """A library written in C.

    Where it cannot be had, `library` is None, and who calls it does without. Its source says the sizes of structs in
    constants `unitgain_sizeof_NAME`, and what else depends on the processor in others (`constant`).

    Args:
        name: of the source.
        functions: by their name there, without `unitgain_`: the type of the result, and of each argument.
        structs: that both sides lay out, by their name there.
    """

    def __init__(
        self, name: str, functions: Mapping[str, tuple[type | None, ...]], structs: Mapping[str, type[Structure]]
    ) -> None:
        self.name, self.functions, self.structs = name, functions, structs
        self._constants: dict[str, int] = {}

    @cached_property
    def library(self) -> ctypes.CDLL | None:
        """The library with its functions typed, compiled if it is not there yet.

        Raises:
            RuntimeError: if C and Python lay a struct out in different sizes.
        """
        bound = library(self.name)
        if bound is None:
            return None
        for name, struct in self.structs.items():
            size = c_int64.in_dll(bound, f"unitgain_sizeof_{name}").value
            if size != ctypes.sizeof(struct):
                raise RuntimeError(
                    f"struct {name} has {size} bytes in {self.name}.c, {ctypes.sizeof(struct)} in Python"
                )
        for name, (result, *arguments) in self.functions.items():
            function = getattr(bound, f"unitgain_{name}")
            function.restype, function.argtypes = result, arguments
        return bound

    def constant(self, name: str) -> int:
        """What the library calls `unitgain_NAME`; 0 where there is no library."""
        if self.library is None:
            return 0
        if name not in self._constants:
            self._constants[name] = c_int64.in_dll(self.library, f"unitgain_{name}").value
        return self._constants[name]

    def need(self, **layout: int) -> ctypes.CDLL:
        """The library, for weights that were laid out for these constants: networks may come from other machines.

        Raises:
            RuntimeError: if it is not there, or has others.
        """
        if self.library is None or any(self.constant(name) != value for name, value in layout.items()):
            raise RuntimeError(FOREIGN)
        return self.library

    def takes(self, *dtypes: torch.dtype) -> bool:
        """Whether it is there and reads and writes images of these types; float16 wants a processor with F16C."""
        known = self.library is not None and all(dtype in TYPES for dtype in dtypes)
        return known and (torch.float16 not in dtypes or bool(self.constant("halves")))

    def laid(self, x: Tensor) -> Tensor:
        """Images where C can read them, channels-last.

        Raises:
            ValueError: if they are not on the CPU.
            RuntimeError: if this machine has no C for their type.
        """
        check_place(x)
        self._check_type(x.dtype)
        return x.contiguous(memory_format=torch.channels_last)

    def empty(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Images of this size, channels-last, with any contents.

        Raises:
            RuntimeError: if this machine has no C for their type.
        """
        self._check_type(dtype)
        return images(size, dtype)

    def _check_type(self, dtype: torch.dtype) -> None:
        if not self.takes(dtype):
            raise RuntimeError(FOREIGN)

    def laid_sum(self, after: Sum | None) -> Sum | None:
        """The same of what is added."""
        return None if after is None else after._replace(main=self.laid(after.main))


def check_place(x: Tensor) -> None:
    """Raise `ValueError` unless `x` is where C can read it."""
    if x.device.type != "cpu":
        raise ValueError(
            f"images are on {x.device}, and this network was prepared for CPUs: move the one that it was made from, "
            "and prepare that"
        )


def address(x: Tensor | None) -> int | None:
    """Where a tensor lies."""
    return None if x is None else x.data_ptr()


def padded(rows: Float[Tensor, "r c"], block: int) -> Float[Tensor, "r c2"]:
    """Channels filled up with zeros to whole blocks."""
    missing = -rows.shape[1] % block
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()


def array(x: Tensor | None, halved: bool = False) -> Array:
    """A tensor as C takes it, which has to outlive the call."""
    return Array() if x is None else Array(x.data_ptr(), TYPES[x.dtype], halved)


def addend(after: Sum | None, out: Tensor) -> Addend:
    """What is added to `out`, likewise; laid out as that is."""
    if after is None:
        return Addend(Array(), 0.0, math.inf)
    halved = after.main.shape[2:] != out.shape[2:]
    assert out.shape == (*after.main.shape[:2], *(side * (1 + halved) for side in after.main.shape[2:]))
    assert after.dtype == out.dtype
    return Addend(array(after.main, halved), after.share, after.limit)
