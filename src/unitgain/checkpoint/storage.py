"""Tensors and arrays out of the records of a pickle: sizes, strides and bytes, each checked against the others.

A pickled tensor is a call of `torch._utils._rebuild_tensor_v2` over a storage, and a storage is a call of
`torch.storage._load_from_bytes` with what `torch.save` once wrote, in its first format: five pickles (a magic number, a
version, the byte order, the storage by a persistent id, a list of keys), the number of values as 8 bytes, and the
values. That function would run whatever those pickles ask for; here they go through the same reader as the file.
"""

import codecs
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint.pickles import PERSISTENT, read
from unitgain.checkpoint.records import Call, Name, Refused, Text

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
}
LOAD = "torch.storage._load_from_bytes"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ENCODE = "_codecs.encode"
_NUMPY = ("numpy.core", "numpy._core")  # before and after NumPy 2
RECONSTRUCT = tuple(f"{core}.multiarray._reconstruct" for core in _NUMPY)
SCALAR = tuple(f"{core}.multiarray.scalar" for core in _NUMPY)
BUFFER = tuple(f"{core}.numeric._frombuffer" for core in _NUMPY)
# All names that a pickled tensor or array may have in it.
NAMES = frozenset({LOAD, TENSOR, PARAMETER, ENCODE, "numpy.ndarray", "numpy.dtype", *RECONSTRUCT, *SCALAR, *BUFFER})
# What else files have in them: containers, and dtypes and devices, which nothing here reads.
PLAIN = frozenset({"collections.OrderedDict", "dnnlib.util.EasyDict", "builtins.set", "__builtin__.set"}) | {
    f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "device", "Size")
}
DTYPES = frozenset({"f2", "f4", "f8", "i4", "i8"})
PLACES = re.compile(r"cpu|cuda(:\d{1,3})?", re.ASCII)  # where a storage was; here it comes to the CPU
MAX_DIMS = 8
PREAMBLE = 2048  # bytes that each of the pickles before the values may have; they have some 200 together
CHUNK = 2**20


