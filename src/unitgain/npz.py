"""NumPy's files from elsewhere, of which nothing is believed (`unitgain.trust`): arrays of numbers, never objects."""

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.text import printable
from unitgain.trust import LimitError, Limits, open_regular, read_member

NPY_HEADER = 2**17  # bytes of an NPY file that hold its header: NumPy reads none of over 10,000
UNPACKED = 2**29  # bytes that any .npz file may take: a mean and a covariance of 2048 features take 34 MB
LOOSENED = 4  # times its own size that a larger one, with features of all images, may take


def read_npy(data: bytes | memoryview, empty: bool = False) -> NDArray[Any]:
    """The array in the bytes of an NPY file, without a copy: exactly as long as its header says.

    Args:
        data: the bytes.
        empty: whether it may have no values.

    Raises:
        ValueError: if it is anything else.
    """
    stream = io.BytesIO(data[:NPY_HEADER])
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        size = math.prod(shape) * dtype.itemsize
    except Exception as error:  # of whatever Python's own parser makes of it
        raise ValueError("its header cannot be read") from error
    start = stream.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or size != len(data) - start:
        what = "objects are not read" if dtype.hasobject else f"{size:,} bytes, where {len(data) - start:,} are"
        raise ValueError(f"its header promises {dtype} {shape}: {what}")
    if not size:
        if not empty or not dtype.itemsize:
            raise ValueError(f"its header says {dtype} {shape}, which holds no values: at least one is expected")
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def npz_names(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in an open `.npz` file."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npz_member(archive: zipfile.ZipFile, name: str, limits: Limits) -> NDArray[Any]:
    """An array of an open `.npz` file, by its name.

    Raises:
        KeyError: if there is none of that name.
        ValueError: as in `read_npy`; and whatever else `read_member` raises.
    """
    return read_npy(read_member(archive, f"{name}.npy", limits))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file by name, none of objects, if they take little more than it does.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is damaged or something else, or unpacks to more than `UNPACKED` bytes and `LOOSENED` times
            its own size.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            limit = max(UNPACKED, LOOSENED * os.fstat(file.fileno()).st_size)
            total = sum(member.file_size for member in archive.infolist())
            if total > limit:
                raise LimitError(f"it takes {total:,} bytes unpacked, over {limit:,}: if that is right, use np.savez")
            limits = Limits(max_item_bytes=limit)
            return {name: read_npz_member(archive, name, limits) for name in npz_names(archive)}
    except (FileNotFoundError, MemoryError, ValueError):
        raise
    except Exception as error:  # zipfile and its decompressors raise nearly anything
        raise ValueError(f"it is no .npz file, or damaged: {printable(error) or type(error).__name__}") from error
