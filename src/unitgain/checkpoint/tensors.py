"""Writing safetensors files whose bytes are a function of their contents.

The library's own writer puts metadata in an order that changes from run to run; the same run must give the same file.
Format: 8 bytes of header size (little-endian), a JSON header padded with spaces, then the tensors.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file and flush it to the disk.

    Tensors are stored by size of their element, largest first, then by name, so that each is aligned.

    Args:
        path: the file; not written atomically, so give a temporary name.
        tensors: any devices and strides; the dtypes in `CODES`.
        metadata: text by name.

    Raises:
        ValueError: if a dtype has no code in the format.
        OSError: if it cannot be written.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise ValueError(f"tensor {name} has dtype {tensor.dtype}, which safetensors files do not hold here")
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        shape = list(tensors[name].shape)
        header[name] = {"dtype": CODES[tensors[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(raw_bytes(tensors[name]))
        file.flush()
        os.fsync(file.fileno())


def raw_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor as bytes, row by row; a view where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