class Reader:
    """Reads the tensors and arrays of one file.

    Args:
        limit: bytes that may be read in all. No file has more than its own size, unless it offers some twice.
        storages: the bytes of a storage by its key, where they lie beside the pickle; None where they are in it.
    """

    def __init__(self, limit: int, storages: Callable[[str], memoryview] | None = None) -> None:
        self._left, self._storages = limit, storages

    def tensor(self, record: object) -> Tensor:
        """The tensor or parameter that a record describes, contiguous, in memory of its own; a floating dtype.

        Raises:
            Refused: if it is no tensor, its bytes are not those of a storage, or it does not lie within them, each
                value once.
        """
        call = record
        if isinstance(call, Call) and call.name == PARAMETER:
            if len(call.args) != 3 or call.state is not None:
                raise _refusal(call, "a parameter with other arguments than a tensor, requires_grad and hooks")
            call = call.args[0]
        if not isinstance(call, Call) or call.name != TENSOR:
            raise Refused(f"{describe(record)} where a tensor should be")
        args: list[Any] = list(call.args)
        if not 6 <= len(args) <= 7 or call.state is not None:
            raise _refusal(call, f"a tensor with {len(args)} arguments instead of 6 or 7")
        if args[6:] not in ([], [None], [{}]):
            raise _refusal(call, "a tensor with metadata of its own")
        storage, offset, size, stride = args[:4]
        dtype, data = self._storage(storage)
        count = len(data) // dtype.itemsize
        shape, steps = _sizes(call, size), _sizes(call, stride)
        if len(shape) > MAX_DIMS or len(shape) != len(steps) or not _is_whole(offset):
            raise _refusal(call, f"a tensor of {len(shape)} sizes and {len(steps)} strides")
        if not _within(shape, steps, offset, count):
            where = f"shape {shape}, strides {steps}, offset {offset}"
            raise _refusal(call, f"a tensor of {where} does not lie in its storage of {count:,} values, each once")
        if self._storages is not None:  # which tensors may share
            self._pay(call, math.prod(shape) * dtype.itemsize)
        return _gather(data, dtype, shape, steps, offset)

    def array(self, record: object) -> NDArray[np.float64]:
        """The NumPy array, number or list of numbers that a record describes, as float64.

        Raises:
            Refused: if it is none, of another dtype than real numbers, or its bytes do not fill its shape.
        """
        numbers = cast(Sequence[Any], record if isinstance(record, list | tuple) else [record])
        if all(type(number) in (int, float) and abs(number) < 2**62 for number in numbers):
            return np.array(record, dtype=np.float64)
        if isinstance(record, Call) and record.name in SCALAR and len(record.args) == 2:
            return self._array(record, record.args[1], record.args[0], (), "C")
        if isinstance(record, Call) and record.name in BUFFER and len(record.args) == 4:
            data, dtype, shape, order = record.args
            return self._array(record, data, dtype, _sizes(record, shape), order)
        if isinstance(record, Call) and record.name in RECONSTRUCT:
            state = record.state
            if type(state) is not tuple or len(state) != 5:
                raise _refusal(record, "an array without its five values of state")
            _, shape, dtype, fortran, data = state
            return self._array(record, data, dtype, _sizes(record, shape), "F" if fortran is True else "C")
        raise Refused(f"{describe(record)} where an array of numbers should be")

    def _storage(self, record: object) -> tuple[torch.dtype, memoryview]:
        if self._storages is not None:
            dtype, key, count = _storage_id(record, 5)
            data = self._storages(key)
            if len(data) != count * dtype.itemsize:
                raise Refused(f"storage {key[:64]!a} should have {count:,} values of {dtype}, in {len(data):,} bytes")
            return dtype, data
        if not isinstance(record, Call) or record.name != LOAD or len(record.args) != 1 or record.state is not None:
            raise Refused(f"{describe(record)} where the storage of a tensor should be")
        data = self._bytes(record, record.args[0])
        try:
            return _saved(data)
        except Refused as error:
            raise _refusal(record, f"in the bytes of a storage: {error}") from None

    def _array(
        self, record: Call, data: object, dtype: object, shape: tuple[int, ...], order: object
    ) -> NDArray[np.float64]:
        given = self._bytes(record, data)
        code, byte_order = _dtype(record, dtype)
        width = int(code[1])
        if order not in ("C", "F") or len(shape) > MAX_DIMS or len(given) != math.prod(shape) * width or not given:
            raise _refusal(record, f"an array of shape {shape} and dtype {code} in {len(given):,} bytes")
        values = np.frombuffer(given, dtype=f"{byte_order}{code}").reshape(shape, order="F" if order == "F" else "C")
        return values.astype(np.float64, order="C")

    def _bytes(self, record: Call, value: object) -> memoryview:
        """Bytes, or text that protocol 2 wrote for bytes: one character per byte."""
        if isinstance(value, memoryview):
            self._pay(record, len(value))
            return value
        if not isinstance(value, Call) or value.name != ENCODE or len(value.args) != 2 or value.args[1] != "latin1":
            raise _refusal(record, "arguments that are not bytes")
        text = value.args[0]
        try:
            if isinstance(text, str):
                self._pay(record, len(text))
                return memoryview(text.encode("latin1"))
            if isinstance(text, Text):
                self._pay(record, len(text.data))
                return _latin1(text.data)
        except UnicodeError:
            raise _refusal(value, "text that stands for no bytes") from None
        raise _refusal(value, "arguments that are not text")

    def _pay(self, record: Call, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise _refusal(record, "its tensors take more bytes than the file has: some are offered twice")


def describe(record: object) -> str:
    """A record in a few words, for errors."""
    if isinstance(record, Call):
        return f"byte {record.at:,}: a call of {record.name}"
    if isinstance(record, str):
        return f"{record[:64]!a}"
    return f"the name {record.path}" if isinstance(record, Name) else f"a value of type {type(record).__name__.lower()}"


def _saved(data: memoryview) -> tuple[torch.dtype, memoryview]:
    position, found = 0, []
    for persistent in (False, False, False, True, False):
        value, end = read(
            data[: position + PREAMBLE], STORAGES, start=position, persistent=persistent, budget=32 * PREAMBLE
        )
        found.append(value)
        position = end
    magic, version, system, storage, keys = found
    if magic != MAGIC or version != VERSION:
        raise Refused("it does not begin as the first format of torch.save does")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("it was not written in little-endian order")
    dtype, key, count = _storage_id(storage, 6)
    if keys != [key]:
        raise Refused("it holds other storages than its own")
    (written,) = struct.unpack("<Q", data[position : position + 8]) if len(data) >= position + 8 else (-1,)
    nbytes = count * dtype.itemsize
    if written != count or len(data) - position - 8 != nbytes:
        raise Refused(
            f"it declares {count:,} values of {dtype}, then {written:,}, and {max(len(data) - position - 8, 0):,} "
            f"bytes follow instead of {nbytes:,}"
        )
    return dtype, data[position + 8 :]


def _storage_id(record: object, length: int) -> tuple[torch.dtype, str, int]:
    if isinstance(record, Call) and record.name == PERSISTENT:
        (parts,) = record.args
        if type(parts) is tuple and len(parts) == length:
            word, kind, key, place, count, view = cast(tuple[Any, ...], (*parts, None))[:6]
            known = word == "storage" and isinstance(kind, Name) and kind.path in STORAGES and view is None
            placed = type(place) is str and PLACES.fullmatch(place)
            if known and placed and type(key) is str and _is_whole(count):
                return STORAGES[kind.path], key, count
    raise Refused("it holds something else than one storage")


def _latin1(data: memoryview) -> memoryview:
    """UTF-8 to one byte per character, without all of it in memory as text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    result = bytearray()
    for start in range(0, len(data), CHUNK):
        result += decoder.decode(data[start : start + CHUNK], final=start + CHUNK >= len(data)).encode("latin1")
    return memoryview(result)


def _gather(
    data: memoryview, dtype: torch.dtype, shape: tuple[int, ...], steps: tuple[int, ...], offset: int
) -> Tensor:
    """Strided values as a tensor; NumPy reads from any address, torch only from multiples of the size of a value."""
    width = dtype.itemsize
    values = np.frombuffer(data, dtype=f"u{width}")[offset:]
    strides = [step * width if size > 1 else 0 for step, size in zip(steps, shape, strict=True)]
    view = np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)
    result = torch.empty(shape, dtype=dtype)
    np.copyto(result.reshape(-1).view(torch.uint8).numpy().view(f"u{width}").reshape(shape), view)
    return result


def _dtype(record: Call, dtype: object) -> tuple[str, str]:
    if isinstance(dtype, Call) and dtype.name == "numpy.dtype" and dtype.args and type(dtype.args[0]) is str:
        code, state = dtype.args[0], dtype.state
        if code in DTYPES and type(state) is tuple and len(state) >= 2 and state[0] == 3 and state[1] in ("<", ">"):
            return code, state[1]
    raise _refusal(record, f"an array of a dtype that is none of {', '.join(sorted(DTYPES))}")


def _sizes(record: Call, value: object) -> tuple[int, ...]:
    if type(value) is not tuple or not all(_is_whole(size) for size in value):
        raise _refusal(record, f"sizes or strides that are {describe(value)}, not whole numbers")
    return value


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _within(shape: tuple[int, ...], steps: tuple[int, ...], offset: int, count: int) -> bool:
    """Whether all values lie in a storage of `count`, none of them at the same place as another."""
    if 0 in shape:
        return False
    reach = 1  # of the dimensions with smaller steps
    for step, size in sorted((step, size) for step, size in zip(steps, shape, strict=True) if size > 1):
        if step < reach:
            return False
        reach = (size - 1) * step + reach
    return offset + reach <= count


def _refusal(record: Call, why: str) -> Refused:
    return Refused(f"byte {record.at:,}: {why}; nothing was executed")
