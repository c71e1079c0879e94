"""What is no picture as pictures to look at: waveforms of signals, three slices of volumes, channels side by side."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from unitgain.data.encoder import ArrayEncoder, Encoder

SPREAD, LOUDEST = 2.5, 5.0  # standard deviations around the mean that are shown: as grey, as the height of a wave
CHANNELS = 4  # shown, at most
WAVE = (48, 192)  # pixels of a waveform
PAPER, INK = 255, 40
LONGEST = 256  # pixels of a slice; larger ones are made smaller
SHORTEST = 48  # of its longest side; smaller ones are made larger by whole numbers, as near to it as these go


def pictures_of(values: Tensor, encoder: Encoder) -> UInt8[Tensor, "n c h w"]:
    """Arrays `[N, C, *size]` as pictures on the CPU; 8-bit images of 1 or 3 channels as they are.

    Of signals each channel is a waveform, one below the other; of volumes it is the three slices through its middle,
    across the first, the second and the third axis, side by side; of fields it is a grey picture. Grey is the mean of
    the channel over the data, black and white are 2.5 of its standard deviations off that; waves are cut at 5. At most
    4 channels are shown. What is small is made larger, up to about 48 pixels a side.

    Args:
        values: as `encoder.decode` gives them.
        encoder: knows mean and standard deviation of the data.
    """
    if not isinstance(encoder, ArrayEncoder):
        return values.cpu()
    shown = min(values.shape[1], CHANNELS)
    mean, std = (
        torch.tensor(numbers[:shown]).reshape(1, -1, *[1] * (values.ndim - 2))
        for numbers in (encoder.mean, encoder.std)
    )
    spread = LOUDEST if values.ndim == 3 else SPREAD
    level = (values[:, :shown].cpu().float() - mean) / (2 * spread * std) + 0.5  # 0 to 1
    if values.ndim == 3:
        return torch.stack([_waves(one) for one in level])
    planes = _slices(level) if values.ndim == 5 else level
    grey = (planes.clamp(0, 1) * 255).round().to(torch.uint8)
    times = max(SHORTEST // max(values.shape[2:]), 1)
    grey = grey.repeat_interleave(times, -1).repeat_interleave(times, -2)
    longest = max(grey.shape[-2:])
    if longest > LONGEST:
        size = [max(round(side * LONGEST / longest), 1) for side in grey.shape[-2:]]
        grey = functional.interpolate(grey.float(), size, mode="area").round().to(torch.uint8)
    return torch.cat(list(grey.split(1, 1)), -1)


def _waves(level: Tensor) -> UInt8[Tensor, "1 h w"]:
    """Each channel `[C, L]` as a waveform: a column of pixels from the least to the largest value of its samples."""
    height, width = WAVE
    columns = min(width, level.shape[1])
    edges = torch.linspace(0, level.shape[1], columns + 1).round().long()
    rows = torch.arange(height)[:, None]
    pictures = []
    for channel in level:
        parts = [channel[edges[at] : max(int(edges[at + 1]) + 1, int(edges[at]) + 2)] for at in range(columns)]
        places = [(1 - part.clamp(0, 1)) * (height - 1) for part in parts]
        top = torch.stack([place.min().floor() for place in places])
        bottom = torch.stack([place.max().ceil() for place in places])
        pictures.append(torch.where((rows >= top) & (rows <= bottom), INK, PAPER).to(torch.uint8))
    picture = torch.cat(pictures)
    return picture.repeat_interleave(max(width // columns, 1), 1)[None]


def _slices(level: Tensor) -> Tensor:
    """The slices through the middle of volumes `[N, C, D, H, W]`, side by side: `[N, C, max(D, H), 2 W + H]`."""
    depth, height, width = (side // 2 for side in level.shape[2:])
    planes = [level[:, :, depth], level[:, :, :, height], level[..., width]]
    tall = max(plane.shape[2] for plane in planes)
    return torch.cat([functional.pad(plane, (0, 0, 0, tall - plane.shape[2])) for plane in planes], -1)
