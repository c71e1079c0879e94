"""What the numbers of a prepared array are, and as which kind of file they are written again."""

import math
from dataclasses import dataclass
from typing import Literal

ArrayType = Literal["float32", "int16", "uint8"]
Media = Literal["array", "audio", "volume"]
FASTEST = 10**8  # samples per second
MOST_CHANNELS = 2**16


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers as they are stored: uint8 and signed whole ones of up to 16 bits as they are, all others as float32.

    Args:
        dtype: of the numbers.
        media: what files they came from: arrays, audio, or volumes (NIfTI).
        rate: samples per second of audio.
        spacing: edges of a voxel of a volume, in millimetres.

    Raises:
        ValueError: if that cannot be.
    """

    dtype: ArrayType = "float32"
    media: Media = "array"
    rate: int = 0
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        known = all(math.isfinite(edge) and edge > 0 for edge in self.spacing) and len(self.spacing) <= 3
        if not 0 <= self.rate <= FASTEST or (self.rate > 0) != (self.media == "audio") or not known:
            raise ValueError(f"{self.media} of rate {self.rate} and spacing {self.spacing}: cannot be")
