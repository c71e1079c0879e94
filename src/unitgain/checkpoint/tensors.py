"""The layer of safetensors files: headers read with suspicion and written the same every time, bytes that are mapped.

Format: 8 bytes of header size (little-endian), a JSON header padded with spaces, then the tensors without gaps. The
library's own writer wants all tensors at once, and puts metadata in an order that changes from run to run.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitgain.text import printable
from unitgain.trust import open_regular, parse_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
METADATA = "__metadata__"  # the one name that no tensor has
MAX_TENSORS = 2**15  # thirty times those of the largest network here
MAX_HEADER = 2**24  # bytes; that of a network of 1,000 tensors has a hundredth of them
MAX_DIMS = 16
PAGE = 4096  # bytes that a checksum weighs alike

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        path: file.
        offset: of its first byte in the file.
        dtype: of its values.
        shape: of the tensor.
        sum: checksum of its bytes, as `checksum` computes it; None where nobody has said it.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    sum: int | None = None

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.count * self.dtype.itemsize

    def real(self) -> "Entry":
        """The same bytes as real numbers: complex ones as pairs."""
        if not self.dtype.is_complex:
            return self
        return replace(self, dtype=self.dtype.to_real(), shape=(*self.shape, 2))


def checksum(data: Tensor, first: int = 0) -> int:
    """Checksum of bytes that begin at page number `first` of a tensor: those of its parts add up to that of the whole.

    Bytes are taken as 64-bit words, the last filled up with zeros; the words of page k (4096 bytes) count 2k + 1 times;
    the sum is taken modulo 2^64. Any one damaged word is noticed, and pages in the wrong place; it costs what reading
    costs, on any machine. It is no protection against people.

    Args:
        data: uint8 `[n]`.
        first: number of the page that `data` begins with.
    """
    data = data.clone() if data.storage_offset() % 8 else data
    whole = data.numel() // PAGE * PAGE
    pages = data[:whole].view(torch.int64).view(-1, PAGE // 8).sum(1)
    total = int((pages * torch.arange(2 * first + 1, 2 * (first + len(pages)) + 1, 2)).sum())
    if len(rest := data[whole:]):
        words = torch.cat([rest, rest.new_zeros(-len(rest) % 8)]).view(torch.int64)
        total += int(words.sum()) * (2 * (first + len(pages)) + 1)
    return total % 2**64


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The header of a safetensors file as its JSON has it, and its tensors, which are not read.

    Raises:
        FileNotFoundError: if there is no file.
        OSError: if it is no ordinary file.
        ValueError: if it is no safetensors file, is cut short, has a name twice, or its tensors overlap or leave gaps.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError("it begins with no header of a safetensors file, or was cut short")
        text = file.read(length)
    header = parse_json(text, "its header", unique=True)
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ValueError(f"its header is no object of JSON with at most {MAX_TENSORS:,} tensors")
    entries = {name: _entry(path, 8 + length, name, value) for name, value in header.items() if name != METADATA}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != end:
            raise ValueError(f"tensor {printable(name)} overlaps the one before it, or leaves a gap")
        end += entry.nbytes
    if end != size:
        raise ValueError(f"it should have {end:,} bytes, but has {size:,}: it was cut short or damaged")
    return header, entries


def header_bytes(metadata: Mapping[str, str], tensors: Layout) -> bytes:
    """The header of a file whose tensors lie in the given order, without gaps."""
    header = {**({METADATA: dict(metadata)} if metadata else {}), **places(tensors)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(tensors) >= MAX_TENSORS or len(text) > MAX_HEADER:
        raise ValueError(f"{len(tensors):,} tensors with names of {len(text):,} bytes are more than a file holds here")
    return struct.pack("<Q", len(text)) + text


def places(tensors: Layout) -> dict[str, Any]:
    """What the header says of tensors that lie in the given order, without gaps."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        if dtype not in CODES or len(shape) > MAX_DIMS or name == METADATA:
            raise ValueError(
                f"tensor {printable(name)[:200]} has dtype {dtype} and {len(shape)} dimensions, which safetensors "
                "files do not hold here"
            )
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    return header


def aligned(tensors: Layout) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The same in the order of a file: widest values first, so that each tensor is aligned, then by name."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file and flush it to the disk.

    Args:
        path: the file; not written atomically, so give a temporary name.
        tensors: any devices and strides; the dtypes in `CODES`.
        metadata: text by name.

    Raises:
        ValueError: if a dtype has no code in the format.
        OSError: if it cannot be written.
    """
    layout = aligned({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    header = header_bytes({key: metadata[key] for key in sorted(metadata)}, layout)
    with open(path, "wb") as file:
        file.write(header)
        for name in layout:
            file.write(raw_bytes(tensors[name]).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def raw_bytes(tensor: Tensor) -> Tensor:
    """The elements of a tensor as uint8 `[n]`, row by row; a view where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def map_file(path: Path, end: int) -> Tensor:
    """The first `end` bytes of a file, uint8; mapped, so that nothing is in memory but what the system keeps of it.

    Raises:
        ValueError: if it has fewer bytes.
        OSError: if it cannot be opened.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < end:
            raise ValueError(f"{path} was cut short after it was opened: fetch or write it again")
        if not end:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def tensor_at(data: Tensor, entry: Entry) -> Tensor:
    """A tensor of a mapped file; in place where it is aligned.

    Raises:
        ValueError, RuntimeError: if torch has no tensors of this shape.
    """
    part = data[entry.offset : entry.offset + entry.nbytes]
    if entry.offset % entry.dtype.itemsize:
        part = part.clone()
    return part.view(entry.dtype).reshape(entry.shape)


def _entry(path: Path, base: int, name: str, value: Any) -> Entry:
    about = f"tensor {printable(name)[:200]}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{about} is not described by dtype, shape and data_offsets alone")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"{about} is of dtype {printable(value['dtype'])[:50]}, which is not read here")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMS or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{about} has sizes or offsets that are no lists of whole numbers")
    entry = Entry(path, base + offsets[0], dtype, tuple(shape))
    if offsets[1] - offsets[0] != entry.nbytes:
        raise ValueError(f"{about} of {entry.nbytes:,} bytes has offsets {offsets[0]:,} to {offsets[1]:,}")
    return entry


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**62 for size in value)
