"""Files of arrays, audio and volumes as arrays: by libraries that are there, and checked before memory is taken.

Nothing in them is executed, no link of theirs is followed, and what they say of their size is compared with `Limits`
first.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unitgain.data.fit import ImageError
from unitgain.data.numbers import Media
from unitgain.data.settings import Layout
from unitgain.extras import require
from unitgain.npz import npz_names, read_npy, read_npz_member
from unitgain.text import one_line, printable
from unitgain.trust import Limits

NPY, ZIP, HDF5, GZIP = b"\x93NUMPY", b"PK", b"\x89HDF\r\n\x1a\n", b"\x1f\x8b"
ARRAYS, AUDIO, VOLUMES = (".npz", ".h5", ".hdf5"), (".wav", ".flac", ".ogg"), (".nii", ".nii.gz")
NIFTI_HEADER = 540  # bytes, at most
ARRAY_NAMES = ("array", "arrays", "image", "images", "data", "x", "arr_0")


@dataclass(frozen=True)
class Raw:
    """An array as its file has it.

    Attributes:
        array: of numbers, or of anything else.
        layout: of its axes, where the format says it.
        media: what kind of file it is.
        rate: samples per second of audio.
        frames: samples of audio in its file, of which `array` may have the first.
        spacing: edges of a voxel in millimetres.
    """

    array: NDArray[Any]
    layout: Layout | None = None
    media: Media = "array"
    rate: int = 0
    frames: int = 0
    spacing: tuple[float, ...] = ()


def is_array(name: str) -> bool:
    """Whether a name is that of a file of arrays, audio or a volume, but for NPY, which pictures may be too."""
    return name.lower().endswith((*ARRAYS, *AUDIO, *VOLUMES))


def read_raw(
    data: bytes,
    key: str,
    limits: Limits,
    column: str | None = None,
    most: int | None = None,
    empty: bool = False,
) -> Raw | None:
    """The array in the bytes of a file; None if it is no such file.

    Args:
        data: the bytes.
        key: name of the file.
        limits: what the array may take.
        column: name of the array, where a file may hold several.
        most: samples that are wanted of audio, from the start; all by default.
        empty: whether an NPY file may hold an array of no values.

    Raises:
        ImageError: if it cannot be read, or takes more than `limits` allow.
        ImportError: if a package is missing.
    """
    name = key.lower()
    if not data and is_array(name):
        raise ImageError("is empty")
    try:
        if data[:6] == NPY:
            return Raw(read_npy(data, empty))
        if data.startswith(ZIP) and name.endswith(".npz"):
            return Raw(_from_npz(data, column, limits))
        if data.startswith(HDF5):
            return Raw(_from_hdf5(data, column, limits))
        if (data[:4], data[8:12]) == (b"RIFF", b"WAVE") or data[:4] in (b"fLaC", b"OggS"):
            return _audio(data, limits, most)
        if name.endswith(VOLUMES):
            return _volume(data, limits)
    except (ImageError, ImportError):
        raise
    except ValueError as error:
        what = "is no readable NPY file: " if data[:6] == NPY else "cannot be read: "
        raise ImageError(f"{what}{printable(error)}") from error
    except Exception as error:  # of whatever the libraries make of it
        raise ImageError(f"cannot be read: {printable(error) or type(error).__name__}") from error
    if is_array(name):
        raise ImageError("is not what its name says: no NPZ, HDF5, WAV, FLAC, Ogg or NIfTI file")
    return None


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an NPY file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def choose_array(names: Sequence[str], wanted: str | None, usual: Sequence[str] = ARRAY_NAMES) -> str:
    """The name of the array that is meant: the one that is wanted, the only one, or the first usual one.

    Raises:
        ImageError: if there is none such.
    """
    listed = one_line(", ".join(names[:10]))
    if wanted is not None:
        if wanted in names:
            return wanted
        raise ImageError(f"holds no array {wanted!r}, but {listed or 'none'}: choose one with --image-column")
    if not names:
        raise ImageError("holds no array")
    lower = {name.lower(): name for name in reversed(names)}
    found = names[0] if len(names) == 1 else next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise ImageError(f"holds several arrays, {listed}: choose one with --image-column")
    return found


def _from_npz(data: bytes, column: str | None, limits: Limits) -> NDArray[Any]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    return read_npz_member(archive, choose_array(npz_names(archive), column), limits)


def _from_hdf5(data: bytes, column: str | None, limits: Limits) -> NDArray[Any]:
    h5py = require("h5py", extra="hdf5")
    with h5py.File(io.BytesIO(data), "r") as file:
        dataset = hdf5_array(file, choose_array(hdf5_names(file), column), limits)
        limits.check_item("its array, unpacked,", dataset.size * dataset.dtype.itemsize)
        return dataset[()]


def hdf5_names(file: Any) -> list[str]:
    """Names of the arrays at the root of an open HDF5 file, without those that links lead to."""
    h5py = require("h5py", extra="hdf5")
    own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    return [name for name in own if file.get(name, getclass=True) is h5py.Dataset]


def hdf5_array(file: Any, name: str, limits: Limits, text: bool = False) -> Any:
    """An array at the root of an open HDF5 file, none of whose parts (chunks), which are unpacked whole, is too large.

    Args:
        file: it.
        name: of the array.
        limits: what a part may take, unpacked.
        text: whether it may hold text instead of numbers.

    Raises:
        ImageError: if it is none, holds something else, or its values lie in other files.
        LimitError: if a part takes more than `limits` allow.
    """
    h5py = require("h5py", extra="hdf5")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ImageError(f"holds no array {name!r} itself: links are not followed")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ImageError(f"{name!r} in it is no array")
    if dataset.external or dataset.is_virtual:
        raise ImageError(f"the values of {name!r} lie in other files, which are not opened")
    if dataset.dtype.kind not in "biuf" and not (text and h5py.check_string_dtype(dataset.dtype)):
        raise ImageError(f"holds {dataset.dtype} {dataset.shape}: whole or floating numbers are expected")
    limits.check_item("a part of its array, unpacked,", math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize)
    return dataset


def _audio(data: bytes, limits: Limits, most: int | None) -> Raw:
    soundfile = require("soundfile", extra="audio")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        frames = file.frames if most is None else min(file.frames, most)
        if frames <= 0:
            raise ImageError("is empty: it holds no samples")
        limits.check_item("decoded, its samples", 4 * frames * file.channels)
        array = file.read(frames, dtype="float32", always_2d=True)
        if len(array) != frames:
            raise ImageError(f"is cut short: it holds {len(array)} of the {file.frames} samples that it promises")
        return Raw(array, "channels-last", "audio", rate=file.samplerate, frames=file.frames)


def _volume(data: bytes, limits: Limits) -> Raw:
    packed = data.startswith(GZIP)
    header = _header(zlib.decompressobj(31).decompress(data, NIFTI_HEADER) if packed else data)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    size, start = math.prod(shape) * dtype.itemsize, max(int(header["vox_offset"]), len(header.binaryblock) + 4)
    limits.check_item("its array, unpacked,", 2 * size)  # scaled as float32, too
    if packed:
        limits.check_item("what is before its array, unpacked,", start)
        data = zlib.decompressobj(31).decompress(data, max(start + size, 1))  # and nothing of what follows
    if dtype.kind not in "iuf" or not 0 < size <= len(data) - start:
        raise ImageError(f"its header promises {dtype} {shape}: {size:,} bytes, where {len(data) - start:,} are")
    array = np.frombuffer(data, dtype, math.prod(shape), offset=start).reshape(shape, order="F")
    slope, offset = header.get_slope_inter()
    if slope is not None and (slope, offset) != (1, 0):
        array = array.astype(np.float64) * slope + (offset or 0)
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 4:
        raise ImageError(f"has {array.ndim} dimensions: one to three, and one more for channels")
    edges = tuple(round(float(edge), 6) for edge in header.get_zooms()[: min(array.ndim, 3)])
    known = all(math.isfinite(edge) and edge > 0 for edge in edges)
    layout: Layout = "channels-last" if array.ndim == 4 else "no-channels"
    return Raw(array, layout, "volume", spacing=edges if known else ())


def _header(data: bytes) -> Any:
    """The header that the bytes of a volume begin with, without the extensions behind it.

    Raises:
        ImageError: if it is no header of NIfTI in one file.
    """
    nibabel = require("nibabel", extra="nifti")
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if kind.may_contain_header(data[:NIFTI_HEADER]):
            header = kind.from_fileobj(io.BytesIO(data[: kind.sizeof_hdr]))
            if header["magic"].item() == kind.single_magic:
                return header
    raise ImageError("is no NIfTI volume in one file (.nii, .nii.gz)")
