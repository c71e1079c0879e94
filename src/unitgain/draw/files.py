"""Samples as files: PNG of pictures, WAV of audio, NIfTI of volumes, NPY of all other arrays; and back."""

import gzip
import io
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitgain.data.encoder import ArrayEncoder, encoder_from_dict
from unitgain.data.fit import decode as decode_picture
from unitgain.data.images import from_image, png, to_image
from unitgain.data.media import npy, read_raw
from unitgain.data.numbers import Numbers
from unitgain.extras import require
from unitgain.trust import DEFAULT_LIMITS

LOUDEST = 32768  # of 16 bits, which audio is read with, too: what was whole comes back to the bit
MOST_WAV = 65535  # channels


@dataclass(frozen=True)
class FileKind:
    """How a sample is written.

    Attributes:
        suffix: of the name.
        encode: the bytes of a file, of a sample `[C, *size]` as `decoder` gives it.
        decode: the inverse; of audio to 16 bits.
    """

    suffix: str
    encode: Callable[[Tensor], bytes]
    decode: Callable[[bytes], Tensor]


def file_kind(encoder: Mapping[str, Any] | None) -> FileKind:
    """The kind of file for what a network draws: that of its data; the same values give the same bytes.

    WAV has 16 bits, with what is louder than 1 cut; NIfTI is packed by gzip, with the spacing of the data; NPY is
    `[C, *size]`. All have the numbers of the data, standardized back.

    Args:
        encoder: of the network, as a snapshot's header has it.

    Raises:
        ImportError: if these are volumes and nibabel is missing.
    """
    opened = encoder_from_dict(encoder or {})
    if not isinstance(opened, ArrayEncoder):
        return FileKind(
            ".png", lambda one: png(to_image(one)), lambda data: from_image(decode_picture(data, DEFAULT_LIMITS))
        )
    numbers, channels = opened.numbers, len(opened.mean)
    if numbers.media == "audio" and channels <= MOST_WAV:
        return FileKind(".wav", lambda one: _wav(one, numbers.rate), _audio)
    if numbers.media == "volume":
        require("nibabel", extra="nifti")
        return FileKind(".nii.gz", lambda one: _nifti(one, numbers), lambda data: _volume(data, channels))
    return FileKind(".npy", lambda one: npy(one.cpu().numpy()), lambda data: _array(data, ".npy"))


def _wav(samples: Tensor, rate: int) -> bytes:
    whole = (samples.cpu().double() * LOUDEST).round().clamp(-LOUDEST, LOUDEST - 1).numpy().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((len(whole), 2, rate, 0, "NONE", ""))
        file.writeframes(whole.T.tobytes())
    return buffer.getvalue()


def _audio(data: bytes) -> Tensor:
    with wave.open(io.BytesIO(data)) as file:
        whole = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    return torch.from_numpy(whole.T.astype(np.float32) / LOUDEST)


def _nifti(volume: Tensor, numbers: Numbers) -> bytes:
    nibabel = require("nibabel", extra="nifti")
    array = volume.cpu().numpy()
    array = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1).reshape(*_three(array.shape[1:]), len(array))
    edges = [*numbers.spacing, *[1.0] * 3][:3]
    image = nibabel.Nifti1Image(array, np.diag([*edges, 1.0]))
    return gzip.compress(image.to_bytes(), mtime=0)


def _volume(data: bytes, channels: int) -> Tensor:
    array = _array(data, ".nii.gz")
    array = array if channels == 1 else array.movedim(-1, 0)
    return array[None] if channels == 1 else array


def _array(data: bytes, suffix: str) -> Tensor:
    raw = read_raw(data, suffix, DEFAULT_LIMITS)
    assert raw is not None
    return torch.from_numpy(np.array(raw.array, raw.array.dtype.newbyteorder("="), order="C"))


def _three(size: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of a volume: channels are the fourth axis."""
    return (*size, *[1] * (3 - len(size)))
